//! Room on the disk: promised, held as bytes come, and made by removing what is used least.

use std::ops::AddAssign;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::StatVfsMountFlags;

use super::entries::IndexEntry;
use super::index::{self, Disk, Index, Promise, RoomOwner};
use super::{Error, StageError, StoreInner, lock};
use crate::config::MinFree;
use crate::oci::Digest;

/// Files that can still be made where the file system counts them: for the records and their log,
/// for folders, and for what is written at once.
const FILES_KEPT_FREE: u64 = 64;

/// Victims that the disk may refuse to remove before room counts as not to be had.
const REFUSALS_MAX: usize = 64;

/// What came of removing some content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub files: usize,
    pub bytes: u64,
    /// Files that the disk would not let go of; they are tried again.
    pub refused: usize,
}

impl AddAssign for Removed {
    fn add_assign(&mut self, more: Self) {
        self.files += more.files;
        self.bytes += more.bytes;
        self.refused += more.refused;
    }
}

/// Room of one file that is being written.
#[derive(Debug)]
pub(super) struct Room {
    promise: Box<Promise>,
    shared: Arc<StoreInner>,
}

impl Room {
    /// Promises `bytes`, and evicts nothing for them yet; whether they find room as it is.
    pub(super) fn promise(
        shared: &Arc<StoreInner>,
        owner: RoomOwner,
        bytes: u64,
    ) -> Result<(Self, bool), StageError> {
        let promise = Promise { owner, ..Promise::default() };
        let mut room = Self { promise: Box::new(promise), shared: Arc::clone(shared) };
        let is_free = room.extend(bytes)?;
        Ok((room, is_free))
    }

    fn extend(&mut self, more: u64) -> Result<bool, StageError> {
        // Asked before the index is locked, which is never held across disk work.
        let disk = self.shared.disk()?;
        let promised = self.shared.index().promise(&mut self.promise, more, disk);
        promised.map_err(|index::NoRoom| StageError::NoRoom)
    }

    /// Makes room for the bytes up to `length`, which are about to be written; blocks.
    pub(super) fn hold_up_to(&mut self, length: u64) -> Result<(), StageError> {
        if length > self.promise.bytes {
            self.extend(length - self.promise.bytes)?;
        }
        let more = length.saturating_sub(self.promise.held);
        let disk = self.shared.disk()?;
        let held = self.shared.index().hold(&mut self.promise, more, disk);
        let victims = held.map_err(|index::NoRoom| StageError::NoRoom)?;
        self.shared.remove_for_room(victims)
    }

    /// The disk has given all bytes of the promise, before they came.
    pub(super) fn note_given(&mut self) {
        self.shared.index().note_given(&mut self.promise);
    }

    /// Ends the promise in the same step that enters what was promised, so that nobody sees the
    /// room as free between.
    pub(super) fn give_back(mut self, index: &mut Index) {
        index.release(&std::mem::take(&mut self.promise));
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if *self.promise != Promise::default() {
            self.shared.index().release(&self.promise);
        }
    }
}

impl StoreInner {
    /// Evicts what is too much; blocks.
    pub(super) fn meet_limit(&self) -> Result<(), StageError> {
        let disk = self.disk()?;
        let victims = self.index().excess(disk);
        self.remove_for_room(victims)
    }

    /// Evicts some content because the disk takes no further file; whether there was any.
    pub(super) fn make_way_for_files(&self) -> Result<bool, StageError> {
        let disk = Disk { files_short: 16, ..self.disk()? };
        let victims = self.index().excess(disk);
        let any = !victims.is_empty();
        self.remove_for_room(victims)?;
        Ok(any)
    }

    /// Removes the victims, and others in place of those that cannot be removed.
    fn remove_for_room(&self, mut victims: Vec<IndexEntry>) -> Result<(), StageError> {
        let mut refused = 0;
        while !victims.is_empty() {
            refused += self.evict(victims, "size").refused;
            if refused > REFUSALS_MAX {
                return Err(StageError::NoRoom);
            }
            victims = if refused > 0 { self.index().excess(self.disk()?) } else { Vec::new() };
        }
        Ok(())
    }

    /// Removes content that is out of the index already. What cannot be removed is entered again: it
    /// takes its room, and can be served, until it is tried again.
    pub(super) fn evict(&self, victims: Vec<IndexEntry>, reason: &'static str) -> Removed {
        let (mut gone, mut removed) = (Vec::with_capacity(victims.len()), Removed::default());
        for victim in victims {
            let digest = victim.digest();
            if self.unlink_one(&digest) {
                removed.files += 1;
                removed.bytes += victim.size;
                gone.push(digest);
            } else {
                self.index().put_back(victim);
                removed.refused += 1;
            }
        }
        self.metrics.store.evictions.with_label_values(&[reason]).inc_by(gone.len() as u64);
        self.after_unlinking(&gone);
        removed
    }

    /// Tries again to remove what the disk would not let go of; blocks.
    pub(super) fn retry_evictions(&self) {
        let stuck = self.index().take_stuck();
        if !stuck.is_empty() {
            self.evict(stuck, "size");
        }
    }

    pub(super) fn disk(&self) -> Result<Disk, Error> {
        let root = self.layout.root();
        let stat =
            rustix::fs::statvfs(root).map_err(|error| Error::file("stat", root)(error.into()))?;
        let total = stat.f_blocks.saturating_mul(stat.f_frsize);
        let keep_free = match *lock(&self.min_free) {
            MinFree::Bytes(bytes) => bytes,
            MinFree::Percent(percent) => total / 100 * u64::from(percent),
        };
        // Some file systems have no number of files.
        let files_kept = if stat.f_files == 0 { 0 } else { FILES_KEPT_FREE.min(stat.f_files / 8) };
        let files_short = files_kept.saturating_sub(stat.f_favail);
        let read_only = stat.f_flag.contains(StatVfsMountFlags::RDONLY);
        self.fullness.note_read_only(read_only);
        Ok(Disk {
            read_only,
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
            keep_free,
            pending: self.pending.load(Ordering::Relaxed),
            files_short: usize::try_from(files_short).unwrap_or(usize::MAX),
            records: self.records.bytes_on_disk(),
        })
    }

    /// Removes the files of content that has been taken out of the index; blocks. Who has such a
    /// file open reads on.
    pub(super) fn unlink(&self, digest: &Digest) {
        self.unlink_one(digest);
        self.after_unlinking(std::slice::from_ref(digest));
    }

    /// Whether the file is gone, or is another one by now.
    fn unlink_one(&self, digest: &Digest) -> bool {
        let _names = lock(&self.names);
        if self.index().contains(digest) {
            // Published again since it was taken out of the index: this is the new file.
            return true;
        }
        let unlinked = self.unlink_name(digest);
        if let Err(error) = &unlinked {
            tracing::warn!(%error, %digest, "cannot remove a blob; it is tried again");
            self.pool.count(error);
        }
        unlinked.is_ok()
    }

    /// Removes the file of content that is out of the index, with the names locked.
    pub(super) fn unlink_name(&self, digest: &Digest) -> Result<(), Error> {
        self.small.invalidate(digest);
        let path = self.layout.blob(digest);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove", &path)(error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn after_unlinking(&self, digests: &[Digest]) {
        if !digests.is_empty() {
            self.report();
            self.tolerate(self.records.drop_stamps(digests));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::Timestamp;
    use crate::oci::Algorithm;
    use crate::store::BlobStore;
    use crate::store::index::Use;
    use crate::store::order::EvictionClass;

    const SIZE: u64 = 1 << 20;

    fn content(n: u8) -> (Digest, bytes::Bytes) {
        let bytes = vec![n; usize::try_from(SIZE).expect("small")];
        (Digest::of(Algorithm::Sha256, &bytes), bytes.into())
    }

    async fn publish(store: &BlobStore, n: u8) -> Digest {
        let (digest, bytes) = content(n);
        let mut staged =
            store.stage(&digest, Some(SIZE), RoomOwner::default()).await.expect("there is room");
        staged.append(vec![bytes], |_| {}).await.expect("it is written");
        let verified = staged.verify().expect("the digest is right");
        let now = store.0.clock.now();
        let upstream = crate::oci::UpstreamName::parse("acme.test").expect("a name");
        let sender = crate::store::ContentSender { upstream, is_public: true };
        verified.publish(EvictionClass::Blob, now, sender).await.expect("it is published");
        digest
    }

    fn with_limit(folder: &tempfile::TempDir, files: u64) -> BlobStore {
        let store = BlobStore::in_test(folder.path());
        store.0.index().set_limit(files * SIZE + SIZE / 2);
        store
    }

    #[tokio::test]
    async fn what_cannot_be_removed_counts_and_is_tried_again() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let store = with_limit(&folder, 4);
        let mut digests = Vec::new();
        for n in 0..4 {
            digests.push(publish(&store, n).await);
        }
        // A folder in the place of the file cannot be unlinked.
        let place = store.0.layout.blob(&digests[0]);
        std::fs::remove_file(&place).expect("it is there");
        std::fs::create_dir(&place).expect("the directory is ours");
        digests.push(publish(&store, 4).await);
        let held: Vec<bool> = digests.iter().map(|digest| store.holds(digest)).collect();
        assert_eq!(held, [true, false, true, true, true], "another went in its place");
        assert_eq!(store.0.index().used(), 4 * SIZE);
        let errors = || store.0.metrics.store.errors.with_label_values(&["remove"]).get();
        assert_eq!(errors(), 1);
        store.flush().await;
        assert_eq!((errors(), store.holds(&digests[0])), (2, true), "tried again");
        std::fs::remove_dir(&place).expect("it is empty");
        std::fs::write(&place, b"it can be removed").expect("the directory is ours");
        store.flush().await;
        assert!(!store.holds(&digests[0]) && !place.exists());
        assert_eq!(store.0.index().used(), 3 * SIZE);
    }

    /// Also of the same microsecond, in a place that became free.
    #[tokio::test]
    async fn what_is_newer_goes_later_by_a_clock_that_stands_still_or_was_set_back() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let store = with_limit(&folder, 2);
        let held = |digests: &[Digest]| -> Vec<_> {
            digests.iter().map(|digest| store.holds(digest)).collect()
        };
        let mut digests = Vec::new();
        for (n, seconds) in [(0, 500), (1, 500), (2, 500), (3, 500), (4, 100), (5, 100), (6, 50)] {
            store.0.clock.set(Timestamp::from_unix(Duration::from_secs(seconds)));
            digests.push(publish(&store, n).await);
            let newest: Vec<_> = (0..=n).map(|nth| nth + 1 >= n).collect();
            assert_eq!(held(&digests), newest, "after {n}");
        }
    }

    /// Whoever opens a blob between its eviction and its unlinking does not bring it back.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_opened_while_it_is_evicted_does_not_exceed_the_limit() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let store = with_limit(&folder, 3);
        let (stop, stopped) = tokio::sync::watch::channel(());
        let openers = (0..8).map(|from| {
            let (store, stopped) = (store.clone(), stopped.clone());
            tokio::spawn(async move {
                for n in (0..8).cycle().skip(from) {
                    drop(store.open(&content(n).0, Use::Whole).await);
                    if stopped.has_changed().is_err() {
                        break;
                    }
                }
            })
        });
        let openers: Vec<_> = openers.collect();
        for n in (0..8).cycle().take(200) {
            publish(&store, n).await;
            let used = store.0.index().used();
            assert!(used <= 3 * SIZE + SIZE / 2, "{used} after {n}");
        }
        drop(stop);
        for opener in openers {
            opener.await.expect("it does not panic");
        }
    }
}
