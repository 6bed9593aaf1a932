//! Many clients, one cold blob: one download, right bytes for all, little memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use roadstead::oci::{Algorithm, Digest, Hasher};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

use crate::client::{Client, PATIENCE, request};
use crate::content::Content;
use crate::origin::{Origin, blob_path};
use crate::server::{self, Server};

const CLIENTS: usize = 64;
const BLOB: u64 = 256 << 20;

/// The most anonymous memory above idle, in KiB.
const MEMORY: u64 = 64 << 10;

pub(crate) async fn run() -> anyhow::Result<()> {
    let folder = server::folder()?;
    let origin = Origin::start().await?;
    let blob = Content::blob(0, BLOB);
    origin.add_blob(&blob);
    let server = Arc::new(server::roadstead(folder.path(), origin.address).await?);
    let idle = server.figure("status", "RssAnon")?;
    let peak = Arc::new(AtomicU64::new(idle));
    let watching = tokio::spawn(watch(Arc::clone(&server), Arc::clone(&peak)));
    let start = Instant::now();
    let digests = timeout(2 * PATIENCE, all(&server, &blob)).await??;
    let took = start.elapsed();
    watching.abort();
    let right = digests.iter().filter(|digest| **digest == blob.digest).count();
    let above = peak.load(Ordering::Relaxed).saturating_sub(idle);
    println!("herd: {CLIENTS} clients, one cold blob of 256 MiB, {:.1} s", took.as_secs_f64());
    println!("  blob GETs upstream   {} (required: 1)", origin.blob_gets());
    println!("  right digests        {right} (required: {CLIENTS})");
    println!("  RssAnon above idle   {above} KiB at most (required: {MEMORY}; idle {idle})");
    ensure!(
        origin.blob_gets() == 1 && right == CLIENTS,
        "the herd cost more than one download, or got wrong bytes"
    );
    ensure!(above <= MEMORY, "the herd cost too much memory");
    Ok(())
}

async fn all(server: &Server, blob: &Content) -> anyhow::Result<Vec<Digest>> {
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (address, request) = (server.address, request(&blob_path(blob)));
        clients.spawn(async move {
            let mut hasher = Hasher::new(Algorithm::Sha256);
            let mut client = Client::connect(address, 256 << 10).await?;
            client.get(&request, |bytes| hasher.update(bytes)).await?;
            anyhow::Ok(hasher.finish())
        });
    }
    let mut digests = Vec::new();
    while let Some(ended) = clients.join_next().await {
        digests.push(ended??);
    }
    Ok(digests)
}

/// Keeps the largest `RssAnon` it sees.
pub(crate) async fn watch(server: Arc<Server>, peak: Arc<AtomicU64>) {
    let mut ticks = interval(Duration::from_millis(20));
    while let Ok(now) = server.figure("status", "RssAnon") {
        peak.fetch_max(now, Ordering::Relaxed);
        ticks.tick().await;
    }
}
