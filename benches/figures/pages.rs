//! A stored blob whose pages are on the disk only must not slow those who ask for something else.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::fs::Advice;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::client::{Client, PATIENCE, request};
use crate::content::Content;
use crate::origin::{Origin, blob_path, manifest_path};
use crate::server::{self, Server};
use crate::stats::{millis, quantile};

const BLOB: u64 = 256 << 20;
const CONNECTIONS: usize = 8;
const ROUNDS: usize = 10;

/// Each connection asks this often, so that waiting is what is measured and not a full machine.
const PACE: Duration = Duration::from_millis(2);

pub(crate) async fn run() -> anyhow::Result<()> {
    let folder = server::folder()?;
    let origin = Origin::start().await?;
    let blob = Content::blob(0, BLOB);
    let manifest = Content::manifest(std::slice::from_ref(&blob));
    origin.add_blob(&blob);
    origin.add_manifest(&manifest);
    let server = server::roadstead(folder.path(), origin.address).await?;
    let path = manifest_path(manifest.digest.as_str());
    for path in [&path, &blob_path(&blob)] {
        fetch(server.address, path).await?;
    }
    let file = stored(folder.path(), &blob).await?;
    println!(
        "pages: {CONNECTIONS} connections ask a manifest every {PACE:?} each, {ROUNDS} rounds"
    );
    for case in [Case::Alone, Case::InMemory, Case::Dropped] {
        let setting = Setting { server: &server, blob: &blob, file: &file, manifest: &path };
        setting.measure(case).await?;
    }
    ensure!(origin.blob_gets() == 1, "{} downloads", origin.blob_gets());
    Ok(())
}

/// What else the server does while it is asked for manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Alone,
    /// Serves the blob from the page cache.
    InMemory,
    /// Serves the blob, its pages dropped before.
    Dropped,
}

struct Setting<'a> {
    server: &'a Server,
    blob: &'a Arc<Content>,
    file: &'a Path,
    manifest: &'a str,
}

impl Setting<'_> {
    async fn measure(&self, case: Case) -> anyhow::Result<()> {
        let mut waits = Vec::new();
        let (mut took, mut from_disk) = (Vec::new(), 0);
        for _ in 0..ROUNDS {
            if case == Case::Dropped {
                drop_pages(self.file)?;
            }
            let before = self.server.figure("io", "read_bytes")?;
            let stop = Arc::new(AtomicBool::new(false));
            let asking = ask(self.server.address, self.manifest, &stop);
            let start = Instant::now();
            match case {
                Case::Alone => sleep(Duration::from_millis(300)).await,
                Case::InMemory | Case::Dropped => {
                    fetch(self.server.address, &blob_path(self.blob)).await?;
                }
            }
            took.push(start.elapsed());
            stop.store(true, Ordering::Relaxed);
            waits.extend(
                asking.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?.concat(),
            );
            from_disk += self.server.figure("io", "read_bytes")?.saturating_sub(before);
        }
        let [half, most] = [0.5, 0.99].map(|share| millis(quantile(&waits, share)));
        println!(
            "  {case:?}: p50 {half}, p99 {most} of {} manifests; {} a round, {} MiB a round from disk",
            waits.len(),
            millis(quantile(&took, 0.5)),
            (from_disk >> 20) / ROUNDS as u64
        );
        Ok(())
    }
}

/// Asks on every connection until `stop`, and gives how long each answer took.
pub(crate) fn ask(
    address: SocketAddr,
    path: &str,
    stop: &Arc<AtomicBool>,
) -> JoinSet<anyhow::Result<Vec<Duration>>> {
    let mut asking = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (request, stop) = (request(path), Arc::clone(stop));
        asking.spawn(async move {
            let mut client = Client::connect(address, 16 << 10).await?;
            let mut pace = interval(PACE);
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut waits = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                pace.tick().await;
                let start = Instant::now();
                timeout(PATIENCE, client.get(&request, |_| ())).await??;
                waits.push(start.elapsed());
            }
            Ok(waits)
        });
    }
    asking
}

pub(crate) async fn fetch(address: SocketAddr, path: &str) -> anyhow::Result<()> {
    let mut client = Client::connect(address, 256 << 10).await?;
    timeout(PATIENCE, client.get(&request(path), |_| ())).await??;
    Ok(())
}

/// The blob's file in the cache; it gets its name a while after its readers have it.
pub(crate) async fn stored(folder: &Path, blob: &Content) -> anyhow::Result<PathBuf> {
    let hex = blob.digest.hex();
    let path = folder.join("cache/blobs/sha256").join(&hex[..2]).join(hex);
    let published = async {
        while !path.exists() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, published).await.context("the blob does not get into the cache")?;
    Ok(path)
}

/// Writes what is dirty, then leaves the content on the disk only.
fn drop_pages(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).context("cannot drop pages")
}
