//! From failures to HTTP: one exhaustive mapping, so that a new failure does not compile until it
//! has an answer.

use http::StatusCode;

use crate::oci::{ContentRange, ErrorCode, ParseError, retry_after_seconds};
use crate::pull;
use crate::pull::{Missing, Outcome, UpstreamFault};
use crate::push;

/// An answer that refuses, with the spec's code and a sentence for the client.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: ErrorCode,
    pub(super) message: String,
    pub(super) extra: Extra,
    /// Why, in one word of a fixed vocabulary; for log and metrics, never sent.
    pub(super) reason: &'static str,
    /// What the cache did, if the request came that far.
    pub(super) outcome: Option<Outcome>,
    /// Why, in a sentence for the log; never sent. None: `message` says it all.
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
        let (message, extra) = (message.into(), Extra::Nothing);
        let reason = reason_of(code);
        Self { status, code, message, extra, reason, outcome: None, cause: None }
    }

    /// What other clients send takes all the memory that there is for it.
    pub(super) fn no_memory() -> Self {
        try_again("too much is being sent at once; try again", 1)
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

    /// Nothing is written to a sealed upstream (SEAL-6).
    pub(super) fn sealed() -> Self {
        let message = "the upstream registry is sealed: nothing is pushed to it or deleted there \
                       until the operator of this proxy opens it";
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message).with_reason("sealed")
    }

    /// A host that is not one of ours (ACCESS §1.2).
    pub(super) fn misdirected() -> Self {
        let message = "this is no name of this proxy; the operator lists its names under hosts";
        Self::new(StatusCode::MISDIRECTED_REQUEST, ErrorCode::NameUnknown, message)
    }

    /// The connection's client certificate has ended. The client has to connect anew to show
    /// another.
    pub(super) fn certificate_ended() -> Self {
        let message = "the client certificate is not valid any more; connect with a new one";
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message).with(Extra::Close)
    }

    /// Whether it is not here, and its upstream is sealed.
    pub(super) fn is_of_seal(&self) -> bool {
        self.outcome == Some(Outcome::Sealed)
    }

    pub(super) fn with(self, extra: Extra) -> Self {
        Self { extra, ..self }
    }

    /// Says why, in a sentence for the log; what was said before stays in front.
    pub(super) fn because(self, cause: &str) -> Self {
        let cause = match self.cause {
            None => cause.to_owned(),
            Some(first) => format!("{first}; {cause}"),
        };
        Self { cause: Some(cause), ..self }
    }

    /// Replaces the reason that follows from the code.
    pub(super) fn with_reason(self, reason: &'static str) -> Self {
        Self { reason, ..self }
    }
}

/// The reason of a refusal that has none of its own, from its code.
fn reason_of(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::BlobUnknown | ErrorCode::ManifestUnknown | ErrorCode::ManifestBlobUnknown => {
            "absent"
        }
        ErrorCode::NameUnknown => "unknown_name",
        ErrorCode::BlobUploadUnknown => "unknown_upload",
        ErrorCode::NameInvalid
        | ErrorCode::BlobUploadInvalid
        | ErrorCode::DigestInvalid
        | ErrorCode::ManifestInvalid
        | ErrorCode::SizeInvalid
        | ErrorCode::PaginationNumberInvalid
        | ErrorCode::RangeInvalid => "bad_request",
        ErrorCode::Unauthorized => "login_needed",
        ErrorCode::Denied => "denied",
        ErrorCode::Unsupported => "unsupported",
        ErrorCode::TooManyRequests => "rate_limited",
        ErrorCode::Unavailable | ErrorCode::Unknown => "failed",
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
        let (reason, outcome) = (error.reason(), Some(error.outcome()));
        Self { reason, outcome, cause: Some(error.to_string()), ..from_pull(&error) }
    }
}

fn from_pull(error: &pull::Error) -> Refusal {
    use pull::Error;
    match error {
        Error::Absent { what, .. } | Error::Unconfirmed { what, .. } => absent(*what),
        Error::Sealed { what } => sealed(*what),
        Error::Refused(_) => {
            let message = "the upstream registry refuses this repository; it may not exist";
            Refusal::new(StatusCode::NOT_FOUND, ErrorCode::NameUnknown, message)
        }
        Error::RateLimited { retry_after } => {
            let message = "the upstream registry allows no more requests for now";
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
                .with(Extra::RetryAfter(retry_after_seconds(*retry_after)))
        }
        Error::Upstream { fault: UpstreamFault::CredentialWithdrawn, cause } => {
            withdrawn(cause.said())
        }
        Error::Upstream { fault, cause } => from_fault(*fault, cause.why()),
        Error::Untrue { .. } => bad_gateway("the upstream registry sent something wrong"),
        Error::Broken { .. } => bad_gateway("the transfer from upstream kept breaking"),
        Error::Overloaded => {
            let said =
                "too many downloads, questions or large lists are under way; try again later";
            try_again(said, 5)
        }
        Error::Late(_) => upstream_timed_out(),
        Error::RangeUnsatisfiable { size } => {
            let message = "the range lies outside of the blob";
            Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::RangeInvalid, message)
                .with(Extra::Unsatisfied(ContentRange::Unsatisfied { size: *size }))
        }
        Error::Damaged(_) | Error::NoRoom | Error::Abandoned => {
            try_again("the download was interrupted; ask again", 1)
        }
        Error::Exhausted(_) => out_of_resources(),
        Error::Storage(error) if error.is_shortage() => out_of_resources(),
        Error::Storage(_) => {
            let message = "the cache cannot be read";
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown, message)
        }
    }
}

fn out_of_resources() -> Refusal {
    let message = "this proxy has run out of descriptors, memory or ports; its operator can raise \
                   the limits";
    try_again(message, 1)
}

fn absent(what: Missing) -> Refusal {
    let (code, message) = match what {
        Missing::Blob => (ErrorCode::BlobUnknown, "no such blob"),
        Missing::Manifest => (ErrorCode::ManifestUnknown, "no such manifest"),
        Missing::Repository => return Refusal::unknown_name(),
    };
    Refusal::new(StatusCode::NOT_FOUND, code, message)
}

/// Never a 5xx, which clients would try again and again (SEAL-4).
fn sealed(what: Missing) -> Refusal {
    let code = match what {
        Missing::Blob => ErrorCode::BlobUnknown,
        Missing::Manifest => ErrorCode::ManifestUnknown,
        Missing::Repository => ErrorCode::NameUnknown,
    };
    let message = "the upstream registry is sealed, and this is not in the cache; ask the operator \
                   of this proxy to bring it in: it is on their list of misses";
    Refusal::new(StatusCode::NOT_FOUND, code, message)
}

/// 502 sends clients to their next host at once, where other 5xx would be retried (ERR-1).
fn bad_gateway(message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_GATEWAY, ErrorCode::Unavailable, message)
}

/// 504, which containerd asks its last host for once more; a 502 would be final (ERR-1).
fn upstream_timed_out() -> Refusal {
    let message = "the upstream registry did not answer in time";
    Refusal::new(StatusCode::GATEWAY_TIMEOUT, ErrorCode::Unavailable, message)
}

/// 503: the cache cannot serve it now, and can in `after` seconds.
fn try_again(message: &str, after: u64) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, message)
        .with(Extra::RetryAfter(after))
}

/// The vendor has taken back what this proxy pulls with, and says why: which licence, since when,
/// whom to ask. Not a 502, whose text clients do not show (UP-13).
fn withdrawn(said: Option<&str>) -> Refusal {
    let message = "the upstream registry does not accept this proxy's login any more";
    let message = said.map_or_else(|| message.to_owned(), |said| format!("{message}: {said}"));
    Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
}

/// `why` it cannot be reached, if that is known: a clause without addresses.
fn from_fault(fault: UpstreamFault, why: Option<&'static str>) -> Refusal {
    match fault {
        UpstreamFault::Silent => upstream_timed_out(),
        // Never a denial: it would send people looking at their own credentials (UP-9).
        UpstreamFault::CredentialRejected | UpstreamFault::CredentialWithdrawn => {
            bad_gateway("the upstream registry rejects the credential that this proxy has for it")
        }
        UpstreamFault::NoLogin => bad_gateway(
            "this proxy gets no login for the upstream registry from its credential helper",
        ),
        UpstreamFault::Unreachable => {
            let what = "the upstream registry cannot be reached";
            why.map_or_else(|| bad_gateway(what), |why| bad_gateway(&format!("{what}: {why}")))
        }
        UpstreamFault::Failing => bad_gateway("the upstream registry has a failure"),
        UpstreamFault::Malformed => bad_gateway("the upstream registry sent something wrong"),
        UpstreamFault::TooLarge => {
            bad_gateway("the upstream registry's answer is larger than this proxy takes")
        }
        UpstreamFault::ForbiddenAddress => {
            bad_gateway("the upstream registry points to an address that is not allowed")
        }
        UpstreamFault::Rejected => bad_gateway("the upstream registry refused"),
    }
}

impl From<push::Error> for Refusal {
    fn from(error: push::Error) -> Self {
        let mut refusal = from_push(&error);
        // Which tag is immutable, or which quota is full, only the registry can say.
        if let Some(said) = error.registry_says() {
            refusal.message = format!("{}: {said}", refusal.message);
        }
        Self { reason: error.reason(), cause: Some(error.to_string()), ..refusal }
    }
}

/// What the registry answers to a write goes to the client by status and code, with a sentence of
/// ours before its own (ERR-4).
fn from_push(error: &push::Error) -> Refusal {
    use push::Error;
    match error {
        Error::Rejected { status, code, .. } => registry_rejected(*status, *code),
        Error::Denied(_) => {
            let message = "the upstream registry does not let this proxy write there";
            Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
        }
        // Clients push the layer again, where a denial would end the push.
        Error::LoginReplaced(_) => {
            try_again("this proxy had to log in to the upstream registry anew; send it again", 1)
        }
        Error::Upstream(error) => from_pull(error),
        Error::Sealed(_) => Refusal::sealed(),
        Error::Gone => Refusal::unknown_name(),
        Error::Abandoned => {
            let message = "the proxy is being stopped; try again";
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, message)
        }
        Error::Untrue(_) => bad_gateway("the upstream registry sent something wrong"),
        Error::WrongDigest => {
            let message = "the manifest does not have the digest that it is put under";
            Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid, message)
        }
        Error::ClientBrokeOff(_) => {
            let message = "the request broke off";
            Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid, message)
                .with(Extra::Close)
        }
        Error::ClientStalled(_) => {
            let message = "the request sent nothing for too long";
            Refusal::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::Unavailable, message)
                .with(Extra::Close)
        }
        Error::RegistryStalled(_) => upstream_timed_out(),
    }
}

/// The registry's own status and code, with a sentence of ours. Where it gives no code, the status
/// says which; the statuses are those that a registry gives to a write.
fn registry_rejected(status: u16, code: Option<ErrorCode>) -> Refusal {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let code = code.unwrap_or(match status {
        StatusCode::RANGE_NOT_SATISFIABLE => ErrorCode::RangeInvalid,
        StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::SizeInvalid,
        StatusCode::METHOD_NOT_ALLOWED => ErrorCode::Unsupported,
        _ => ErrorCode::Unknown,
    });
    Refusal::new(status, code, push_message(code))
}

/// What a code of the spec means to a client that pushes.
fn push_message(code: ErrorCode) -> &'static str {
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
