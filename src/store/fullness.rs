//! How full the disk is, for the operator: gauges when somebody asks, and a warning when there is
//! no room for new content, and when there is again. What finds no room is passed through, so
//! without them nobody would notice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::{BlobStore, Error, StageError, StoreInner, lock};

/// What was last found: the smallest content that there was no room for, in bytes; none while there
/// is room.
#[derive(Debug, Default)]
pub(super) struct Fullness {
    refused: Mutex<Option<u64>>,
    /// Whether the file system has been found to be read-only.
    read_only: AtomicBool,
}

impl Fullness {
    pub(super) fn note_read_only(&self, read_only: bool) {
        self.read_only.store(read_only, Ordering::Relaxed);
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// There is no room for `size` bytes; whether that is news.
    fn note_refused(&self, size: u64) -> bool {
        let mut refused = lock(&self.refused);
        let news = refused.is_none();
        *refused = Some(refused.map_or(size, |known| known.min(size)));
        news
    }

    /// There is room for `size` bytes; whether that is news. A manifest that still fits says
    /// nothing about the layers that do not.
    fn note_stored(&self, size: u64) -> bool {
        let mut refused = lock(&self.refused);
        refused.take_if(|known| size >= *known).is_some()
    }
}

impl StoreInner {
    /// Notes whether `size` bytes have found room.
    pub(super) fn note_room<T>(&self, size: u64, staged: &Result<T, StageError>) {
        match staged {
            Ok(_) => {
                if self.fullness.note_stored(size) {
                    self.warn_of_room();
                }
            }
            // What is too large for the whole cache says nothing about the disk.
            Err(StageError::NoRoom) if size > self.index().largest() => {}
            Err(StageError::NoRoom) => {
                if self.fullness.note_refused(size) {
                    self.warn_of_no_room(size);
                }
            }
            Err(StageError::Failed(_)) => {}
        }
    }

    fn warn_of_no_room(&self, bytes: u64) {
        self.metrics.store.full.set(1);
        let cache = self.layout.root().display();
        if self.fullness.is_read_only() {
            tracing::warn!(
                %cache,
                "the cache's file system is read-only: what is cached is served, and new content \
                 is passed through and not kept"
            );
            return;
        }
        tracing::warn!(
            %cache,
            bytes,
            "there is no room in the cache, and nothing left to evict: new content is passed \
             through and not kept; look at the disk, cache.min_free and cache.max_size"
        );
    }

    fn warn_of_room(&self) {
        self.metrics.store.full.set(0);
        tracing::warn!(cache = %self.layout.root().display(), "there is room in the cache again");
    }
}

impl BlobStore {
    /// Asks the disk how full it is, for the metrics.
    pub async fn measure(&self) {
        let shared = Arc::clone(&self.0);
        let measured = self.0.pool.run(move || {
            let disk = shared.disk()?;
            let limit = shared.index().effective_limit(disk);
            let gauge = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
            shared.metrics.store.free_bytes.set(gauge(disk.available));
            shared.metrics.store.effective_limit_bytes.set(gauge(limit));
            Ok::<(), Error>(())
        });
        if let Err(error) = measured.await {
            tracing::debug!(%error, "cannot tell how full the disk is");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_news() {
        let fullness = Fullness::default();
        assert!(!fullness.note_stored(9));
        assert!(fullness.note_refused(1000) && !fullness.note_refused(500));
        assert!(!fullness.note_stored(499), "what is smaller may still fit");
        assert!(fullness.note_stored(500) && !fullness.note_stored(500));
        assert!(fullness.note_refused(1000));
    }
}
