//! What is stored, by digest. A terabyte of images is a million entries, so each takes few bytes:
//! the hash itself and not its text, held once, and referred to by a number elsewhere.

use std::hash::{BuildHasher, RandomState};
use std::sync::Weak;

use hashbrown::HashTable;
use slab::Slab;

use super::blob::OpenBlob;
use super::order::{EvictionClass, Slot, Tick};
use crate::oci::{Algorithm, Digest};

/// The bytes of a digest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum DigestKey {
    Sha256([u8; 32]),
    /// Rare, and twice as long.
    Sha512(Box<[u8; 64]>),
}

impl DigestKey {
    fn of(digest: &Digest) -> Self {
        match digest.algorithm() {
            Algorithm::Sha256 => Self::Sha256(digest.hash()),
            Algorithm::Sha512 => Self::Sha512(Box::new(digest.hash())),
        }
    }

    fn digest(&self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest::of_hash(Algorithm::Sha256, hash),
            Self::Sha512(hash) => Digest::of_hash(Algorithm::Sha512, &**hash),
        }
    }
}

/// One file of the store.
#[derive(Debug)]
pub(super) struct IndexEntry {
    key: DigestKey,
    pub(super) size: u64,
    pub(super) used: Tick,
    /// The open file that readers share, while there are any.
    pub(super) open: Weak<OpenBlob>,
    pub(super) class: EvictionClass,
    /// How often it was asked for, up to a bound.
    pub(super) uses: u8,
    /// The disk would not let go of it: it stays, and is not taken for a victim until it is tried
    /// again.
    pub(super) stuck: bool,
    /// How often it is wanted to stay (`retention`).
    pub(super) retained: u32,
    /// It could not be fetched again (`unfetchable`).
    pub(super) unfetchable: bool,
}

impl IndexEntry {
    pub(super) fn new(digest: &Digest, size: u64, class: EvictionClass, used: Tick) -> Self {
        let (key, open) = (DigestKey::of(digest), Weak::new());
        Self {
            key,
            size,
            used,
            open,
            class,
            uses: 1,
            stuck: false,
            retained: 0,
            unfetchable: false,
        }
    }

    pub(super) fn digest(&self) -> Digest {
        self.key.digest()
    }

    /// Whether eviction may take it.
    pub(super) fn may_go(&self) -> bool {
        !self.stuck && !self.stays()
    }

    /// Whether it is not to go for want of room.
    pub(super) fn stays(&self) -> bool {
        self.retained > 0 || self.unfetchable
    }
}

#[derive(Debug, Default)]
pub(super) struct Entries {
    slots: Slab<IndexEntry>,
    by_key: HashTable<Slot>,
    /// Seeded: digests are their makers' choice.
    hashing: RandomState,
}

impl Entries {
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn find(&self, digest: &Digest) -> Option<Slot> {
        let key = DigestKey::of(digest);
        let is_it = |slot: &Slot| self.slots[*slot as usize].key == key;
        self.by_key.find(self.hashing.hash_one(&key), is_it).copied()
    }

    pub(super) fn get(&self, slot: Slot) -> Option<&IndexEntry> {
        self.slots.get(slot as usize)
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut IndexEntry> {
        self.slots.get_mut(slot as usize)
    }

    /// Enters what is not there yet. `None` if there is no number left.
    pub(super) fn insert(&mut self, entry: IndexEntry) -> Option<Slot> {
        let Self { slots, by_key, hashing } = self;
        let slot = Slot::try_from(slots.vacant_key()).ok()?;
        let hash = hashing.hash_one(&entry.key);
        slots.insert(entry);
        by_key.insert_unique(hash, slot, |slot| hashing.hash_one(&slots[*slot as usize].key));
        Some(slot)
    }

    /// What `read` makes of the next entries, at most `rows`, and where to go on.
    pub(super) fn page<T>(
        &self,
        from: Slot,
        rows: usize,
        read: impl Fn(&IndexEntry) -> T,
    ) -> (Vec<T>, Option<Slot>) {
        let (first, end) = (from as usize, self.slots.capacity());
        let mut page = Vec::new();
        for slot in first..end {
            if page.len() == rows {
                return (page, Slot::try_from(slot).ok());
            }
            page.extend(self.slots.get(slot).map(&read));
        }
        (page, None)
    }

    pub(super) fn remove(&mut self, slot: Slot) -> Option<IndexEntry> {
        let entry = self.slots.try_remove(slot as usize)?;
        let hash = self.hashing.hash_one(&entry.key);
        if let Ok(found) = self.by_key.find_entry(hash, |of| *of == slot) {
            found.remove();
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_algorithms_are_found_and_leave_their_place() {
        let mut entries = Entries::default();
        let digests: Vec<Digest> = (0_u8..100)
            .flat_map(|n| {
                [Digest::of(Algorithm::Sha256, &[n]), Digest::of(Algorithm::Sha512, &[n])]
            })
            .collect();
        for _ in 0..3 {
            for (n, digest) in digests.iter().enumerate() {
                assert_eq!(entries.find(digest), None);
                let entry = IndexEntry::new(digest, n as u64, EvictionClass::Blob, 0);
                let slot = entries.insert(entry).expect("a number");
                assert!(usize::try_from(slot).expect("small") < digests.len(), "numbers come back");
            }
            for (n, digest) in digests.iter().enumerate() {
                let slot = entries.find(digest).expect("it was entered");
                let entry = entries.remove(slot).expect("it is there");
                assert_eq!((entry.size, &entry.digest()), (n as u64, digest));
                assert!(entries.get(slot).is_none() && entries.remove(slot).is_none());
            }
            assert_eq!(entries.len(), 0);
        }
    }
}
