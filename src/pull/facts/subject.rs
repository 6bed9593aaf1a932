//! What a fact says something about. The repository for which it holds is not part of it.

use std::time::Duration;

use crate::limits::Limits;
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

    /// How long an absence is believed. Nearly every pull asks for referrers, and for the tags that
    /// stand in for them where there is no such API, so that there are none is believed for longer
    /// (REF-5).
    pub(super) fn absence_life(&self, limits: &Limits) -> Duration {
        match self {
            Self::Referrers(_) => limits.negative_referrers,
            Self::Manifest(Reference::Tag(tag)) if tag.is_of_referrers() => {
                limits.negative_referrers
            }
            Self::Manifest(_) | Self::Blob(_) | Self::Tags => limits.negative,
        }
    }
}
