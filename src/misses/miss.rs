//! One miss: what a client wanted of a sealed upstream that is not here.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher as _};

use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, Reference, Tag};

/// What was wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum MissedThing {
    Tag(Tag),
    /// A manifest by its digest.
    Manifest(Digest),
    /// A layer or a configuration.
    Blob(Digest),
}

/// Of which repository.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MissKey {
    pub(crate) name: CanonicalName,
    pub(crate) thing: MissedThing,
}

/// Who has wanted it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MissedBy {
    /// What kind of identity, as rules write it: `user`, and not which.
    pub(crate) kind: &'static str,
    /// Whose share of the journal it takes.
    pub(super) owner: u64,
}

/// How often it was wanted, when, and by whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MissRecord {
    pub(crate) first: Timestamp,
    pub(crate) last: Timestamp,
    pub(crate) count: u64,
    pub(crate) kinds: BTreeSet<String>,
    /// Whoever wanted it first.
    pub(super) owner: u64,
}

impl MissedThing {
    pub(crate) fn of(reference: &Reference) -> Self {
        match reference {
            Reference::Tag(tag) => Self::Tag(tag.clone()),
            Reference::Digest(digest) => Self::Manifest(digest.clone()),
        }
    }
}

impl MissedBy {
    /// `who` shares what he has of the journal with nobody else.
    pub(crate) fn new(kind: &'static str, who: &impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        who.hash(&mut hasher);
        Self { kind, owner: hasher.finish() }
    }
}
