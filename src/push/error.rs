//! Why something could not be pushed.

use std::time::Duration;

use crate::oci::ErrorCode;
use crate::pull::{self, Missing};
use crate::upstream::{self, ErrorKind};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry does not take what was written, and says why.
    #[error("{cause}")]
    Rejected { status: u16, code: Option<ErrorCode>, cause: upstream::Error },
    /// The registry does not let this proxy write there.
    #[error("{0}")]
    Denied(upstream::Error),
    /// The registry did not take the login that the bytes went with. The next request has a newer
    /// one; the bytes are gone, so the client has to send them again.
    #[error("{0}")]
    LoginReplaced(upstream::Error),
    /// The registry fails, or says nothing: as for a pull.
    #[error(transparent)]
    Upstream(pull::Error),
    /// The upstream is no longer configured.
    #[error("the upstream is not configured any more")]
    Gone,
    /// The process ends.
    #[error("the proxy is being stopped")]
    Abandoned,
    /// The registry answered something that makes no sense here.
    #[error("the registry answered with {0}")]
    Untrue(&'static str),
    /// A manifest by a digest that it does not have.
    #[error("the manifest does not have the digest that it is put under")]
    WrongDigest,
    /// The client broke off, or sent something else than it announced.
    #[error("the client broke off: {0}")]
    ClientBrokeOff(String),
    /// The client sent nothing for too long.
    #[error("the client sent nothing for {} s", .0.as_secs())]
    ClientStalled(Duration),
    /// The registry took nothing for too long.
    #[error("the registry took nothing for {} s", .0.as_secs())]
    RegistryStalled(Duration),
}

impl Error {
    /// The failure as a word in logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Rejected { .. } => "rejected",
            Self::Denied(_) => "refused",
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

impl From<upstream::Error> for Error {
    fn from(error: upstream::Error) -> Self {
        match error.kind() {
            ErrorKind::Rejected { status, code } => {
                Self::Rejected { status: *status, code: *code, cause: error }
            }
            ErrorKind::Denied => Self::Denied(error),
            ErrorKind::TokenReplaced => Self::LoginReplaced(error),
            ErrorKind::NotFound
            | ErrorKind::CredentialRejected
            | ErrorKind::NoLogin
            | ErrorKind::RateLimited { .. }
            | ErrorKind::Unreachable
            | ErrorKind::Timeout
            | ErrorKind::ServerError(_)
            | ErrorKind::Protocol
            | ErrorKind::ForbiddenAddress => {
                Self::Upstream(pull::Error::from_upstream(error, Missing::Repository))
            }
        }
    }
}
