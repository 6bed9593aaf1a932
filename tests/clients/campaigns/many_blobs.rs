//! A start on a cache of a million blobs: how soon it serves, and what it holds in memory.

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use roadstead::oci::{Algorithm, Digest};
use rusqlite::{Connection, params};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::support::crash::{prefix, registry_of_each};
use crate::support::http_client::{get, get_exactly, pull};
use crate::support::image::Image;
use crate::support::process::{PATIENCE, Process, ready};
use crate::support::proxy::{Proxy, Settings, addresses};
use crate::support::registry::NEED;

use super::{anonymous_kib, how_often};

/// Blobs of the short campaign.
const BLOBS: u64 = 20_000;
/// Of so many on, the figure for one blob says something.
const MANY: u64 = 200_000;
const SIZES: &[usize] = &[300_000];

#[tokio::test(flavor = "multi_thread")]
async fn a_start_with_a_million_blobs_serves_at_once_and_holds_little() {
    if !ready(&[NEED]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let number = how_often("BLOBS", BLOBS);
    let images = Image::make_each(1, SIZES);
    let registry = registry_of_each(scratch.path(), &images).await;
    let settings = Settings::mirroring(scratch.path(), &registry);
    let proxy = Proxy::start(&settings).await;
    pull(proxy.clients, &prefix(0), "1", &images[0]).await.expect("it is cached");
    stop(proxy).await;
    let few = Start::of(&settings, &images[0], 0).await;
    fill(settings.cache(), number);
    let many = Start::of(&settings, &images[0], number).await;
    let each = many.after.saturating_sub(few.after) * 1024 / number;
    println!(
        "many blobs: {number}; first hit {:.0} ms after the start ({:.0} ms without them), index \
         read in {:.1} s; {each} bytes each, at most {} MiB while loading, {} MiB then",
        many.first_hit.as_secs_f64() * 1e3,
        few.first_hit.as_secs_f64() * 1e3,
        many.loaded.as_secs_f64(),
        many.peak / 1024,
        many.after / 1024,
    );
    if number >= MANY {
        assert!(each < 250, "{each} bytes for each blob");
        assert!(many.peak < many.after * 3 / 2 + 16 * 1024, "loading takes no more than serving");
    }
    assert!(many.first_hit < PATIENCE / 10, "it serves while it reads the index");
}

/// Figures of a start; memory that is no file's, in KiB.
struct Start {
    /// From the start of the process to the last byte of a cached layer.
    first_hit: Duration,
    /// To the end of reading the index.
    loaded: Duration,
    peak: u64,
    after: u64,
}

impl Start {
    async fn of(settings: &Settings, image: &Image, blobs: u64) -> Self {
        let begun = Instant::now();
        let mut process = Process::start("roadstead", &settings.folder, settings.command());
        let (clients, admin) =
            process.until("addresses", async |process| addresses(&process.err())).await;
        let pid = process.pid();
        let layer = &image.native().layers[0].content;
        let path = format!("{}/blobs/{}", prefix(0), layer.digest);
        get_exactly(clients, &path, layer).await.expect("it is cached");
        let (first_hit, mut peak) = (begun.elapsed(), 0);
        let indexed = async || {
            let answer = get(admin, "/metrics").await.expect("it answers");
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            let line = text.lines().find_map(|line| line.strip_prefix("roadstead_store_blobs "));
            line.and_then(|number| number.parse::<u64>().ok()).expect("a number")
        };
        while indexed().await <= blobs {
            let next = Instant::now() + Duration::from_millis(100);
            while Instant::now() < next {
                peak = peak.max(anonymous_kib(pid));
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            assert!(begun.elapsed() < 10 * PATIENCE, "the index is read");
        }
        let (loaded, after) = (begun.elapsed(), anonymous_kib(pid));
        stop(Proxy { process, clients, admin }).await;
        Self { first_hit, loaded, peak: peak.max(after), after }
    }
}

async fn stop(mut proxy: Proxy) {
    proxy.process.signal(Signal::TERM);
    proxy.process.exit(PATIENCE).await;
}

/// Empty files with names of blobs, and what the records say of them. Nobody asks for them.
fn fill(cache: &Path, number: u64) {
    let mut records = Connection::open(cache.join("records.sqlite")).expect("tables");
    let records = records.transaction().expect("tables");
    let insert = "INSERT INTO blobs (digest, size, mtime, manifest, used) VALUES (?1, 0, 1, 0, 1)";
    let mut insert = records.prepare(insert).expect("the table of blobs");
    for nth in 0..number {
        let digest = Digest::of(Algorithm::Sha256, &nth.to_le_bytes());
        let shelf = cache.join("blobs/sha256").join(&digest.hex()[..2]);
        fs::create_dir_all(&shelf).expect("the folder is the test's own");
        File::create(shelf.join(digest.hex())).expect("the folder is the test's own");
        insert.execute(params![digest.as_str()]).expect("a row");
    }
    drop(insert);
    records.commit().expect("written");
}
