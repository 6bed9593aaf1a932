//! Why an upstream did not give what was asked: the meaning in public, the circumstances beside it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::oci::{ErrorCode, UpstreamName};

/// What a failure means to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The upstream says that there is no such thing.
    NotFound,
    /// The upstream refuses this repository, with the configured credential or without one (UP-6,
    /// UP-7).
    Denied,
    /// The configured credential itself was rejected or has expired (UP-9).
    CredentialRejected,
    /// The credential helper that has the login failed, so the upstream was not asked.
    NoLogin,
    /// What was presented for something that is sent once was not taken; now there is something
    /// better to present.
    Outdated,
    /// The upstream asked for a pause, of which this is left.
    RateLimited { retry_after: Duration },
    /// No connection, or it broke; or the reachability gate is open and nothing was dialled.
    Unreachable,
    /// The caller's patience or the idle limit of a body ran out.
    Timeout,
    /// A status of 500 or above, after the retries.
    ServerError(u16),
    /// The upstream does not take what was written, and says why.
    Rejected { status: u16, code: Option<ErrorCode> },
    /// An answer that the specifications do not allow, or one too large.
    Protocol,
    /// The outbound gate: the upstream pointed at an address that must not be dialled.
    Refused,
}

/// What a failure says about the thing that was asked for. Everybody who has to decide what a failure
/// means for what is cached asks this one classification (DESIGN §14.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The registry says that it does not have the thing.
    Absent,
    /// The registry says that the thing is not ours to have.
    Refused,
    /// Our own login is what is wrong.
    Credential,
    /// Nothing was said about the thing: no answer, a failure, or a pause that was asked for. What is
    /// cached may stand in.
    Passing,
    /// An answer that cannot be true, or that leads where we may not go.
    Untrue,
    /// Our own disk, or our own end.
    Ours,
}

impl ErrorKind {
    /// The one judgement of what a failure means.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::NotFound | Self::Rejected { status: 404, .. } => FailureClass::Absent,
            Self::Denied | Self::Rejected { .. } => FailureClass::Refused,
            Self::CredentialRejected => FailureClass::Credential,
            Self::NoLogin
            | Self::Outdated
            | Self::RateLimited { .. }
            | Self::Unreachable
            | Self::Timeout
            | Self::ServerError(_) => FailureClass::Passing,
            Self::Protocol | Self::Refused => FailureClass::Untrue,
        }
    }
}

/// What was asked of the upstream; a metric label and a word in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    ManifestHead,
    ManifestGet,
    BlobHead,
    BlobGet,
    Tags,
    Referrers,
    Token,
    /// Beginning an upload, or mounting a blob instead.
    UploadBegin,
    /// Bytes of an upload, or its end.
    UploadSend,
    UploadStatus,
    UploadCancel,
    ManifestPut,
    Delete,
}

impl Operation {
    /// The one string form, for metrics, logs and errors.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ManifestHead => "manifest_head",
            Self::ManifestGet => "manifest_get",
            Self::BlobHead => "blob_head",
            Self::BlobGet => "blob_get",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Token => "token",
            Self::UploadBegin => "upload_begin",
            Self::UploadSend => "upload_send",
            Self::UploadStatus => "upload_status",
            Self::UploadCancel => "upload_cancel",
            Self::ManifestPut => "manifest_put",
            Self::Delete => "delete",
        }
    }
}

impl Operation {
    /// Whether it changes the upstream, so that what the upstream objects to is the client's to
    /// know.
    pub(super) fn is_write(self) -> bool {
        match self {
            Self::ManifestHead
            | Self::ManifestGet
            | Self::BlobHead
            | Self::BlobGet
            | Self::Tags
            | Self::Referrers
            | Self::Token => false,
            Self::UploadBegin
            | Self::UploadSend
            | Self::UploadStatus
            | Self::UploadCancel
            | Self::ManifestPut
            | Self::Delete => true,
        }
    }
}

/// A failed operation. `Display` names upstream, operation, reason and attempts, never a path,
/// query or secret.
#[derive(Clone, Debug)]
pub struct Error {
    pub(super) upstream: UpstreamName,
    pub(super) operation: Operation,
    pub(super) attempts: u32,
    pub(super) failure: Failure,
}

impl Error {
    pub fn kind(&self) -> &ErrorKind {
        &self.failure.kind
    }

    pub fn operation(&self) -> Operation {
        self.operation
    }

    pub fn class(&self) -> FailureClass {
        self.failure.kind.class()
    }

    /// Whether the upstream may have done what it was asked, although it did not say so. Not told by
    /// the class: after a 429, or without a login, nothing was done.
    pub fn leaves_doubt(&self) -> bool {
        matches!(
            self.failure.kind,
            ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::ServerError(_)
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { upstream, operation, attempts, failure } = self;
        write!(f, "{upstream}: {}: {}", operation.as_str(), failure.reason)?;
        if *attempts > 1 { write!(f, " ({attempts} attempts)") } else { Ok(()) }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.failure.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

/// What was observed, for the two policies that look back at it: retries, and the reachability
/// gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Symptom {
    /// TCP, TLS or name resolution failed.
    Connect,
    /// No answer within its deadline: a connection, or a token.
    Silence,
    /// The connection broke between request and response headers.
    Reset,
    /// The body ended before its framing did.
    Cut,
    /// The registry, or where it redirected to, answered with this status.
    Status(u16),
    /// Something answered, and not with what was asked for.
    Answered,
    /// Nothing was dialled: one of our own gates said no.
    Local,
}

/// A failure before it is known which operation and attempt it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: ErrorKind,
    pub(super) symptom: Symptom,
    /// One clause without secrets, paths or queries.
    pub(super) reason: Cow<'static, str>,
    pub(super) source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    pub(super) fn new(
        kind: ErrorKind,
        symptom: Symptom,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { kind, symptom, reason: reason.into(), source: None }
    }

    pub(super) fn protocol(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Protocol, Symptom::Answered, reason)
    }

    #[must_use]
    pub(super) fn because(
        mut self,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The status that was the failure, if it was one.
    pub(super) fn status(&self) -> Option<u16> {
        if let Symptom::Status(status) = self.symptom { Some(status) } else { None }
    }

    pub(super) fn during(
        self,
        upstream: &UpstreamName,
        operation: Operation,
        attempts: u32,
    ) -> Error {
        Error { upstream: upstream.clone(), operation, attempts, failure: self }
    }
}
