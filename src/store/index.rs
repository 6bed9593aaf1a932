//! What is on disk, how recently it was used, and how much room is promised. Pure: the disk work is
//! the caller's.
//!
//! Three sums are kept apart: `used` (published), `reserved` (being written) and, beside the index,
//! `pending` (unlinked but still open). Room is promised from the first two: bytes that are only
//! waiting for their last reader come free by themselves, and evicting more would not free them
//! sooner.

use std::collections::{BTreeSet, HashMap};
use std::sync::Weak;

use super::blob::OpenBlob;
use crate::oci::Digest;

/// What eviction takes first: blobs before manifests, which are small and hold images together
/// (DESIGN §14.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EvictionClass {
    Blob,
    Manifest,
}

/// A moment of use; later is larger.
pub(super) type Tick = u64;

#[derive(Debug)]
struct IndexEntry {
    size: u64,
    class: EvictionClass,
    used: Tick,
    /// The open file that readers share, while there are any.
    open: Weak<OpenBlob>,
}

/// What the file system says beside what the index counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    /// Bytes that may still be written.
    pub(super) available: u64,
    /// Bytes that must stay free.
    pub(super) keep_free: u64,
    /// Bytes that come free by themselves: unlinked, but still open.
    pub(super) pending: u64,
}

#[derive(Debug)]
pub(super) struct Index {
    limit: u64,
    entries: HashMap<Digest, IndexEntry>,
    /// In the order of eviction. Many entries may have the same tick: what the records say nothing
    /// of has tick 0.
    order: BTreeSet<(EvictionClass, Tick, Digest)>,
    used: u64,
    reserved: u64,
    last_tick: Tick,
    /// Whether the start-up scan has finished. Before that nothing is evicted: the index does not
    /// know yet what was used least recently.
    loaded: bool,
    /// Uses since the last flush to the records.
    touched: HashMap<Digest, Tick>,
}

/// There is no room, and eviction cannot make it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Index {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            entries: HashMap::new(),
            order: BTreeSet::new(),
            used: 0,
            reserved: 0,
            last_tick: 0,
            loaded: false,
            touched: HashMap::new(),
        }
    }

    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.loaded
    }

    pub(super) fn set_loaded(&mut self) {
        self.loaded = true;
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.entries.contains_key(digest)
    }

    /// Notes a use at `now` (microseconds since the epoch); gives the open file, if a reader has
    /// one.
    pub(super) fn touch(&mut self, digest: &Digest, now: Tick) -> Option<Weak<OpenBlob>> {
        let entry = self.entries.get_mut(digest)?;
        // Two uses within a microsecond, or a clock that was set back, must not change the order.
        self.last_tick = now.max(self.last_tick + 1);
        self.order.remove(&(entry.class, entry.used, digest.clone()));
        entry.used = self.last_tick;
        self.order.insert((entry.class, entry.used, digest.clone()));
        self.touched.insert(digest.clone(), entry.used);
        Some(entry.open.clone())
    }

    /// Enters content that is on disk; what is entered already stays as it is.
    pub(super) fn insert(&mut self, digest: &Digest, size: u64, class: EvictionClass, used: Tick) {
        if self.entries.contains_key(digest) {
            return;
        }
        self.last_tick = self.last_tick.max(used);
        self.order.insert((class, used, digest.clone()));
        self.entries.insert(digest.clone(), IndexEntry { size, class, used, open: Weak::new() });
        self.used += size;
    }

    pub(super) fn set_open(&mut self, digest: &Digest, open: Weak<OpenBlob>) {
        if let Some(entry) = self.entries.get_mut(digest) {
            entry.open = open;
        }
    }

    /// Takes `digest` out. Its bytes count as pending while a reader has them open.
    pub(super) fn remove(&mut self, digest: &Digest) -> bool {
        let Some(entry) = self.entries.remove(digest) else { return false };
        self.order.remove(&(entry.class, entry.used, digest.clone()));
        self.touched.remove(digest);
        self.used -= entry.size;
        if let Some(open) = entry.open.upgrade() {
            open.mark_unlinked();
        }
        true
    }

    /// Bytes of the largest content that is stored (DESIGN §14.10).
    pub(super) fn largest(&self) -> u64 {
        self.limit / 2
    }

    /// Promises `size` bytes and names what has to be removed for them, already taken out of the
    /// index.
    ///
    /// # Errors
    /// [`NoRoom`] if `size` is more than half of the limit, or if removing everything would not do.
    pub(super) fn reserve(&mut self, size: u64, disk: Disk) -> Result<Vec<Digest>, NoRoom> {
        if size > self.largest() {
            return Err(NoRoom);
        }
        let short = self.shortage(size, disk);
        if short > 0 && !self.loaded {
            // Nothing is evicted before the scan has shown what there is; the cap is met once it
            // has.
            let disk = Disk { pending: 0, ..disk };
            if disk.shortage(size) > 0 {
                return Err(NoRoom);
            }
            self.reserved += size;
            return Ok(Vec::new());
        }
        if short > self.used {
            return Err(NoRoom);
        }
        let mut victims = Vec::new();
        let mut freed = 0;
        for (_, _, digest) in &self.order {
            if freed >= short {
                break;
            }
            freed += self.entries.get(digest).map_or(0, |entry| entry.size);
            victims.push(digest.clone());
        }
        for digest in &victims {
            self.remove(digest);
        }
        self.reserved += size;
        Ok(victims)
    }

    /// Gives back what [`Index::reserve`] promised.
    pub(super) fn release(&mut self, size: u64) {
        self.reserved = self.reserved.saturating_sub(size);
    }

    /// The uses since the last call, for the records.
    pub(super) fn take_touched(&mut self) -> Vec<(Digest, Tick)> {
        self.touched.drain().collect()
    }

    /// Bytes that content may take in all, by our own limit and by the disk's.
    pub(super) fn effective_limit(&self, disk: Disk) -> u64 {
        let free = disk.available.saturating_add(disk.pending).saturating_sub(disk.keep_free);
        self.limit.min((self.used + self.reserved).saturating_add(free))
    }

    /// Bytes that have to go before `size` more fit, by our own limit and by the disk's.
    fn shortage(&self, size: u64, disk: Disk) -> u64 {
        let ours = (self.used + self.reserved + size).saturating_sub(self.limit);
        ours.max(disk.shortage(size))
    }
}

impl Disk {
    fn shortage(self, size: u64) -> u64 {
        size.saturating_add(self.keep_free)
            .saturating_sub(self.available.saturating_add(self.pending))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    const ROOMY: Disk = Disk { available: u64::MAX / 4, keep_free: 0, pending: 0 };

    fn digest(n: u64) -> Digest {
        Digest::of(Algorithm::Sha256, &n.to_le_bytes())
    }

    fn loaded(limit: u64) -> Index {
        let mut index = Index::new(limit);
        index.set_loaded();
        index
    }

    #[test]
    fn the_least_recently_used_goes_first_and_manifests_last() {
        let mut index = loaded(100);
        index.insert(&digest(1), 40, EvictionClass::Manifest, 1);
        index.insert(&digest(2), 30, EvictionClass::Blob, 2);
        index.insert(&digest(3), 30, EvictionClass::Blob, 3);
        index.touch(&digest(2), 10);
        assert_eq!(index.reserve(20, ROOMY), Ok(vec![digest(3)]));
        index.release(20);
        assert_eq!(index.reserve(50, ROOMY), Ok(vec![digest(2)]));
        index.release(50);
        index.insert(&digest(4), 60, EvictionClass::Blob, 4);
        assert_eq!(index.reserve(50, ROOMY), Ok(vec![digest(4)]));
    }

    #[test]
    fn more_than_half_of_the_limit_is_never_stored() {
        let mut index = loaded(100);
        assert_eq!(index.reserve(51, ROOMY), Err(NoRoom));
        assert_eq!(index.reserve(50, ROOMY), Ok(vec![]));
        assert_eq!(index.reserve(50, ROOMY), Ok(vec![]));
        assert_eq!(index.reserve(1, ROOMY), Err(NoRoom), "promised bytes cannot be evicted");
    }

    #[test]
    fn a_disk_below_its_reserve_evicts_although_the_limit_would_hold() {
        let mut index = loaded(1000);
        index.insert(&digest(1), 100, EvictionClass::Blob, 1);
        let tight = Disk { available: 150, keep_free: 100, pending: 0 };
        assert_eq!(index.reserve(60, tight), Ok(vec![digest(1)]));
        let full = Disk { available: 90, keep_free: 100, pending: 0 };
        assert_eq!(index.reserve(60, full), Err(NoRoom));
    }

    #[test]
    fn before_the_scan_is_done_nothing_is_evicted() {
        let mut index = Index::new(100);
        index.insert(&digest(1), 90, EvictionClass::Blob, 1);
        assert_eq!(index.reserve(50, ROOMY), Ok(vec![]));
        assert!(index.contains(&digest(1)));
        assert_eq!(
            index.reserve(50, Disk { available: 40, keep_free: 0, pending: 0 }),
            Err(NoRoom)
        );
    }

    /// A search for a free moment would take minutes for these.
    #[test]
    fn many_that_were_never_used_are_entered_and_evicted_like_others() {
        let mut index = loaded(200_000);
        for n in 0..100_000 {
            index.insert(&digest(n), 1, EvictionClass::Blob, 0);
        }
        assert_eq!((index.used(), index.len(), index.order.len()), (100_000, 100_000, 100_000));
        assert_eq!(index.reserve(100_000, ROOMY), Ok(vec![]));
        assert_eq!(index.reserve(10, ROOMY).map(|victims| victims.len()), Ok(10));
    }

    proptest! {
        #[test]
        fn the_limit_holds_and_the_sums_agree(
            steps in prop::collection::vec((0_u64..40, 1_u64..60, any::<bool>()), 1..200)
        ) {
            let mut index = loaded(100);
            for (now, (n, size, publish)) in steps.into_iter().enumerate() {
                if index.touch(&digest(n), now as u64).is_some() {
                    continue;
                }
                if let Ok(victims) = index.reserve(size, ROOMY) {
                    prop_assert!(victims.iter().all(|victim| !index.contains(victim)));
                    index.release(size);
                    if publish {
                        index.insert(&digest(n), size, EvictionClass::Blob, now as u64);
                    }
                }
                prop_assert!(index.used <= 100);
                let sizes: u64 = index.entries.values().map(|entry| entry.size).sum();
                prop_assert_eq!(index.used, sizes);
                prop_assert_eq!(index.order.len(), index.entries.len());
            }
        }
    }
}
