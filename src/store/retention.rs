//! What eviction may not take: the one place where that is decided.
//!
//! Whoever wants content to stay names it here by its digest, whether it is stored by then or not;
//! as often as it was named, it has to be let go. [`Index`](super::index::Index) asks when content
//! gets its place, and what is retained stands in no queue of the order: it is never a victim, and
//! costs those that are looked for nothing (PIN-1). What it takes is not there for others, neither for
//! promises nor for the shares that the order goes by.
//!
//! Pins are the first to use it (`images/pins`). Who wants content to stay only up to a point has
//! to let it go at that point, or to give the order a queue that comes last.

use std::collections::HashMap;

use super::{BlobStore, StageError};
use crate::oci::Digest;

/// Digests after which others get their turn with the index.
const STEP: usize = 500;

/// What is retained and not stored, and how often it is wanted; and the bytes of what is both.
#[derive(Debug, Default)]
pub(super) struct Retention {
    absent: HashMap<Digest, u32>,
    pub(super) bytes: u64,
}

impl Retention {
    /// How often `digest`, which is just entered, is wanted.
    pub(super) fn enter(&mut self, digest: impl FnOnce() -> Digest, size: u64) -> u32 {
        if self.absent.is_empty() {
            return 0;
        }
        let wanted = self.absent.remove(&digest()).unwrap_or(0);
        self.bytes += if wanted > 0 { size } else { 0 };
        wanted
    }

    /// What is retained goes all the same: it was damaged, or could not be removed before.
    pub(super) fn leave(&mut self, digest: Digest, size: u64, wanted: u32) {
        if wanted > 0 {
            self.bytes -= size;
            self.absent.insert(digest, wanted);
        }
    }

    pub(super) fn want_absent(&mut self, digest: &Digest) {
        *self.absent.entry(digest.clone()).or_default() += 1;
    }

    pub(super) fn let_absent_go(&mut self, digest: &Digest) {
        if let Some(wanted) = self.absent.get_mut(digest) {
            *wanted -= 1;
            if *wanted == 0 {
                self.absent.remove(digest);
            }
        }
    }
}

impl BlobStore {
    /// From now on this stays, whatever needs room; as often as it is named.
    pub fn retain(&self, digests: &[Digest]) {
        for digests in digests.chunks(STEP) {
            let mut index = self.0.index();
            for digest in digests {
                index.retain(digest);
            }
        }
        self.0.report();
    }

    /// Nobody who has named this wants it any longer. What was too much goes at once; blocks.
    pub fn let_go(&self, digests: &[Digest]) {
        for digests in digests.chunks(STEP) {
            let mut index = self.0.index();
            for digest in digests {
                index.let_go(digest);
            }
        }
        if let Err(StageError::Failed(error)) = self.0.meet_limit() {
            self.0.tolerate(Err(error));
        }
        self.0.report();
    }
}

#[cfg(test)]
mod tests {
    use crate::oci::{Algorithm, Digest};
    use crate::store::entries::IndexEntry;
    use crate::store::index::{Disk, Index, NoRoom, Promise, Use};
    use crate::store::order::EvictionClass;

    const ROOMY: Disk = Disk {
        available: u64::MAX / 4,
        keep_free: 0,
        pending: 0,
        files_short: 0,
        records: 0,
        read_only: false,
    };

    fn digest(n: u64) -> Digest {
        Digest::of(Algorithm::Sha256, &n.to_le_bytes())
    }

    /// Ten files of 10 bytes in room for them.
    fn full() -> Index {
        let mut index = Index::new(100);
        index.set_loaded();
        (0..10).for_each(|n| index.insert(&digest(n), 10, EvictionClass::Blob, n));
        index
    }

    fn store(index: &mut Index, size: u64) -> Result<Vec<Digest>, NoRoom> {
        let mut promise = Promise::default();
        let went = index
            .promise(&mut promise, size, ROOMY)
            .and_then(|_| index.hold(&mut promise, size, ROOMY));
        index.release(&promise);
        Ok(went?.iter().map(IndexEntry::digest).collect())
    }

    #[test]
    fn what_is_retained_is_no_victim_until_everybody_has_let_it_go() {
        let mut index = full();
        for n in [0, 1, 1] {
            index.retain(&digest(n));
        }
        index.touch(&digest(1), 50, Use::Whole);
        assert_eq!((index.retained(), store(&mut index, 10)), (20, Ok(vec![digest(2)])));
        index.let_go(&digest(0));
        index.let_go(&digest(1));
        index.insert(&digest(20), 10, EvictionClass::Blob, 90);
        assert_eq!((index.retained(), store(&mut index, 10)), (10, Ok(vec![digest(0)])));
        index.let_go(&digest(1));
        index.let_go(&digest(1));
        assert_eq!((index.retained(), index.used(), index.len()), (0, 90, 9));
    }

    #[test]
    fn what_comes_later_and_what_comes_again_is_retained_too() {
        let mut index = full();
        index.retain(&digest(30));
        index.retain(&digest(0));
        assert!(index.take_out(&digest(0)).is_none(), "no purge takes it");
        assert!(index.remove(&digest(0)), "damage does");
        assert_eq!((index.retained(), index.used()), (0, 90));
        index.insert(&digest(0), 5, EvictionClass::Blob, 0);
        assert_eq!(store(&mut index, 10), Ok(vec![digest(1)]));
        index.insert(&digest(30), 10, EvictionClass::Blob, 0);
        assert_eq!((index.retained(), index.used()), (15, 95));
        assert_eq!(store(&mut index, 10), Ok(vec![digest(2)]));
    }

    #[test]
    fn there_is_no_room_where_only_what_is_retained_could_go() {
        let mut index = full();
        (0..7).for_each(|n| index.retain(&digest(n)));
        assert_eq!(store(&mut index, 31), Err(NoRoom));
        let mut promise = Promise::default();
        index.promise(&mut promise, 30, ROOMY).expect("these may go");
        (7..9).for_each(|n| index.retain(&digest(n)));
        assert_eq!(index.hold(&mut promise, 30, ROOMY).err(), Some(NoRoom), "they stay now");
        assert_eq!(index.hold(&mut promise, 10, ROOMY).map(|went| went.len()), Ok(1));
        assert!(index.used() + 10 <= 100);
    }

    #[test]
    fn what_may_go_shares_what_is_left() {
        let mut index = Index::new(1000);
        index.set_loaded();
        index.insert(&digest(0), 800, EvictionClass::Blob, 0);
        index.retain(&digest(0));
        (1..5).for_each(|n| index.insert(&digest(n), 20, EvictionClass::Blob, n));
        (5..10).for_each(|n| index.insert(&digest(n), 20, EvictionClass::Manifest, n));
        assert_eq!(store(&mut index, 40), Ok(vec![digest(5)]), "too many of them");
    }
}
