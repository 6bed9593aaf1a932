//! kill -9 during a transfer or a start, and what lies on the disk afterwards.
//!
//! A campaign runs in lanes, each with a registry, a cache and a proxy of its own, and all draw from
//! one [`Budget`] of kills until it is used up or one of them has found something.

use std::collections::HashMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use roadstead::oci::{Algorithm, Digest};
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::image::{Image, Random};
use super::process::{PATIENCE, Process};
use super::proxy::{Proxy, Settings, addresses};
use super::registry::{Auth, Registry};

/// Lanes of a campaign: enough that while one waits another works.
pub(crate) const LANES: u64 = 4;

/// Kills that are still to be done.
#[derive(Debug)]
pub(crate) struct Budget(AtomicU64);

impl Budget {
    /// True if there was one left, which is then the caller's.
    pub(crate) fn take(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    pub(crate) fn is_used_up(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 0
    }
}

/// What the kills have hit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hit {
    /// Kills that were meant for a transfer, those of them that came before its end, and of those
    /// the ones in a transfer that had something evicted, or in an upload.
    pub(crate) aimed_at_transfers: u64,
    pub(crate) transfers: u64,
    pub(crate) evicting: u64,
    pub(crate) uploads: u64,
    /// The same for starts.
    pub(crate) aimed_at_starts: u64,
    pub(crate) starts: u64,
}

impl Hit {
    fn and(self, other: Self) -> Self {
        Self {
            aimed_at_transfers: self.aimed_at_transfers + other.aimed_at_transfers,
            transfers: self.transfers + other.transfers,
            evicting: self.evicting + other.evicting,
            uploads: self.uploads + other.uploads,
            aimed_at_starts: self.aimed_at_starts + other.aimed_at_starts,
            starts: self.starts + other.starts,
        }
    }

    pub(crate) fn kills(&self) -> u64 {
        self.aimed_at_transfers + self.aimed_at_starts
    }
}

/// Runs the lanes, each in a thread of its own, until `kills` are done.
pub(crate) fn in_lanes(kills: u64, lane: impl AsyncFn(u64, &Budget) -> Hit + Sync) -> Hit {
    let budget = Budget(AtomicU64::new(kills));
    thread::scope(|scope| {
        let run = |nth| {
            let (lane, budget) = (&lane, &budget);
            scope.spawn(move || {
                let _others = StopOthers(budget);
                runtime().block_on(lane(nth, budget))
            })
        };
        let threads: Vec<_> = (0..LANES).map(run).collect();
        let hits =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|it| resume_unwind(it)));
        hits.fold(Hit::default(), Hit::and)
    })
}

/// A lane that has found something ends the campaign.
struct StopOthers<'a>(&'a Budget);

impl Drop for StopOthers<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.0.store(0, Ordering::Relaxed);
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("the system has threads and descriptors")
}

/// How long something takes here and now, so that kills fall into it on any machine.
#[derive(Debug)]
pub(crate) struct Usual(pub(crate) Duration);

impl Usual {
    /// A moment of it, or soon after, when what was sent is published.
    pub(crate) fn moment(&self, random: &mut Random) -> Duration {
        self.0.mul_f64(1.2 * random.fraction())
    }

    pub(crate) fn saw(&mut self, took: Duration) {
        self.0 = (self.0 * 3 + took) / 4;
    }
}

/// Kills the proxy when `transfer` has run for `moment`, and waits for both: how the transfer
/// ended.
pub(crate) async fn kill_during(
    mut proxy: Proxy,
    moment: Duration,
    transfer: impl Future<Output = Result<(), String>> + Send + 'static,
) -> Result<(), String> {
    let mut transfer = tokio::spawn(transfer);
    let early = timeout(moment, &mut transfer).await;
    kill(&mut proxy.process).await;
    let outcome = match early {
        Ok(outcome) => outcome,
        Err(_) => transfer.await,
    };
    outcome.expect("a transfer that is cut short is an error, and got no wrong bytes")
}

/// Starts it and kills it at that moment; whether that was before the start was over.
pub(crate) async fn kill_start(settings: &Settings, moment: Duration) -> bool {
    let mut process = Process::start("roadstead", &settings.folder, settings.command());
    sleep(moment).await;
    let is_over = addresses(&process.err()).is_some();
    kill(&mut process).await;
    !is_over
}

async fn kill(process: &mut Process) {
    process.signal(Signal::KILL);
    let status = process.exit(PATIENCE).await;
    assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "it had ended by itself");
}

/// The start after an accident: it comes, and nothing half done or set aside is left.
pub(crate) async fn restart(settings: &Settings) -> Proxy {
    let proxy = Proxy::start(settings).await;
    assert_eq!(files(&settings.cache().join("staging")), [] as [PathBuf; 0], "half done");
    let damaged: Vec<_> = fs::read_dir(settings.cache())
        .expect("it was just opened")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.contains("damaged"))
        .collect();
    assert_eq!(damaged, [] as [String; 0], "set aside");
    proxy
}

/// The files of blobs as they were when they were hashed.
#[derive(Debug, Default)]
pub(crate) struct SeenBlobs(HashMap<PathBuf, Stamp>);

/// Inode, length, and the time of the last write in seconds and nanoseconds.
type Stamp = (u64, u64, i64, i64);

impl SeenBlobs {
    /// Hashes what has come or changed since the last time.
    pub(crate) fn look(&mut self, cache: &Path) {
        let mut seen = HashMap::new();
        for path in files(&cache.join("blobs")) {
            let stamp = stamp(&fs::metadata(&path).expect("nobody else is there"));
            if self.0.get(&path) != Some(&stamp) {
                is_whole(&path);
            }
            seen.insert(path, stamp);
        }
        self.0 = seen;
    }

    /// The same, where nothing is evicted: what has been there is still there.
    pub(crate) fn look_for_all(&mut self, cache: &Path) {
        let lost = self.0.keys().find(|path| !path.exists());
        assert_eq!(lost, None, "lost");
        self.look(cache);
    }

    /// True if all that a client fetches of it was there.
    pub(crate) fn have(&self, cache: &Path, image: &Image) -> bool {
        image.native().blobs().iter().all(|blob| {
            let hex = blob.digest.hex();
            self.0.contains_key(&cache.join("blobs/sha256").join(&hex[..2]).join(hex))
        })
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

pub(crate) fn every_blob_is_whole(cache: &Path) {
    SeenBlobs::default().look(cache);
}

fn is_whole(path: &Path) {
    let bytes = fs::read(path).expect("nobody else is there");
    let name = path.file_name().and_then(|name| name.to_str()).expect("a digest");
    assert_eq!(Digest::of(Algorithm::Sha256, &bytes).hex(), name, "{}", path.display());
}

/// A registry that holds each image in a repository of its own; see [`prefix`].
pub(crate) async fn registry_of_each(folder: &Path, images: &[Image]) -> Registry {
    let names: Vec<String> = (0..images.len()).map(|nth| format!("acme/app{nth}")).collect();
    let held: Vec<(&str, &Image)> = names.iter().map(String::as_str).zip(images).collect();
    Registry::holding(folder, Auth::Anonymous, &held).await
}

/// Where the proxy has the image of this number, as Quay's.
pub(crate) fn prefix(nth: usize) -> String {
    format!("/v2/quay.io/acme/app{nth}")
}

/// Every file below `folder`; none if there is no such folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries: Vec<_> = fs::read_dir(folder)
        .map(|entries| entries.filter_map(Result::ok).collect())
        .unwrap_or_default();
    let paths = entries.into_iter().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}
