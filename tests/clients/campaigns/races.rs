//! Readers, evictions, deletions and downloads of the same few digests, all at once: every byte is
//! compared.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{join, join_all};
use http::{StatusCode, header};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::crash::{every_blob_is_whole, files, prefix, registry_of_each};
use crate::support::http_client::{client, get};
use crate::support::image::{Content, Image, Random};
use crate::support::process::{PATIENCE, ready};
use crate::support::proxy::{Proxy, Settings};
use crate::support::registry::NEED;

use super::how_often;

/// Reads of the short campaign.
const RACES: u64 = 400;
const READERS: u64 = 12;
/// What goes from memory, from one slice of a file, from several, and what no socket takes at once.
const SIZES: &[usize] = &[
    2_000, 50_000, 120_000, 140_000, 200_000, 300_000, 400_000, 500_000, 700_000, 1_000_000,
    1_100_000, 1_500_000, LARGE, LARGE, LARGE, LARGE, LARGE, LARGE, LARGE, LARGE,
];
const LARGE: usize = 6_000_000;
/// Room for about half of them.
const MAX_SIZE: &str = "32MiB";
const MAX_BYTES: u64 = 32 << 20;
/// Those of the readers who rest after the first bytes of a large blob, and how long: often until the
/// others have driven it out.
const RESTING: u64 = 3;
const REST: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_evictions_deletions_and_downloads_race_and_nobody_gets_a_wrong_byte() {
    if !ready(&[NEED]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let reads = how_often("RACES", RACES);
    let image = Image::make(scratch.path(), 1, SIZES).await;
    let registry = registry_of_each(scratch.path(), std::slice::from_ref(&image)).await;
    let settings = Settings::mirroring(scratch.path(), &registry).with_max_size(MAX_SIZE);
    let mut proxy = Proxy::start(&settings).await;
    let race = Race { left: AtomicU64::new(reads), ended: AtomicBool::new(false) };
    let blobs = image.native().blobs();
    let readers = join_all((0..READERS).map(|seed| race.read(&proxy, &blobs, seed)));
    let readers = async {
        let tallies = readers.await;
        race.ended.store(true, Ordering::Relaxed);
        tallies
    };
    let (tallies, deleted) = join(readers, race.delete(&settings)).await;
    let failures: Vec<String> = tallies.into_iter().flatten().collect();
    let metrics = metrics(&proxy).await;
    let of = |name: &str| metrics.get(name).copied().unwrap_or(0);
    let evicted = of("roadstead_evictions_total{reason=\"size\"}");
    println!(
        "races: {reads} reads of {} digests, {} failed, no wrong byte; {evicted} evicted, \
         {deleted} deleted",
        blobs.len(),
        failures.len(),
    );
    assert_eq!(failures, [""; 0]);
    assert!(evicted > reads / 100 && deleted > reads / 100, "there was a race");
    assert_eq!(of("roadstead_store_corrupt_total"), 0);
    proxy.process.signal(Signal::TERM);
    proxy.process.exit(PATIENCE).await;
    every_blob_is_whole(settings.cache());
    let size = |path: &PathBuf| path.metadata().map_or(0, |found| found.len());
    let kept: u64 = files(&settings.cache().join("blobs")).iter().map(size).sum();
    assert!(kept <= MAX_BYTES, "{kept} bytes are kept");
}

struct Race {
    left: AtomicU64,
    ended: AtomicBool,
}

impl Race {
    /// Reads whole blobs and parts of them as long as there are reads left; what failed.
    async fn read(&self, proxy: &Proxy, blobs: &[&Content], seed: u64) -> Vec<String> {
        let (client, mut random, mut failures) = (client(), Random::new(seed), Vec::new());
        let take = |left: u64| left.checked_sub(1);
        let rest = if seed < RESTING { REST } else { Duration::ZERO };
        while self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
            let nth = usize::try_from(random.number() % blobs.len() as u64).expect("small");
            let blob = blobs[nth];
            let len = blob.bytes.len();
            let mut place = || usize::try_from(random.number() % len as u64).expect("small");
            let (start, end) = (place(), place());
            let part = (start < end).then_some(start..end);
            let url = format!("http://{}{}/blobs/{}", proxy.clients, prefix(0), blob.digest);
            let mut request = client.get(url);
            if let Some(part) = &part {
                let range = format!("bytes={}-{}", part.start, part.end - 1);
                request = request.header(header::RANGE, range);
            }
            let expected = part.map_or(&blob.bytes[..], |part| &blob.bytes[part]);
            if let Err(error) = compare(request, expected, rest).await {
                failures.push(error);
            }
        }
        failures
    }

    /// Deletes blobs behind the proxy's back until the readers are done; how many.
    async fn delete(&self, settings: &Settings) -> u64 {
        let (mut random, mut deleted) = (Random::new(99), 0);
        while !self.ended.load(Ordering::Relaxed) {
            let there = files(&settings.cache().join("blobs"));
            if !there.is_empty() {
                let nth = usize::try_from(random.number() % there.len() as u64).expect("small");
                deleted += u64::from(fs::remove_file(&there[nth]).is_ok());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        deleted
    }
}

/// Wrong bytes panic; an answer that is cut, or no answer, is an error.
async fn compare(
    request: reqwest::RequestBuilder,
    expected: &[u8],
    rest: Duration,
) -> Result<(), String> {
    let mut answer = request.send().await.map_err(|error| format!("{error:?}"))?;
    let (status, mut body) = (answer.status(), Vec::new());
    while let Some(piece) = answer.chunk().await.map_err(|error| format!("{error:?}"))? {
        if body.is_empty() && expected.len() > LARGE / 2 {
            tokio::time::sleep(rest).await;
        }
        body.extend_from_slice(&piece);
    }
    if ![StatusCode::OK, StatusCode::PARTIAL_CONTENT].contains(&status) {
        return Err(format!("{status} {}", String::from_utf8_lossy(&body)));
    }
    assert!(body == expected, "wrong bytes");
    Ok(())
}

async fn metrics(proxy: &Proxy) -> HashMap<String, u64> {
    let answer = get(proxy.admin, "/metrics").await.expect("the admin listener answers");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let pairs = text.lines().filter_map(|line| line.rsplit_once(' '));
    pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))).collect()
}
