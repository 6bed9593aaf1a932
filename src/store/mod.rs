//! The store: verified content by digest on disk, and the records about it. The only code that
//! touches the disk.
//!
//! Content comes in through [`BlobStore::stage`] and becomes visible by rename, whole and verified.
//! It goes out through [`BlobStore::open`]: from memory if it is small, else as an open [`Blob`]. A
//! file that is not what was recorded when it was published comes out as a [`Suspect`] and has to
//! be hashed again before anybody may believe it.

mod blob;
mod changes;
mod check;
mod database;
mod due;
mod entries;
mod error;
mod facts;
mod fullness;
mod index;
mod io;
mod journal;
mod layout;
mod mapping;
mod open;
mod opening;
mod order;
mod pin_rows;
mod premises;
mod purge;
mod reader;
mod records;
mod recover;
mod retention;
mod room;
mod schema;
mod staged;
mod survey;
mod tables;
mod trim;
mod unfetchable;

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use moka::sync::Cache;

use crate::clock::{Clock, Timestamp};
use crate::config::{self, MinFree};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::oci::{Algorithm, Digest};

pub use blob::{Blob, Slice};
pub use changes::Changed;
pub use check::{CheckEvent, CheckOptions, CheckTotals, Checker, Defect, Finding, Remedy};
pub use due::DueFile;
pub use error::{Error, StageError};
pub use facts::{ContentSender, Member, Senders, TagRecord};
pub use index::{RoomOwner, Use};
pub use journal::JournalFile;
pub use mapping::SLICE;
pub use open::{Found, Suspect};
pub use order::EvictionClass;
pub use purge::KnownOf;
pub use reader::{READ_MAX, Reader};
pub use records::Records;
pub use room::Removed;
pub use staged::{Mismatch, Staged, Verified};
pub use survey::{Kept, PublishedFiles, Survey};
pub use unfetchable::SendersInReach;

use fullness::Fullness;
use index::Index;
use io::IoPool;
use layout::Layout;
use premises::Premises;
use reader::BufferPool;

/// How often uses are written to the records. A crash loses the uses since the last time: eviction
/// then takes these blobs for older than they are, and nothing else happens.
const FLUSH_INTERVAL: Duration = Duration::from_secs(10);

/// Flushes between two looks at what has come of sealed upstreams: 10 minutes.
const FLUSHES_UNJUDGED: u64 = 60;

/// A handle on the cache directory; clones share it.
#[derive(Clone, Debug)]
pub struct BlobStore(Arc<StoreInner>);

#[derive(Debug)]
struct StoreInner {
    layout: Layout,
    pool: Arc<IoPool>,
    /// Guards sums and recency; never held across disk work.
    index: Mutex<Index>,
    /// Bytes that are unlinked but still open. Not in the index: `OpenBlob::drop` subtracts from
    /// it, and the index may be locked by the very thread that drops the last reader.
    pending: AtomicU64,
    /// Serialises publishing and deleting of names; taken before `index`.
    names: Mutex<()>,
    records: Records,
    /// Small bodies in use, by digest.
    small: Cache<Digest, Bytes>,
    small_body: u64,
    /// Memory for reads of files that are still being written.
    buffers: Arc<BufferPool>,
    /// Up to this size an unrecorded file is hashed while it is opened.
    check_inline: u64,
    min_free: Mutex<MinFree>,
    fullness: Fullness,
    /// From whom anything can be fetched again.
    reach: Mutex<SendersInReach>,
    clock: Clock,
    metrics: Arc<Metrics>,
    serial: AtomicU64,
    /// The directory and `LOCK`, locked as long as this process uses the directory.
    locks: Mutex<Vec<File>>,
}

#[cfg(test)]
impl BlobStore {
    /// A loaded store in `path` with everything at its default.
    pub(crate) fn in_test(path: &Path) -> Self {
        let store = Self::unloaded_in_test(path);
        recover::load(&store.0);
        store
    }

    /// As [`BlobStore::in_test`], without threads: all disk work happens where it is asked for,
    /// after a call of `step`.
    pub(crate) fn in_steps(path: &Path, step: fn()) -> Self {
        let store = Self::in_test(path);
        store.0.pool.run_jobs_after(step);
        store
    }

    fn unloaded_in_test(path: &Path) -> Self {
        let cache = config::Cache {
            path: path.to_path_buf(),
            max_size: 1 << 30,
            min_free: MinFree::Bytes(0),
            tag_ttl: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            proof_ttl: Duration::ZERO,
            abandon_after: Duration::ZERO,
            pins: config::PinList::default(),
            scrub: Duration::ZERO,
            scrub_rate: std::num::NonZeroU64::MAX,
        };
        let store = Self::new(
            &cache,
            &Limits::default(),
            Clock::manual(Duration::ZERO),
            Arc::new(Metrics::new()),
        );
        store.expect("the directory can be used")
    }
}

impl BlobStore {
    /// Takes the directory, sweeps what an earlier process left half done, and opens the records.
    /// Blocks, but walks no tree: [`BlobStore::load`] does that later.
    ///
    /// # Errors
    /// If the directory cannot be made or used, is open to somebody else, or another process has
    /// it.
    pub fn new(
        cache: &config::Cache,
        limits: &Limits,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, Error> {
        let layout = Layout::new(&cache.path);
        let Premises { locks, troubles } = premises::take(&layout)?;
        let pool = IoPool::new(Arc::clone(&metrics))
            .map_err(Error::file("start the I/O pool of", layout.root()))?;
        let pool = Arc::new(pool);
        for error in troubles {
            tracing::warn!(%error, "a part of the cache directory cannot be used; what is cached is \
                served as far as possible, and other content passed through");
            pool.count(&error);
        }
        let records = Records::open(&layout.database(), cache.max_size, Arc::clone(&pool));
        metrics.store.limit_bytes.set(i64::try_from(cache.max_size).unwrap_or(i64::MAX));
        let weigh = |_: &Digest, body: &Bytes| u32::try_from(body.len()).unwrap_or(u32::MAX);
        Ok(Self(Arc::new(StoreInner {
            layout,
            pool,
            index: Mutex::new(Index::new(cache.max_size)),
            pending: AtomicU64::new(0),
            names: Mutex::new(()),
            records,
            small: Cache::builder().max_capacity(limits.memory).weigher(weigh).build(),
            small_body: limits.small_body,
            buffers: Arc::default(),
            check_inline: limits.manifest as u64,
            min_free: Mutex::new(cache.min_free),
            fullness: Fullness::default(),
            reach: Mutex::default(),
            clock,
            metrics,
            serial: AtomicU64::new(0),
            locks: Mutex::new(locks),
        })))
    }

    pub fn records(&self) -> &Records {
        &self.0.records
    }

    /// Promises room for `size` bytes (unknown: as they come) and makes a file to write them to.
    /// What has to go for them goes as they come.
    ///
    /// # Errors
    /// [`StageError::NoRoom`] if neither free space nor eviction can hold them (DESIGN §14.10).
    pub async fn stage(
        &self,
        digest: &Digest,
        size: Option<u64>,
        owner: RoomOwner,
    ) -> Result<Staged, StageError> {
        let (shared, digest) = (Arc::clone(&self.0), digest.clone());
        let staged = self.0.pool.run(move || Staged::create(&shared, &digest, size, owner)).await;
        self.0.note_room(size.unwrap_or(1), &staged);
        staged
    }

    /// Promises room and makes a file for content whose digest is not known yet, as of a push: it
    /// is staged under no digest, and [`Staged::verify_as`] gives the real one, which has to be of
    /// this algorithm.
    ///
    /// # Errors
    /// As [`BlobStore::stage`].
    pub async fn stage_unnamed(
        &self,
        algorithm: Algorithm,
        size: Option<u64>,
        owner: RoomOwner,
    ) -> Result<Staged, StageError> {
        // The name in the staging folder is unique by its serial, whatever digest it begins with.
        self.stage(&Digest::of(algorithm, b""), size, owner).await
    }

    /// Takes over a changed `max_size` and `min_free`, and evicts what is too much; blocks.
    pub fn resize(&self, cache: &config::Cache) {
        self.0.metrics.store.limit_bytes.set(i64::try_from(cache.max_size).unwrap_or(i64::MAX));
        *lock(&self.0.min_free) = cache.min_free;
        self.0.records.set_max_size(cache.max_size);
        self.0.index().set_limit(cache.max_size);
        // If not enough can be evicted now, the next download that needs room evicts it.
        if let Err(StageError::Failed(error)) = self.0.meet_limit() {
            self.0.tolerate(Err(error));
        }
    }

    /// Notes that the bytes of `digest`, which are stored, have come from there as well.
    ///
    /// # Errors
    /// If it cannot be recorded.
    pub async fn note_sender(&self, digest: &Digest, sender: ContentSender) -> Result<(), Error> {
        let (shared, digest) = (Arc::clone(&self.0), digest.clone());
        self.0.pool.run(move || shared.records.add_sender(&digest, &sender)).await
    }

    /// Whether `digest` is known to be on disk, without looking there.
    pub fn holds(&self, digest: &Digest) -> bool {
        self.0.index().contains(digest)
    }

    /// Reads the index from the records and the tree; until it is done, nothing is evicted.
    pub async fn load(&self) -> Result<(), Error> {
        let shared = Arc::clone(&self.0);
        let load = move || {
            recover::load(&shared);
            Ok(())
        };
        self.0.pool.run(load).await
    }

    /// Writes uses to the records from time to time; never returns.
    pub async fn maintain(&self) {
        for nth in 1.. {
            tokio::time::sleep(FLUSH_INTERVAL).await;
            self.flush().await;
            if nth % FLUSHES_UNJUDGED == 0 {
                let shared = Arc::clone(&self.0);
                // Counted there.
                drop(self.0.pool.run(move || shared.judge_reach()).await);
            }
        }
    }

    /// Writes what is still in memory, waits for the disk work under way, and gives the directory
    /// back.
    pub async fn close(&self) {
        self.flush().await;
        self.0.pool.close().await;
        lock(&self.0.locks).clear();
    }

    /// Writes the uses since the last time to the records, and tries again what the disk has not
    /// allowed.
    pub async fn flush(&self) {
        let shared = Arc::clone(&self.0);
        let flushed = self.0.pool.run(move || {
            if shared.disk()?.read_only {
                return Ok(());
            }
            shared.retry_evictions();
            shared.relieve_disk()?;
            shared.records.heal()?;
            let uses = shared.index().take_touched();
            if uses.is_empty() { Ok(()) } else { shared.records.put_recency(&uses) }
        });
        if let Err(error) = flushed.await {
            tracing::warn!(%error, "the records cannot be written");
        }
    }
}

impl StoreInner {
    fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    fn next_serial(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Removes content that cannot be read or has the wrong digest, so that the next request
    /// fetches it again; blocks.
    fn discard(&self, digest: &Digest, reason: &'static str) {
        self.index().remove(digest);
        self.metrics.store.corrupt.inc();
        tracing::error!(%digest, reason, "removed a stored blob; it will be fetched again");
        self.unlink(digest);
    }

    /// Logs and counts a failure that the caller goes on without.
    fn tolerate(&self, result: Result<(), Error>) {
        if let Err(error) = result {
            tracing::warn!(%error, "the store goes on after a failure");
            self.pool.count(&error);
        }
    }

    fn report(&self) {
        let (bytes, blobs, retained) = {
            let index = self.index();
            (index.used(), index.len(), index.retained())
        };
        self.metrics.store.retained.set(i64::try_from(retained).unwrap_or(i64::MAX));
        self.metrics.store.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.metrics.store.blobs.set(i64::try_from(blobs).unwrap_or(i64::MAX));
    }
}

/// A lock that a panicking holder leaves usable: every section leaves its data whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Recency in microseconds since the epoch.
fn tick(now: Timestamp) -> order::Tick {
    u64::try_from(now.unix().as_micros()).unwrap_or(u64::MAX)
}

fn tick_to_time(tick: order::Tick) -> Timestamp {
    Timestamp::from_unix(Duration::from_micros(tick))
}

/// Makes a folder and its parents, for this user only. One that is there need not be made, which a
/// disk that fails may not say.
fn create_folder(path: &Path) -> Result<(), Error> {
    match std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Err(error) if !path.is_dir() => Err(Error::file("create", path)(error)),
        _ => Ok(()),
    }
}
