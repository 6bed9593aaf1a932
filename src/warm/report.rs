//! What came of it.

use std::fmt;

use super::parts::Part;
use crate::oci::{CanonicalName, Digest, ImageReference, MediaType, Tag};
use crate::pull::Error;
use crate::upstream::FailureClass;

/// What came of all images together.
#[derive(Clone, Debug)]
pub(crate) struct WarmReport {
    pub(crate) images: usize,
    pub(crate) is_dry_run: bool,
    /// What was not here; each blob once.
    pub(crate) fetched: Amount,
    pub(crate) present: Amount,
    /// Those of which something is missing that is wanted.
    pub(crate) incomplete: Vec<WarmedImage>,
    /// Of those that are complete, if that was asked for.
    pub(crate) contents: Vec<WarmedContents>,
}

/// Everything of an image that is wanted, and is here.
#[derive(Clone, Debug)]
pub(crate) struct WarmedContents {
    pub(crate) image: ImageReference,
    pub(crate) name: CanonicalName,
    pub(crate) digest: Digest,
    /// Tags of it and of what is attached to it, and where they lead.
    pub(crate) tags: Vec<(Tag, Digest)>,
    /// Manifests that nothing leads to but the registry's list of what is attached.
    pub(crate) attached: Vec<Digest>,
    pub(crate) parts: Vec<WarmedPart>,
}

#[derive(Clone, Debug)]
pub(crate) struct WarmedPart {
    pub(crate) digest: Digest,
    /// Bytes.
    pub(crate) size: u64,
    /// Of a manifest: as what it was served.
    pub(crate) media_type: Option<MediaType>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) blobs: u64,
    pub(crate) bytes: u64,
}

/// What came of one image.
#[derive(Clone, Debug)]
pub(crate) struct WarmedImage {
    pub(crate) image: ImageReference,
    pub(crate) name: CanonicalName,
    /// If it was found.
    pub(crate) digest: Option<Digest>,
    pub(crate) platforms: Vec<String>,
    /// All of it that is wanted.
    pub(crate) all: Amount,
    /// What of it is not here.
    pub(crate) absent: Amount,
    pub(crate) missing: Vec<MissingPart>,
}

/// Something that is wanted and not here, although it was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MissingPart {
    /// A digest, `tag 1.27`, `platform linux/arm64`, or `referrers of sha256:…`.
    pub(crate) what: String,
    pub(crate) reason: MissingReason,
    pub(crate) why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MissingReason {
    /// There is no such thing.
    Absent,
    /// We may not have it.
    Refused,
    /// Its upstream may not be asked (SEAL-1).
    Sealed,
    /// It was not to be had, or could not be kept.
    Failed,
}

impl Amount {
    pub(super) fn add(&mut self, part: &Part) {
        self.blobs += 1;
        self.bytes += part.size;
    }
}

impl MissingPart {
    pub(super) fn of(what: impl Into<String>, error: &Error) -> Self {
        let reason = match error.class() {
            _ if matches!(error, Error::Sealed { .. }) => MissingReason::Sealed,
            FailureClass::Absent => MissingReason::Absent,
            FailureClass::Refused | FailureClass::Credential | FailureClass::Withdrawn => {
                MissingReason::Refused
            }
            FailureClass::Passing | FailureClass::Untrue | FailureClass::Ours => {
                MissingReason::Failed
            }
        };
        let has_room = !matches!(error, Error::NoRoom);
        let why = if has_room { error.to_string() } else { NO_ROOM.to_owned() };
        Self { what: what.into(), reason, why }
    }

    /// It came, and had to go again.
    pub(super) fn not_kept(what: impl Into<String>) -> Self {
        Self { what: what.into(), reason: MissingReason::Failed, why: NO_ROOM.to_owned() }
    }
}

const NO_ROOM: &str = "there is no room to keep it: make cache.max_size or the disk larger";

impl fmt::Display for MissingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Absent => "absent",
            Self::Refused => "refused",
            Self::Sealed => "sealed",
            Self::Failed => "failed",
        })
    }
}
