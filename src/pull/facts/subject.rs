//! What a fact says something about. The repository for which it holds is not part of it.

use crate::expiring::weight;
use crate::oci::{CanonicalName, Digest, Reference};

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

/// Bytes that a fact costs which is kept by this key.
pub(super) fn weigh((subject, name): &(Subject, CanonicalName)) -> u32 {
    let subject = match subject {
        Subject::Manifest(Reference::Tag(tag)) => tag.as_str(),
        Subject::Manifest(Reference::Digest(digest))
        | Subject::Blob(digest)
        | Subject::Referrers(digest) => digest.as_str(),
        Subject::Tags => "",
    };
    weight(name.text_len() + subject.len())
}
