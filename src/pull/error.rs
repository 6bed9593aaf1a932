//! Why a pull could not be answered, by what it means to the caller. Shared by everyone who waited
//! for it.

use std::sync::Arc;
use std::time::Duration;

use crate::oci::{Digest, UpstreamName};
use crate::upstream::ErrorKind;
use crate::{store, upstream};

/// Cheap to clone: followers of one transfer all get the same.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Upstream says that the repository has no such blob.
    #[error("upstream has no such blob")]
    BlobUnknown,
    /// Upstream says that the repository has no such manifest.
    #[error("upstream has no such manifest")]
    ManifestUnknown,
    /// Upstream says that there is no such repository.
    #[error("upstream has no such repository")]
    NameUnknown,
    /// Upstream has no referrers API (REF-4).
    #[error("upstream has no referrers for this")]
    NoReferrers,
    /// Upstream refuses the repository, although our credential, if there is one, is good (UP-9).
    #[error("{0}")]
    Refused(Arc<upstream::Error>),
    /// Upstream is throttling us.
    #[error("upstream allows no more requests for {} s", retry_after.as_secs())]
    RateLimited { retry_after: Duration },
    /// Upstream cannot be reached, fails, or does not speak the protocol.
    #[error("{0}")]
    Upstream(Arc<upstream::Error>),
    /// Upstream answered with something that is not what was asked for.
    #[error("{upstream} sent {reason}")]
    Untrue { upstream: UpstreamName, reason: Arc<str> },
    /// The transfer went on to fail although it had been continued as often as it may be.
    #[error("the transfer broke {attempts} times: {last}")]
    Broken { attempts: u32, last: Arc<upstream::Error> },
    /// Too many downloads are under way.
    #[error("too many downloads are under way")]
    Overloaded,
    /// No answer within the time a client waits.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    /// The asked range is not in a blob of this size.
    #[error("the range is outside of a blob of {size} bytes")]
    RangeUnsatisfiable { size: u64 },
    /// A stored file is not what its name says; it is gone now.
    #[error("the stored content of {0} was damaged and has been removed")]
    Damaged(Digest),
    /// Our own disk or database.
    #[error("{0}")]
    Storage(Arc<store::Error>),
    /// The disk filled up during the download; the next request is passed through.
    #[error("the cache's disk filled up during the download")]
    NoRoom,
    /// The transfer ended with the process, or because nobody wanted it any more.
    #[error("the download was given up")]
    Abandoned,
}

impl Error {
    /// The failure as a metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BlobUnknown | Self::ManifestUnknown | Self::NameUnknown | Self::NoReferrers => {
                "absent"
            }
            Self::Refused(_) => "refused",
            Self::RateLimited { .. } => "rate_limited",
            Self::Upstream(_) => "upstream",
            Self::Untrue { .. } => "untrue",
            Self::Broken { .. } => "broken",
            Self::Overloaded => "overloaded",
            Self::Late(_) => "late",
            Self::RangeUnsatisfiable { .. } => "range",
            Self::Damaged(_) => "damaged",
            Self::Storage(_) => "storage",
            Self::NoRoom => "no_room",
            Self::Abandoned => "abandoned",
        }
    }

    /// Whether a known answer may be served instead: only where upstream did not answer (DESIGN
    /// §4).
    pub fn may_serve_stale(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Broken { .. } | Self::Overloaded | Self::Late(_) => {
                true
            }
            Self::Upstream(error) => did_not_answer(error.kind()),
            Self::BlobUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown
            | Self::NoReferrers
            | Self::Refused(_)
            | Self::Untrue { .. }
            | Self::RangeUnsatisfiable { .. }
            | Self::Damaged(_)
            | Self::Storage(_)
            | Self::NoRoom
            | Self::Abandoned => false,
        }
    }

    pub(super) fn untrue(upstream: &UpstreamName, reason: impl Into<Arc<str>>) -> Self {
        Self::Untrue { upstream: upstream.clone(), reason: reason.into() }
    }

    /// Folds an upstream failure; `absent` is what a 404 means here.
    pub(super) fn from_upstream(error: upstream::Error, absent: Self) -> Self {
        match error.kind() {
            ErrorKind::NotFound => absent,
            ErrorKind::Denied => Self::Refused(Arc::new(error)),
            ErrorKind::RateLimited { retry_after } => {
                Self::RateLimited { retry_after: *retry_after }
            }
            ErrorKind::CredentialRejected
            | ErrorKind::NoLogin
            | ErrorKind::Unreachable
            | ErrorKind::Timeout
            | ErrorKind::ServerError(_)
            | ErrorKind::Rejected { .. }
            | ErrorKind::Outdated
            | ErrorKind::Protocol
            | ErrorKind::Refused => Self::Upstream(Arc::new(error)),
        }
    }
}

/// Network failures and 5xx, and what kept us from asking; what upstream said wrongly is an answer
/// (DESIGN §14.2).
fn did_not_answer(kind: &ErrorKind) -> bool {
    match kind {
        ErrorKind::NoLogin
        | ErrorKind::Unreachable
        | ErrorKind::Timeout
        | ErrorKind::ServerError(_)
        | ErrorKind::RateLimited { .. } => true,
        ErrorKind::NotFound
        | ErrorKind::Denied
        | ErrorKind::CredentialRejected
        | ErrorKind::Rejected { .. }
        | ErrorKind::Outdated
        | ErrorKind::Protocol
        | ErrorKind::Refused => false,
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Storage(Arc::new(error))
    }
}
