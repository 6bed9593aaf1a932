//! Why a pull could not be answered, by what it means to the caller.

use std::sync::Arc;
use std::time::Duration;

use super::outcome::Outcome;
use crate::oci::{Digest, UpstreamName, retry_after_seconds};
use crate::upstream::{ErrorKind, FailureClass};
use crate::{store, upstream};

/// Cheap to clone: everybody who waits for one transfer gets the same error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Upstream says that there is no such thing. `remembered`: it said so a moment ago and was not
    /// asked again (PROTOCOL §3.12).
    #[error("{what}{}", if *.remembered { " (said a moment ago)" } else { "" })]
    Absent { what: Missing, remembered: bool },
    /// Something has answered 404 that nobody vouches for (UP-10). The client is told so; nothing
    /// else follows from it.
    #[error("{cause}")]
    Unconfirmed { what: Missing, cause: Arc<upstream::Error> },
    /// The upstream is sealed, and this is not here (SEAL-4).
    #[error("it is sealed, and this is not in the cache")]
    Sealed { what: Missing },
    /// Upstream refuses the repository, although our credential, if there is one, is good (UP-9).
    #[error("{0}")]
    Refused(Arc<upstream::Error>),
    /// Upstream has answered 429; nothing of this kind is asked until `retry_after` has passed.
    #[error("upstream allows no more requests for {} s", retry_after_seconds(*retry_after))]
    RateLimited { retry_after: Duration },
    /// Upstream cannot be reached, fails, or does not speak the protocol.
    #[error("{cause}")]
    Upstream { fault: UpstreamFault, cause: Arc<upstream::Error> },
    /// Upstream answered with something that is not what was asked for.
    #[error("{upstream} sent {reason}")]
    Untrue { upstream: UpstreamName, reason: Arc<str> },
    /// The transfer broke off several times in a row with little progress (DESIGN §14.6).
    #[error("the transfer broke {attempts} times: {last}")]
    Broken { attempts: u32, last: Arc<Error> },
    /// This machine has no descriptors, memory or ports left to ask upstream with.
    #[error("{0}")]
    Exhausted(Arc<upstream::Error>),
    /// The download, or a large list, found no place among the others in time.
    #[error("too many downloads, questions or large lists are under way")]
    Overloaded,
    /// No answer within this time.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
    /// The range lies outside of a blob of this size, in bytes.
    #[error("the range is outside of a blob of {size} bytes")]
    RangeUnsatisfiable { size: u64 },
    /// A stored file is not what its name says; it is gone now.
    #[error("the stored content of {0} was damaged and has been removed")]
    Damaged(Digest),
    /// The cache's own disk or database failed.
    #[error("{0}")]
    Storage(Arc<store::Error>),
    /// The disk filled up during the download; the next request is passed through.
    #[error("the cache's disk filled up during the download")]
    NoRoom,
    /// The transfer ended with the process, or because nobody wanted it any more.
    #[error("the download was given up")]
    Abandoned,
}

/// What it is that upstream does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    #[error("upstream has no such blob")]
    Blob,
    #[error("upstream has no such manifest")]
    Manifest,
    #[error("upstream has no such repository")]
    Repository,
}

/// How an upstream failed, as far as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamFault {
    /// No connection, or it is left alone for a while after several failures.
    Unreachable,
    /// No answer in time.
    Silent,
    /// It answers with a 5xx.
    Failing,
    /// It rejects the credential that this proxy has for it.
    CredentialRejected,
    /// It has taken that credential back (UP-13).
    CredentialWithdrawn,
    /// The credential helper gives no login for it.
    NoLogin,
    /// Its answer is not one that the specifications allow.
    Malformed,
    /// Its answer is larger than we take.
    TooLarge,
    /// It points to an address that must not be dialled.
    ForbiddenAddress,
    /// It refuses in a way that has no other word.
    Rejected,
}

impl Error {
    /// The failure as a label of metrics and as a word in logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Absent { .. } => "absent",
            Self::Unconfirmed { .. } => "unconfirmed",
            Self::Sealed { .. } => "sealed",
            Self::Refused(_) => "refused",
            Self::RateLimited { .. } => "rate_limited",
            Self::Upstream { .. } => "upstream",
            Self::Untrue { .. } => "untrue",
            Self::Broken { .. } => "broken",
            Self::Exhausted(_) => "exhausted",
            Self::Overloaded => "overloaded",
            Self::Late(_) => "late",
            Self::RangeUnsatisfiable { .. } => "range",
            Self::Damaged(_) => "damaged",
            Self::Storage(_) => "storage",
            Self::NoRoom => "no_room",
            Self::Abandoned => "abandoned",
        }
    }

    /// What the failure says about the thing that was asked for.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Absent { .. } => FailureClass::Absent,
            Self::Unconfirmed { cause, .. }
            | Self::Refused(cause)
            | Self::Upstream { cause, .. } => cause.class(),
            Self::Sealed { .. }
            | Self::RateLimited { .. }
            | Self::Broken { .. }
            | Self::Exhausted(_)
            | Self::Overloaded
            | Self::Late(_) => FailureClass::Passing,
            Self::Untrue { .. } => FailureClass::Untrue,
            Self::RangeUnsatisfiable { .. }
            | Self::Damaged(_)
            | Self::Storage(_)
            | Self::NoRoom
            | Self::Abandoned => FailureClass::Ours,
        }
    }

    /// What the cache did for the request that ends in this failure.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Absent { remembered: true, .. } => Outcome::Negative,
            Self::Absent { remembered: false, .. } => Outcome::Absent,
            Self::Sealed { .. } => Outcome::Sealed,
            Self::Unconfirmed { .. }
            | Self::Refused(_)
            | Self::RateLimited { .. }
            | Self::Upstream { .. }
            | Self::Untrue { .. }
            | Self::Broken { .. }
            | Self::Exhausted(_)
            | Self::Overloaded
            | Self::Late(_)
            | Self::RangeUnsatisfiable { .. }
            | Self::Damaged(_)
            | Self::Storage(_)
            | Self::NoRoom
            | Self::Abandoned => Outcome::Failed,
        }
    }

    /// Whether a known answer may be served instead: only where nothing was said about the thing
    /// (DESIGN §4). A refusal or an absence is never covered up.
    pub fn may_serve_stale(&self) -> bool {
        matches!(self.class(), FailureClass::Passing | FailureClass::Credential)
    }

    /// The cache could not keep or read the bytes; upstream can still give them.
    pub(super) fn is_of_our_disk(&self) -> bool {
        matches!(self, Self::NoRoom | Self::Storage(_))
    }

    /// Upstream has just said that there is no such thing.
    pub(super) fn absent(what: Missing) -> Self {
        Self::Absent { what, remembered: false }
    }

    pub(super) fn is_absent(&self, wanted: Missing) -> bool {
        matches!(self, Self::Absent { what, .. } if *what == wanted)
    }

    /// Whether the client would be told that there is no such thing, whoever has said so.
    pub(super) fn is_told_absent(&self, wanted: Missing) -> bool {
        self.is_absent(wanted)
            || matches!(self, Self::Unconfirmed { what, .. } | Self::Sealed { what } if *what == wanted)
    }

    pub(super) fn untrue(upstream: &UpstreamName, reason: impl Into<Arc<str>>) -> Self {
        Self::Untrue { upstream: upstream.clone(), reason: reason.into() }
    }

    /// Takes over an upstream's failure; `what` is missing if it answered 404.
    pub(crate) fn from_upstream(error: upstream::Error, what: Missing) -> Self {
        let fault = match error.kind() {
            ErrorKind::NotFound => return Self::absent(what),
            ErrorKind::UnconfirmedAbsence => {
                return Self::Unconfirmed { what, cause: Arc::new(error) };
            }
            ErrorKind::Sealed => return Self::Sealed { what },
            ErrorKind::Denied => return Self::Refused(Arc::new(error)),
            ErrorKind::RateLimited { retry_after } => {
                return Self::RateLimited { retry_after: *retry_after };
            }
            ErrorKind::OutOfResources => return Self::Exhausted(Arc::new(error)),
            ErrorKind::Crowded => return Self::Overloaded,
            ErrorKind::CredentialRejected => UpstreamFault::CredentialRejected,
            ErrorKind::CredentialWithdrawn => UpstreamFault::CredentialWithdrawn,
            ErrorKind::NoLogin => UpstreamFault::NoLogin,
            ErrorKind::Unreachable => UpstreamFault::Unreachable,
            ErrorKind::Timeout => UpstreamFault::Silent,
            ErrorKind::ServerError(_) => UpstreamFault::Failing,
            ErrorKind::Protocol => UpstreamFault::Malformed,
            ErrorKind::TooLarge => UpstreamFault::TooLarge,
            ErrorKind::ForbiddenAddress => UpstreamFault::ForbiddenAddress,
            ErrorKind::Rejected { .. } | ErrorKind::TokenReplaced => UpstreamFault::Rejected,
        };
        Self::Upstream { fault, cause: Arc::new(error) }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Storage(Arc::new(error))
    }
}
