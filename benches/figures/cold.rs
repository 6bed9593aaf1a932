//! What the way through roadstead adds to a blob that nobody has asked for before.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::{Instant, timeout};

use crate::client::{Client, PATIENCE, request};
use crate::content::Content;
use crate::origin::{Origin, blob_path};
use crate::server::{self, Cpu, Server};
use crate::stats::{median, millis, quantile};

const FIRST_BYTES: u64 = 50;
const ROUNDS: u64 = 10;
const SMALL: u64 = 1 << 20;
const LARGE: u64 = 256 << 20;

/// Bytes per second of the limited origin.
const RATE: u64 = 300_000_000;

/// From the upstream's first body byte to the client's.
pub(crate) async fn first_byte() -> anyhow::Result<()> {
    let folder = server::folder()?;
    let origin = Origin::start().await?;
    let server = server::roadstead(folder.path(), origin.address).await?;
    let mut waits = Vec::new();
    for salt in 0..FIRST_BYTES {
        let blob = Content::blob(salt, SMALL);
        origin.add_blob(&blob);
        let mut client = Client::connect(server.address, 64 << 10).await?;
        let reply = timeout(PATIENCE, client.get(&request(&blob_path(&blob)), |_| ())).await??;
        waits.push(reply.first_byte - origin.first_byte().context("the origin was not asked")?);
    }
    ensure!(origin.blob_gets() == FIRST_BYTES, "{} downloads", origin.blob_gets());
    println!("first byte: {FIRST_BYTES} cold blobs of 1 MiB, after the upstream's own first byte");
    println!(
        "  median {} (required: 5 ms), p90 {}",
        millis(median(&waits)),
        millis(quantile(&waits, 0.9))
    );
    Ok(())
}

/// A whole cold blob against a direct download, from a limited origin and from one as fast as it
/// can.
pub(crate) async fn whole() -> anyhow::Result<()> {
    let folder = server::folder()?;
    let origin = Origin::start().await?;
    let server = server::roadstead(folder.path(), origin.address).await?;
    println!("cold: {ROUNDS} rounds, blobs of 256 MiB, directly and through roadstead in turn");
    origin.limit(RATE);
    rounds(&origin, &server, 1_000).await?.print("origin at 300 MB/s (required: 1.05)");
    origin.limit(0);
    rounds(&origin, &server, 2_000).await?.print("origin without limit (aim: 1.25)");
    Ok(())
}

#[derive(Debug, Default)]
struct Rounds {
    direct: Vec<Duration>,
    through: Vec<Duration>,
    ratios: Vec<f64>,
    cpu: Cpu,
}

async fn rounds(origin: &Origin, server: &Server, salt: u64) -> anyhow::Result<Rounds> {
    let mut rounds = Rounds::default();
    let before = server.cpu()?;
    for round in 0..ROUNDS {
        let blob = Content::blob(salt + round, LARGE);
        origin.add_blob(&blob);
        let gets = origin.blob_gets();
        // Either goes first in every other round.
        let (direct, through) = if round % 2 == 0 {
            let direct = download(origin.address, &blob).await?;
            (direct, download(server.address, &blob).await?)
        } else {
            let through = download(server.address, &blob).await?;
            (download(origin.address, &blob).await?, through)
        };
        ensure!(origin.blob_gets() == gets + 2, "a cold blob must cost one download");
        rounds.direct.push(direct);
        rounds.through.push(through);
        rounds.ratios.push(through.as_secs_f64() / direct.as_secs_f64());
    }
    rounds.cpu = server.cpu()?.since(before);
    Ok(rounds)
}

async fn download(address: SocketAddr, blob: &Arc<Content>) -> anyhow::Result<Duration> {
    let mut client = Client::connect(address, 256 << 10).await?;
    let start = Instant::now();
    let reply = timeout(PATIENCE, client.get(&request(&blob_path(blob)), |_| ())).await??;
    ensure!(reply.length == blob.size, "{} bytes", reply.length);
    Ok(start.elapsed())
}

impl Rounds {
    fn print(&self, what: &str) {
        let rounds = f64::from(u32::try_from(self.ratios.len().max(1)).unwrap_or(u32::MAX));
        let each = |cpu: Duration| cpu.as_secs_f64() / rounds;
        println!("  {what}");
        println!(
            "    direct {}, through {}",
            millis(median(&self.direct)),
            millis(median(&self.through))
        );
        let [lowest, middle, highest] =
            [0.0, 0.5, 1.0].map(|share| quantile(&self.ratios, share).unwrap_or_default());
        println!("    ratio {middle:.3} (from {lowest:.3} to {highest:.3})");
        let (user, system) = (each(self.cpu.user), each(self.cpu.system));
        println!("    CPU of roadstead for one: {user:.3} s user, {system:.3} s system");
    }
}
