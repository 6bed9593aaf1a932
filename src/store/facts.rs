//! What the records hold: small facts that can be asked of an upstream again.

use crate::clock::Timestamp;
use crate::oci::{Digest, MediaType};

/// The digest that a tag was last known to have, and when upstream last said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagRecord {
    pub digest: Digest,
    pub checked: Timestamp,
}

/// A digest that an upstream has proven to be in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The type it was served with, if it was proven as a manifest (MAN-4).
    pub media_type: Option<MediaType>,
    /// Set once the upstream has refused something else of the repository: when the repository had
    /// last been confirmed until then. Only the upstream's word on this very digest clears it.
    pub doubted: Option<Timestamp>,
    /// When the upstream last said so of this very digest, give or take a moment.
    pub seen: Timestamp,
}

/// What a published file looked like; another size or time means that somebody else wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Bytes.
    pub(super) size: u64,
    /// When it was last written, in nanoseconds since the epoch.
    pub(super) mtime: i64,
}
