//! From failures to HTTP: one exhaustive mapping.

use std::time::Duration;

use http::StatusCode;

use crate::oci::{ContentRange, ErrorCode, ParseError};
use crate::pull;
use crate::push;
use crate::upstream::ErrorKind;

/// An answer that refuses, with the spec's code and a sentence for the client.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: ErrorCode,
    pub(super) message: String,
    pub(super) extra: Extra,
    /// For the log; never sent.
    pub(super) cause: Option<String>,
}

/// What a refusal says beside its document.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Extra {
    Nothing,
    /// `Retry-After`, in whole seconds (ERR-2).
    RetryAfter(u64),
    /// `Allow`, with the methods there are.
    Allow(&'static str),
    /// `WWW-Authenticate`.
    Challenge(String),
    /// `Content-Range` of a 416.
    Unsatisfied(ContentRange),
    /// The connection cannot be used further.
    Close,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), extra: Extra::Nothing, cause: None }
    }

    /// Absent and forbidden look the same (DESIGN §4).
    pub(super) fn unknown_name() -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorCode::NameUnknown, "no such repository here")
    }

    pub(super) fn read_only() -> Self {
        let message = "this repository is a read-only mirror; push to the registry itself";
        Self {
            extra: Extra::Allow("GET, HEAD"),
            ..Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
        }
    }

    /// A host that is not one of ours (ACCESS §1.2).
    pub(super) fn misdirected() -> Self {
        let message = "this is no name of this proxy; the operator lists its names under hosts";
        Self::new(StatusCode::MISDIRECTED_REQUEST, ErrorCode::NameUnknown, message)
    }

    /// The certificate that this connection began with.
    pub(super) fn certificate_ended() -> Self {
        let message = "the client certificate is not valid any more; connect with a new one";
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message).with(Extra::Close)
    }

    pub(super) fn overloaded() -> Self {
        let message = "too many logins are being checked; try again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, message)
            .with(Extra::RetryAfter(5))
    }

    pub(super) fn with(self, extra: Extra) -> Self {
        Self { extra, ..self }
    }
}

impl From<ParseError> for Refusal {
    fn from(error: ParseError) -> Self {
        let status = match error.code() {
            ErrorCode::NameUnknown | ErrorCode::ManifestUnknown | ErrorCode::BlobUnknown => {
                StatusCode::NOT_FOUND
            }
            ErrorCode::NameInvalid
            | ErrorCode::BlobUploadInvalid
            | ErrorCode::BlobUploadUnknown
            | ErrorCode::DigestInvalid
            | ErrorCode::ManifestBlobUnknown
            | ErrorCode::ManifestInvalid
            | ErrorCode::SizeInvalid
            | ErrorCode::PaginationNumberInvalid
            | ErrorCode::Unauthorized
            | ErrorCode::Denied
            | ErrorCode::Unsupported
            | ErrorCode::TooManyRequests
            | ErrorCode::RangeInvalid
            | ErrorCode::Unavailable
            | ErrorCode::Unknown => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.code(), error.message())
    }
}

impl From<pull::Error> for Refusal {
    fn from(error: pull::Error) -> Self {
        use pull::Error;
        let unavailable =
            |status, message: &str| Self::new(status, ErrorCode::Unavailable, message);
        let refusal = match &error {
            Error::BlobUnknown => {
                Self::new(StatusCode::NOT_FOUND, ErrorCode::BlobUnknown, "no such blob")
            }
            Error::ManifestUnknown => {
                Self::new(StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown, "no such manifest")
            }
            Error::NameUnknown => Self::unknown_name(),
            // Some clients read NAME_UNKNOWN here as "no such repository" (REF-4).
            Error::NoReferrers => Self::new(
                StatusCode::NOT_FOUND,
                ErrorCode::Unsupported,
                "no referrers API upstream",
            ),
            Error::Refused(_) => {
                let message = "the upstream registry refuses this repository; it may not exist";
                Self::new(StatusCode::NOT_FOUND, ErrorCode::NameUnknown, message)
            }
            Error::RateLimited { retry_after } => {
                let message = "the upstream registry allows no more requests for now";
                Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
                    .with(Extra::RetryAfter(seconds(*retry_after)))
            }
            Error::Upstream(cause) => from_upstream(cause.kind()),
            Error::Untrue { .. } => {
                unavailable(StatusCode::BAD_GATEWAY, "the upstream registry sent something wrong")
            }
            Error::Broken { .. } => {
                unavailable(StatusCode::BAD_GATEWAY, "the transfer from upstream kept breaking")
            }
            Error::Overloaded => {
                unavailable(StatusCode::SERVICE_UNAVAILABLE, "too many downloads are under way")
                    .with(Extra::RetryAfter(5))
            }
            Error::Late(_) => unavailable(
                StatusCode::GATEWAY_TIMEOUT,
                "the upstream registry did not answer in time",
            ),
            Error::RangeUnsatisfiable { size } => {
                let message = "the range lies outside of the blob";
                Self::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::RangeInvalid, message)
                    .with(Extra::Unsatisfied(ContentRange::Unsatisfied { size: *size }))
            }
            Error::Damaged(_) | Error::NoRoom | Error::Abandoned => unavailable(
                StatusCode::SERVICE_UNAVAILABLE,
                "the download was interrupted; ask again",
            )
            .with(Extra::RetryAfter(1)),
            Error::Storage(_) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                ErrorCode::Unknown,
                "the cache cannot be read",
            ),
        };
        Self { cause: Some(error.to_string()), ..refusal }
    }
}

impl From<push::Error> for Refusal {
    fn from(error: push::Error) -> Self {
        use push::Error;
        let unavailable =
            |status, message: &str| Self::new(status, ErrorCode::Unavailable, message);
        let refusal = match &error {
            Error::Upstream(cause) => from_registry(cause.kind()),
            Error::Gone => Self::unknown_name(),
            Error::Abandoned => unavailable(
                StatusCode::SERVICE_UNAVAILABLE,
                "the proxy is being stopped; try again",
            ),
            Error::Untrue(_) => {
                unavailable(StatusCode::BAD_GATEWAY, "the upstream registry sent something wrong")
            }
            Error::WrongDigest => {
                let message = "the manifest does not have the digest that it is put under";
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid, message)
            }
            Error::ClientBrokeOff(_) => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid, "the request broke off")
                    .with(Extra::Close)
            }
            Error::ClientStalled(_) => {
                unavailable(StatusCode::REQUEST_TIMEOUT, "the request sent nothing for too long")
                    .with(Extra::Close)
            }
            Error::RegistryStalled(_) => unavailable(
                StatusCode::GATEWAY_TIMEOUT,
                "the upstream registry did not answer in time",
            ),
        };
        Self { cause: Some(error.to_string()), ..refusal }
    }
}

/// What the registry says to a write is the client's to know, in our words (ERR-4).
fn from_registry(kind: &ErrorKind) -> Refusal {
    match kind {
        ErrorKind::Rejected { status, code } => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST);
            let code = code.unwrap_or(match status {
                StatusCode::RANGE_NOT_SATISFIABLE => ErrorCode::RangeInvalid,
                StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::SizeInvalid,
                StatusCode::METHOD_NOT_ALLOWED => ErrorCode::Unsupported,
                _ => ErrorCode::Unknown,
            });
            Refusal::new(status, code, sentence(code))
        }
        ErrorKind::Denied => {
            let message = "the upstream registry does not let this proxy write there";
            Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
        }
        // Clients push the layer again, where a denial would end the push.
        ErrorKind::Outdated => {
            let message = "this proxy had to log in to the upstream registry anew; send it again";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, message)
                .with(Extra::RetryAfter(1))
        }
        ErrorKind::RateLimited { retry_after } => {
            pull::Error::RateLimited { retry_after: *retry_after }.into()
        }
        ErrorKind::NotFound
        | ErrorKind::CredentialRejected
        | ErrorKind::NoLogin
        | ErrorKind::Unreachable
        | ErrorKind::Timeout
        | ErrorKind::ServerError(_)
        | ErrorKind::Protocol
        | ErrorKind::Refused => from_upstream(kind),
    }
}

/// What a code of the spec means to somebody who pushes.
fn sentence(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BlobUnknown => "the registry has no such blob",
        ErrorCode::BlobUploadInvalid => "the registry does not take this part of the upload",
        ErrorCode::BlobUploadUnknown => {
            "the registry does not know this upload any more; begin it again"
        }
        ErrorCode::DigestInvalid => "what arrived at the registry does not have this digest",
        ErrorCode::ManifestBlobUnknown => {
            "the manifest lists content that the repository does not have; push that first"
        }
        ErrorCode::ManifestInvalid => "the registry does not take this manifest",
        ErrorCode::ManifestUnknown => "the registry has no such manifest",
        ErrorCode::NameInvalid => "the registry does not take this name",
        ErrorCode::NameUnknown => "the registry has no such repository",
        ErrorCode::SizeInvalid => {
            "the registry got another number of bytes than was announced, or too many"
        }
        ErrorCode::Unauthorized | ErrorCode::Denied => {
            "the registry does not let this proxy write there"
        }
        ErrorCode::Unsupported => "the registry does not do this",
        ErrorCode::TooManyRequests => "the registry allows no more requests for now",
        ErrorCode::RangeInvalid => {
            "the bytes do not follow those that the registry has; ask for the upload's status"
        }
        ErrorCode::PaginationNumberInvalid | ErrorCode::Unavailable | ErrorCode::Unknown => {
            "the registry refuses this"
        }
    }
}

/// 502 sends clients to their next host at once, where other 5xx would be retried (ERR-1).
fn from_upstream(kind: &ErrorKind) -> Refusal {
    let (status, message) = match kind {
        ErrorKind::Timeout => {
            (StatusCode::GATEWAY_TIMEOUT, "the upstream registry did not answer in time")
        }
        // Never a denial: it would send people looking at their own credentials (UP-9).
        ErrorKind::CredentialRejected => (
            StatusCode::BAD_GATEWAY,
            "the upstream registry rejects the credential that this proxy has for it",
        ),
        ErrorKind::NoLogin => (
            StatusCode::BAD_GATEWAY,
            "this proxy gets no login for the upstream registry from its credential helper",
        ),
        ErrorKind::Unreachable => {
            (StatusCode::BAD_GATEWAY, "the upstream registry cannot be reached")
        }
        ErrorKind::ServerError(_) => {
            (StatusCode::BAD_GATEWAY, "the upstream registry has a failure")
        }
        ErrorKind::Protocol => {
            (StatusCode::BAD_GATEWAY, "the upstream registry sent something wrong")
        }
        ErrorKind::Refused => (
            StatusCode::BAD_GATEWAY,
            "the upstream registry points to an address that is not allowed",
        ),
        ErrorKind::NotFound
        | ErrorKind::Denied
        | ErrorKind::Outdated
        | ErrorKind::RateLimited { .. }
        | ErrorKind::Rejected { .. } => (StatusCode::BAD_GATEWAY, "the upstream registry refused"),
    };
    Refusal::new(status, ErrorCode::Unavailable, message)
}

/// Rounded up, so that a client which waits as told is not early.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
