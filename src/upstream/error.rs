//! Why an upstream did not give what was asked: the meaning in public, the circumstances beside it.
//!
//! Code of this room returns a [`Fault`]. The client adds upstream, operation and attempts, which
//! makes it the [`Error`] that other rooms see.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::cause::{self, Cause};
use crate::oci::{ErrorCode, UpstreamName};

/// What a failure means to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The upstream says that there is no such thing.
    NotFound,
    /// The answer was 404, but not by a registry that would know: a proxy in front of it answered
    /// in its place, or storage that it redirects to has lost a blob (UP-10).
    UnconfirmedAbsence,
    /// The upstream refuses this repository, with the configured credential or without one (UP-7,
    /// UP-9).
    Denied,
    /// The configured credential itself was rejected or has expired (UP-9).
    CredentialRejected,
    /// As `CredentialRejected`, where that is final: a licence that its issuer has taken back
    /// (UP-13).
    CredentialWithdrawn,
    /// The credential helper that has the login failed, so the upstream was not asked.
    NoLogin,
    /// A request that can be sent only once was refused because of its token. A newer token is
    /// cached by now, so the same request made again may succeed.
    TokenReplaced,
    /// It is sealed, so nothing was sent (SEAL-1).
    Sealed,
    /// The upstream asked for a pause (429), of which this is left.
    RateLimited { retry_after: Duration },
    /// No connection, or it broke; or the breaker is open and nothing was dialled.
    Unreachable,
    /// This machine has no descriptors, memory or ports left to dial with.
    OutOfResources,
    /// The caller's deadline passed, or a body was silent for longer than the idle limit.
    Timeout,
    /// A status of 500 or above, after the retries.
    ServerError(u16),
    /// A write was answered with a status of 400 to 499 other than 429. `code` is the first of the
    /// error document in the body, if there is one.
    Rejected { status: u16, code: Option<ErrorCode> },
    /// Too many large answers are being read, so the upstream was not asked.
    Crowded,
    /// An answer that the specifications do not allow.
    Protocol,
    /// An answer with more bytes than we take.
    TooLarge,
    /// The upstream named an address that the outbound gate does not allow us to dial.
    ForbiddenAddress,
}

/// What a failure says about the thing that was asked for. Everybody who has to decide what a
/// failure means for what is cached asks this one classification (DESIGN §14.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The registry says that it does not have the thing.
    Absent,
    /// The registry says that the thing is not ours to have.
    Refused,
    /// Our own login is what is wrong. What is cached may stand in, as in an outage.
    Credential,
    /// Our own login has been taken back by its issuer: nothing that it brought may be served.
    Withdrawn,
    /// Nothing was said about the thing: no answer, a server's failure, a pause that was asked for,
    /// or an answer that is no registry's. What is cached may stand in.
    Passing,
    /// Content that is not what it claims to be.
    Untrue,
    /// Our own disk, or our own end: nothing that an upstream did.
    Ours,
}

impl ErrorKind {
    /// The one judgement of what a failure means.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::NotFound | Self::Rejected { status: 404, .. } => FailureClass::Absent,
            Self::Denied | Self::Rejected { .. } => FailureClass::Refused,
            Self::CredentialRejected => FailureClass::Credential,
            Self::CredentialWithdrawn => FailureClass::Withdrawn,
            // Without a login, or with an old token, the registry was never asked about the thing.
            // What is no registry's answer, or leads where we may not go, comes from whatever
            // stands in its place (UP-10). Nor was it when we could not dial: what is cached may
            // stand in for our own shortage.
            Self::NoLogin
            | Self::Sealed
            | Self::OutOfResources
            | Self::Crowded
            | Self::TokenReplaced
            | Self::RateLimited { .. }
            | Self::Unreachable
            | Self::Timeout
            | Self::ServerError(_)
            | Self::UnconfirmedAbsence
            | Self::Protocol
            | Self::TooLarge
            | Self::ForbiddenAddress => FailureClass::Passing,
        }
    }
}

/// What was asked of the upstream; a metric label and a word in errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    ManifestHead,
    ManifestGet,
    BlobHead,
    BlobGet,
    Tags,
    Referrers,
    Token,
    /// Whether anybody is there.
    Ping,
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
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ManifestHead => "manifest_head",
            Self::ManifestGet => "manifest_get",
            Self::BlobHead => "blob_head",
            Self::BlobGet => "blob_get",
            Self::Tags => "tags",
            Self::Referrers => "referrers",
            Self::Token => "token",
            Self::Ping => "ping",
            Self::UploadBegin => "upload_begin",
            Self::UploadSend => "upload_send",
            Self::UploadStatus => "upload_status",
            Self::UploadCancel => "upload_cancel",
            Self::ManifestPut => "manifest_put",
            Self::Delete => "delete",
        }
    }

    pub(super) fn is_of_blob(self) -> bool {
        matches!(self, Self::BlobHead | Self::BlobGet)
    }

    /// Whether it changes the upstream. The client of a write is told why the upstream refused it;
    /// of a read it is told only what that means here (ERR-4).
    pub(super) fn is_write(self) -> bool {
        self.direction() == Direction::Write
    }

    pub(super) fn direction(self) -> Direction {
        match self {
            Self::ManifestHead
            | Self::ManifestGet
            | Self::BlobHead
            | Self::BlobGet
            | Self::Tags
            | Self::Referrers
            | Self::Token
            | Self::Ping => Direction::Read,
            Self::UploadBegin
            | Self::UploadSend
            | Self::UploadStatus
            | Self::UploadCancel
            | Self::ManifestPut
            | Self::Delete => Direction::Write,
        }
    }
}

/// Reading from an upstream or writing to it. Each has its own breaker and throttle, so that a
/// registry that takes nothing more can be pulled from as before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Direction {
    Read,
    Write,
}

impl Direction {
    /// The one string form, for metrics and logs.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Read => "reads",
            Self::Write => "writes",
        }
    }
}

/// A failed operation. `Display` names upstream, operation, reason and attempts, never a path,
/// query or secret.
#[derive(Clone, Debug)]
pub struct Error {
    upstream: UpstreamName,
    operation: Operation,
    /// How often the request was sent, counted from 1; 0 if it never was.
    attempts: u32,
    fault: Fault,
}

impl Error {
    pub fn kind(&self) -> &ErrorKind {
        &self.fault.kind
    }

    pub fn class(&self) -> FailureClass {
        self.fault.kind.class()
    }

    /// Whether the upstream may have done what it was asked, although it did not say so. The class
    /// does not tell: after a 429, or without a login, nothing was done.
    pub fn may_have_taken_effect(&self) -> bool {
        matches!(
            self.fault.kind,
            ErrorKind::Unreachable | ErrorKind::Timeout | ErrorKind::ServerError(_)
        )
    }

    /// Why there was no answer, in a clause without addresses; none if there was one, or nothing
    /// was asked.
    pub fn why(&self) -> Option<&'static str> {
        self.fault.cause.map(Cause::clause)
    }

    /// Whether a HEAD has failed, whose answer has no text.
    pub(super) fn is_of_head(&self) -> bool {
        matches!(self.operation, Operation::ManifestHead)
    }

    /// Whether what has answered does not know what it was asked for at all: by a status that says
    /// so, by sending us elsewhere, or with something that is no answer to it (REF-4).
    pub(super) fn says_no_such_api(&self) -> bool {
        match self.fault.symptom {
            Symptom::Status(status) => matches!(status, 400 | 404..=406 | 410 | 501),
            Symptom::Answered => {
                matches!(
                    self.fault.kind,
                    ErrorKind::Protocol | ErrorKind::TooLarge | ErrorKind::ForbiddenAddress
                )
            }
            Symptom::Connect
            | Symptom::Silence
            | Symptom::Reset
            | Symptom::Cut
            | Symptom::Local => false,
        }
    }

    /// Why, in the registry's own words, if a write or our login was refused: one line without
    /// control characters (ERR-4).
    pub fn said(&self) -> Option<&str> {
        self.fault.said.as_deref()
    }

    /// The status of the answer that was the failure, if it was one.
    pub(super) fn status(&self) -> Option<u16> {
        if let Symptom::Status(status) = self.fault.symptom { Some(status) } else { None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { upstream, operation, attempts, fault } = self;
        write!(f, "{upstream}: {}: {}", operation.as_str(), fault.reason)?;
        if let Some(said) = &fault.said {
            write!(f, ": {said:?}")?;
        }
        if let Some(cause) = fault.cause {
            write!(f, ": {cause}")?;
        }
        if let Some(detail) = fault.source.as_deref().and_then(|source| cause::detail(source)) {
            write!(f, " ({detail})")?;
        }
        if *attempts > 1 { write!(f, " ({attempts} attempts)") } else { Ok(()) }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.fault.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

/// What was observed, for the policies that look back at it: retries, and what is remembered as
/// failing.
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

/// How somebody who was asked did not answer, for the breaker. Any status is an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// No name, no route, no port, no handshake.
    NoConnection,
    /// It took the connection, and closed it or kept silent. That may be for what was asked.
    NoAnswer,
}

/// A failure before it is known which operation and attempt it belongs to.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) kind: ErrorKind,
    pub(super) symptom: Symptom,
    /// The upstream itself did not answer; `None` if it did, or if it was another host's turn.
    pub(super) unanswered: Option<Unanswered>,
    /// One clause without secrets, paths or queries.
    pub(super) reason: Cow<'static, str>,
    /// Why there was no connection, or why it broke.
    pub(super) cause: Option<Cause>,
    /// What the registry said of it.
    said: Option<Arc<str>>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

impl Fault {
    pub(super) fn new(
        kind: ErrorKind,
        symptom: Symptom,
        reason: impl Into<Cow<'static, str>>,
    ) -> Self {
        let reason = reason.into();
        Self { kind, symptom, unanswered: None, reason, said: None, cause: None, source: None }
    }

    /// An answer that the specifications do not allow.
    pub(super) fn protocol(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Protocol, Symptom::Answered, reason)
    }

    /// With what the registry said of it.
    #[must_use]
    pub(super) fn saying(self, said: Option<String>) -> Self {
        Self { said: said.map(Into::into), ..self }
    }

    pub(super) fn said(&self) -> Option<&str> {
        self.said.as_deref()
    }

    /// With the error behind it, which tells the cause if it knows one.
    #[must_use]
    pub(super) fn because(
        mut self,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        self.cause = Cause::of(&source);
        self.source = Some(Arc::new(source));
        self
    }

    /// The same failure for somebody who comes right after it, and for whom nothing was sent.
    pub(super) fn of_a_moment_ago(self) -> Self {
        let reason = Cow::Owned(format!("{} (a moment ago)", self.reason));
        Self { reason, unanswered: None, ..self }
    }

    /// The public error of an operation that was sent `attempts` times.
    pub(super) fn during(
        self,
        upstream: &UpstreamName,
        operation: Operation,
        attempts: u32,
    ) -> Error {
        Error { upstream: upstream.clone(), operation, attempts, fault: self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_class() {
        let rejected = |status| ErrorKind::Rejected { status, code: None };
        for (kind, class) in [
            (ErrorKind::NotFound, FailureClass::Absent),
            (rejected(404), FailureClass::Absent),
            (rejected(400), FailureClass::Refused),
            (rejected(416), FailureClass::Refused),
            (ErrorKind::Denied, FailureClass::Refused),
            (ErrorKind::CredentialRejected, FailureClass::Credential),
            (ErrorKind::CredentialWithdrawn, FailureClass::Withdrawn),
            (ErrorKind::NoLogin, FailureClass::Passing),
            (ErrorKind::TokenReplaced, FailureClass::Passing),
            (ErrorKind::RateLimited { retry_after: Duration::ZERO }, FailureClass::Passing),
            (ErrorKind::Unreachable, FailureClass::Passing),
            (ErrorKind::OutOfResources, FailureClass::Passing),
            (ErrorKind::Crowded, FailureClass::Passing),
            (ErrorKind::TooLarge, FailureClass::Passing),
            (ErrorKind::Timeout, FailureClass::Passing),
            (ErrorKind::ServerError(500), FailureClass::Passing),
            (ErrorKind::UnconfirmedAbsence, FailureClass::Passing),
            (ErrorKind::Protocol, FailureClass::Passing),
            (ErrorKind::ForbiddenAddress, FailureClass::Passing),
        ] {
            assert_eq!(kind.class(), class, "{kind:?}");
        }
    }
}
