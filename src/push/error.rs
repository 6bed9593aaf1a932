//! Why something could not be pushed.

use std::time::Duration;

use crate::oci::ErrorCode;
use crate::pull::{self, Missing};
use crate::upstream::{self, ErrorKind};

/// Why a push, or a delete, was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The registry does not accept what was written; `status` and `code` are its own words.
    #[error("{cause}")]
    Rejected { status: u16, code: Option<ErrorCode>, cause: upstream::Error },
    /// The registry does not let this proxy's account write there.
    #[error("{0}")]
    Denied(upstream::Error),
    /// The registry refused the token that the bytes were sent with, and a newer one is at hand
    /// now. The bytes are gone, because nothing is sent to a registry twice. If the client
    /// sends them again, they go with the newer token.
    #[error("{0}")]
    LoginReplaced(upstream::Error),
    /// The upstream is sealed: nothing is written to it, and what was under way is cut.
    #[error("{0}")]
    Sealed(upstream::Error),
    /// The registry fails, or does not answer; as for a pull.
    #[error(transparent)]
    Upstream(pull::Error),
    /// A reload has removed the upstream since the request was routed.
    #[error("the upstream is not configured any more")]
    Gone,
    /// The process is ending.
    #[error("the proxy is being stopped")]
    Abandoned,
    /// The registry's answer cannot be right.
    #[error("the registry answered with {0}")]
    Untrue(&'static str),
    /// The client puts a manifest by a digest that it does not have.
    #[error("the manifest does not have the digest that it is put under")]
    WrongDigest,
    /// The client broke off, or sent another number of bytes than it had announced.
    #[error("the client broke off: {0}")]
    ClientBrokeOff(String),
    /// The client sent nothing for this long (`limits.receive_idle`).
    #[error("the client sent nothing for {} s", .0.as_secs())]
    ClientStalled(Duration),
    /// The registry took nothing, or did not answer, for this long (`limits.upstream_idle`, or
    /// `limits.commit` after the last byte).
    #[error("the registry took nothing for {} s", .0.as_secs())]
    RegistryStalled(Duration),
}

impl Error {
    /// The failure as a word in logs and metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Rejected { .. } => "rejected",
            Self::Denied(_) => "refused",
            Self::Sealed(_) => "sealed",
            Self::LoginReplaced(_) => "login_replaced",
            Self::Upstream(error) => error.reason(),
            Self::Gone => "absent",
            Self::Abandoned => "abandoned",
            Self::Untrue(_) => "untrue",
            Self::WrongDigest => "wrong_digest",
            Self::ClientBrokeOff(_) => "client_broke_off",
            Self::ClientStalled(_) => "client_stalled",
            Self::RegistryStalled(_) => "late",
        }
    }
}

impl Error {
    /// Why, in the registry's own words: one line, bounded (ERR-4).
    pub(crate) fn registry_says(&self) -> Option<&str> {
        match self {
            Self::Rejected { cause, .. } | Self::Denied(cause) => cause.said(),
            Self::LoginReplaced(_)
            | Self::Sealed(_)
            | Self::Upstream(_)
            | Self::Gone
            | Self::Abandoned
            | Self::Untrue(_)
            | Self::WrongDigest
            | Self::ClientBrokeOff(_)
            | Self::ClientStalled(_)
            | Self::RegistryStalled(_) => None,
        }
    }
}

impl From<upstream::Error> for Error {
    fn from(error: upstream::Error) -> Self {
        match error.kind() {
            ErrorKind::Rejected { status, code } => {
                Self::Rejected { status: *status, code: *code, cause: error }
            }
            ErrorKind::Denied => Self::Denied(error),
            ErrorKind::Sealed => Self::Sealed(error),
            ErrorKind::TokenReplaced => Self::LoginReplaced(error),
            ErrorKind::NotFound
            | ErrorKind::UnconfirmedAbsence
            | ErrorKind::CredentialRejected
            | ErrorKind::CredentialWithdrawn
            | ErrorKind::NoLogin
            | ErrorKind::RateLimited { .. }
            | ErrorKind::OutOfResources
            | ErrorKind::Crowded
            | ErrorKind::Unreachable
            | ErrorKind::Timeout
            | ErrorKind::ServerError(_)
            | ErrorKind::Protocol
            | ErrorKind::TooLarge
            | ErrorKind::ForbiddenAddress => {
                Self::Upstream(pull::Error::from_upstream(error, Missing::Repository))
            }
        }
    }
}
