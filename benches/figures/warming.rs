//! A warm of many images must not slow those who pull what is cached.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::time::sleep;

use crate::content::Content;
use crate::origin::{Origin, manifest_path};
use crate::pages::{ask, fetch};
use crate::server::{self, Server};
use crate::stats::{millis, quantile};

const IMAGES: u64 = 32;
const LAYERS: u64 = 3;
const LAYER: u64 = 4 << 20;
const ROUNDS: usize = 5;

/// Bytes a second of each body: a line of some 50 MB/s in all, over which a round takes 8 s.
const RATE: u64 = 8 << 20;

/// Rounds with a warm and without take turns, so that what else the machine does meets both.
pub(crate) async fn run() -> anyhow::Result<()> {
    let origin = Origin::start().await?;
    origin.limit(RATE);
    let cached = Content::manifest(&[Content::blob(0, 1000)]);
    origin.add_manifest(&cached);
    let path = manifest_path(cached.digest.as_str());
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let folder = server::folder()?;
        let images = images(&origin, round);
        let server = server::roadstead(folder.path(), origin.address).await?;
        fetch(server.address, &path).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let asking = ask(server.address, &path, &stop);
        sleep(Duration::from_secs(8)).await;
        stop.store(true, Ordering::Relaxed);
        alone.extend(waits(asking).await?);
        let stop = Arc::new(AtomicBool::new(false));
        let asking = ask(server.address, &path, &stop);
        warm(&server, folder.path(), &images).await?;
        stop.store(true, Ordering::Relaxed);
        beside.extend(waits(asking).await?);
    }
    println!("warm: {IMAGES} images of {LAYERS} layers of {LAYER} bytes, {ROUNDS} rounds");
    for (case, waits) in [("alone", &alone), ("beside a warm", &beside)] {
        let [half, most] = [0.5, 0.99].map(|share| millis(quantile(waits, share)));
        println!("  {case}: p50 {half}, p99 {most} of {} cached manifests", waits.len());
    }
    let [before, after] = [&alone, &beside].map(|waits| quantile(waits, 0.99));
    let ratio = after.context("none")?.as_secs_f64() / before.context("none")?.as_secs_f64();
    println!("  p99 moves to {ratio:.2} of what it is alone; required: at most 1.20");
    Ok(())
}

/// References of this round's images, none of which shares anything with another.
fn images(origin: &Origin, round: usize) -> Vec<String> {
    let salt = |image: u64, layer: u64| 1 + (round as u64 * IMAGES + image) * LAYERS + layer;
    let image = |nth: u64| {
        let layers: Vec<_> =
            (0..LAYERS).map(|layer| Content::blob(salt(nth, layer), LAYER)).collect();
        for layer in &layers {
            origin.add_blob(layer);
        }
        let manifest = Content::manifest(&layers);
        origin.add(manifest_path(manifest.digest.as_str()), &manifest);
        format!("origin.test/bench/app@{}", manifest.digest)
    };
    (0..IMAGES).map(image).collect()
}

async fn waits(
    asking: tokio::task::JoinSet<anyhow::Result<Vec<Duration>>>,
) -> anyhow::Result<Vec<Duration>> {
    let waits = asking.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?;
    Ok(waits.concat())
}

async fn warm(server: &Server, folder: &std::path::Path, images: &[String]) -> anyhow::Result<()> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    command.arg("warm").args(images).arg("--config").arg(folder.join("roadstead.yaml"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).env_remove("RUST_LOG");
    let status = tokio::task::spawn_blocking(move || command.status()).await??;
    ensure!(status.success(), "{} could not be warmed", server.name);
    Ok(())
}
