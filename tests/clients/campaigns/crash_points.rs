//! Killed before each call that changes the cache: from the first start on, and during pulls.

use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use crate::support::crash::{every_blob_is_whole, restart};
use crate::support::http_client::pull;
use crate::support::image::Image;
use crate::support::process::{Need, PATIENCE, Process, poll, ready};
use crate::support::proxy::{Proxy, Settings, addresses};
use crate::support::registry::{Auth, NEED, Registry};

use super::fault_disk::{FaultDisk, Strike};
use super::how_often;

/// Points of the short campaign; the long one has them all.
const POINTS: u64 = 12;
/// So long nothing is written once a pull is over.
const QUIET: Duration = Duration::from_millis(300);
/// So long after a pull the last of its calls may come.
const LINGERING: Duration = Duration::from_secs(2);
const PREFIX: &str = "/v2/quay.io/acme/app";

#[tokio::test]
async fn killed_before_any_call_it_starts_clean_and_serves_what_is_right() {
    if !ready(&[NEED, Need::Program("cc")]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let image = Image::make(scratch.path(), 1, &[200_000, 400_000]).await;
    let held = [("acme/app", &image)];
    let registry = Registry::holding(scratch.path(), Auth::Anonymous, &held).await;
    let disk = FaultDisk::make(scratch.path()).await;
    let all = live(&disk, &at(scratch.path(), 0, &registry), &image).await;
    let points = match std::env::var("POINTS") {
        Ok(all_of_them) if all_of_them == "all" => all,
        _ => how_often("POINTS", POINTS).min(all),
    };
    let mut killed = 0;
    for nth in 1..=points {
        let settings = at(scratch.path(), nth, &registry);
        // Evenly over all of them, the first and the last included.
        let point = 1 + (nth - 1) * (all - 1) / (points - 1).max(1);
        disk.strike(point, Strike::Kill);
        killed += u64::from(until_killed(disk.start(&settings), &image).await);
        disk.heal();
        every_blob_is_whole(settings.cache());
        let proxy = restart(&settings).await;
        pull(proxy.clients, PREFIX, "1", &image)
            .await
            .unwrap_or_else(|error| panic!("after a kill before call {point}: {error}"));
        every_blob_is_whole(settings.cache());
    }
    println!(
        "crash points: {killed} kills at {points} of {all} calls, no wrong blob, none left over"
    );
    assert!(killed * 10 >= points * 9, "only {killed} of {points} were killed");
}

/// A folder of its own for each point, so that each begins with the first start of all.
fn at(folder: &Path, point: u64, registry: &Registry) -> Settings {
    Settings::mirroring(&folder.join(format!("point-{point}")), registry)
}

/// One undisturbed life; how many calls it takes.
async fn live(disk: &FaultDisk, settings: &Settings, image: &Image) -> u64 {
    let before = disk.calls();
    let proxy = disk.proxy(settings).await;
    pull(proxy.clients, PREFIX, "1", image).await.expect("nothing is wrong yet");
    // What is written beside the answers, records among it, is written soon after.
    let mut seen = 0;
    poll("end of the writing", PATIENCE, async || {
        let now = disk.calls();
        sleep(QUIET).await;
        let is_quiet = now == seen && disk.calls() == now;
        seen = now;
        is_quiet.then_some(())
    })
    .await;
    disk.calls() - before
}

/// Lives the same life; whether it was killed in it.
async fn until_killed(process: Process, image: &Image) -> bool {
    let Some(mut proxy) = started(process).await else { return true };
    let _ = pull(proxy.clients, PREFIX, "1", image).await;
    timeout(LINGERING, proxy.process.exit(PATIENCE)).await.is_ok()
}

/// A proxy, unless it ends first.
async fn started(mut process: Process) -> Option<Proxy> {
    let (clients, admin) = poll("start or end", PATIENCE, async || {
        if process.ended().is_some() {
            return Some(None);
        }
        addresses(&process.err()).map(Some)
    })
    .await?;
    Some(Proxy { process, clients, admin })
}
