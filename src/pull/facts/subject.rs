//! What a fact is about, beside the repository that it holds for.

use std::time::Duration;

use crate::limits::Limits;
use crate::oci::{Digest, Reference};

/// What can be absent, and what a write changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Manifest(Reference),
    Blob(Digest),
    /// Changed by every write of a manifest or tag: which tags a manifest had is not always known.
    Tags,
    Referrers(Digest),
}

impl Subject {
    /// How long its absence is believed. Nearly every pull asks for referrers, and for the tags that
    /// stand in for them where there is no such API (REF-5), so those are asked for less often.
    pub(super) fn believed_absent_for(&self, limits: &Limits) -> Duration {
        match self {
            Self::Referrers(_) => limits.negative_referrers,
            Self::Manifest(Reference::Tag(tag)) if tag.is_of_referrers() => {
                limits.negative_referrers
            }
            Self::Manifest(_) | Self::Blob(_) | Self::Tags => limits.negative,
        }
    }
}
