//! For whom something is asked upstream.

use std::hash::{DefaultHasher, Hash, Hasher as _};

/// An identity, or the address of somebody anonymous. A hash of it: two askers who have the same one
/// share what is theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asker {
    who: u64,
    is_patient: bool,
}

impl Asker {
    pub fn new(who: impl Hash) -> Self {
        Self { who: hash_of(who), is_patient: false }
    }

    /// Somebody who lets every other come first: nobody waits for what is warmed (WARM-2).
    pub fn patient(who: impl Hash) -> Self {
        Self { is_patient: true, ..Self::new(who) }
    }

    pub(super) fn is_patient(self) -> bool {
        self.is_patient
    }
}

/// So that it takes no room to remember it.
pub(super) fn hash_of(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
