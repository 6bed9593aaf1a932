//! For whom something is asked upstream.

use std::hash::{DefaultHasher, Hash, Hasher as _};

/// An identity, or the address of somebody anonymous. A hash of it: two askers who have the same one
/// share what is theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asker(u64);

impl Asker {
    pub fn new(who: impl Hash) -> Self {
        Self(hash_of(who))
    }
}

/// So that it takes no room to remember it.
pub(super) fn hash_of(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
