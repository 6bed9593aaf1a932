//! What a fact says something about. The repository for which it holds is not part of it.

use crate::oci::{Digest, Reference};

/// What can be absent, and what a write can change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Manifest(Reference),
    Blob(Digest),
    /// All tags of the repository. Every write of a manifest or tag changes it, because a manifest
    /// that is deleted takes tags with it, and which ones is not always known.
    Tags,
    /// What refers to this manifest.
    Referrers(Digest),
}

impl Subject {
    /// The content that this is, if it is named by its digest.
    pub(super) fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Blob(digest) | Self::Manifest(Reference::Digest(digest)) => Some(digest),
            Self::Manifest(Reference::Tag(_)) | Self::Tags | Self::Referrers(_) => None,
        }
    }
}
