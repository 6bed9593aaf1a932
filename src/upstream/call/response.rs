//! What came back to a call, and whether the registry took the authorisation.

use bytes::Bytes;
use http::Method;

use super::request::Call;
use crate::oci::message_of_document;
use crate::upstream::answer;
use crate::upstream::auth::challenge::{Challenge, challenges};
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::scheme::Authorization;
use crate::upstream::error::{ErrorKind, Fault, Operation, Symptom};
use crate::upstream::transport::body::HttpResponse;
use crate::upstream::verdict::FailedRead;

/// Bytes of a refusal's text; a longer one is taken for none.
const REFUSAL_TEXT_MAX: usize = 64 * 1024;

/// The answer to a call.
pub(in crate::upstream) struct CallResponse {
    pub(in crate::upstream) http: HttpResponse,
    /// A redirect to another origin has led to it: it is the word of some storage, not of the
    /// registry.
    pub(super) left_origin: bool,
    /// The text of a refusal, once it has been read.
    refusal_text: Option<Bytes>,
}

impl CallResponse {
    pub(super) fn new(http: HttpResponse, left_origin: bool) -> Self {
        Self { http, left_origin, refusal_text: None }
    }

    /// Of the registry itself.
    pub(super) fn direct(http: HttpResponse) -> Self {
        Self::new(http, false)
    }

    /// What a read without content means. Whether a registry has answered may stand in the text.
    pub(super) async fn failed_read(&mut self, operation: Operation, status: u16) -> ErrorKind {
        let text = match status {
            404 | 410 => self.refusal_text().await.clone(),
            _ => Bytes::new(),
        };
        let (headers, left_origin) = (self.http.headers(), self.left_origin);
        FailedRead { operation, status, headers, text: &text, left_origin }.kind()
    }

    /// Storage that does not have a blob, or whose address has ended.
    pub(super) fn is_refused_by_storage(&self) -> bool {
        self.left_origin && matches!(self.http.status().as_u16(), 400 | 401 | 403 | 404 | 410)
    }

    /// The text of a refusal. Empty if it is too long or breaks off: then the status has to do.
    pub(super) async fn refusal_text(&mut self) -> &Bytes {
        if self.refusal_text.is_none() {
            let text = self.http.whole(REFUSAL_TEXT_MAX).await;
            self.refusal_text = Some(text.unwrap_or_default());
        }
        self.refusal_text.get_or_insert_default()
    }

    /// Tells a rejection of the authorisation from an answer. What storage at another origin says
    /// is not the registry's word: a 403 there is a presigned URL that has ended.
    pub(super) async fn check_auth(
        mut self,
        call: &Call<'_>,
        authorization: &Authorization,
    ) -> Result<Self, AuthRejection> {
        let status = self.http.status().as_u16();
        if self.left_origin || !matches!(status, 400 | 401 | 403) {
            return Ok(self);
        }
        let challenges = challenges(self.http.headers());
        let is_expired = match authorization {
            // ECR Public answers an expired token with 400, and to a HEAD without a text that would
            // say why.
            Authorization::CachedToken(_) if status == 400 && call.method == Method::HEAD => true,
            _ if challenges.is_empty() && authorization.header().is_some() => {
                answer::says_expired(self.refusal_text().await)
            }
            Authorization::None
            | Authorization::Basic(_)
            | Authorization::CachedToken(_)
            | Authorization::NewToken(_) => false,
        };
        if status == 400 && !is_expired {
            return Ok(self);
        }
        let mut said = None;
        if call.operation.is_write() || matches!(authorization, Authorization::Basic(_)) {
            said = message_of_document(self.refusal_text().await);
        }
        // Read to its end, so that the second try finds the connection in the pool.
        self.http.discard().await;
        Err(AuthRejection { status, challenges, is_expired, said })
    }
}

/// The registry does not take the authorisation.
#[derive(Debug)]
pub(super) struct AuthRejection {
    status: u16,
    pub(super) challenges: Vec<Challenge>,
    /// The token is known to have ended, although no challenge asks for another.
    is_expired: bool,
    /// Why, in the registry's own words, if it refuses a write or was shown a login.
    said: Option<String>,
}

impl AuthRejection {
    /// What it means if there is a better authorisation by now that cannot be used any more.
    pub(super) fn token_replaced(&self) -> Fault {
        let reason = "the upstream does not take this token any more; the next has another";
        let kind = ErrorKind::TokenReplaced;
        Fault::new(kind, Symptom::Status(self.status), reason).saying(self.said.clone())
    }

    /// What it means once nothing better can be sent (UP-7, UP-9).
    pub(super) fn fault(&self, rejected: &Authorization, identity: &UpstreamIdentity) -> Fault {
        let status = self.status;
        let (kind, what) = match rejected {
            Authorization::Basic(_) if status == 401 || self.is_expired => {
                (identity.rejection(), "rejects the credential")
            }
            Authorization::NewToken(_) | Authorization::CachedToken(_) if self.is_expired => {
                (identity.rejection(), "rejects its own token")
            }
            // The credential is good or there is none: it is the repository that is out of reach.
            // Docker Hub issues tokens without any right for repositories that are private or
            // missing, and answers them with 401.
            Authorization::None
            | Authorization::Basic(_)
            | Authorization::NewToken(_)
            | Authorization::CachedToken(_) => {
                (ErrorKind::Denied, "denies access to the repository")
            }
        };
        let reason = format!("the upstream {what} ({status})");
        Fault::new(kind, Symptom::Status(status), reason).saying(self.said.clone())
    }

    /// Whether no other token will do: the registry knows who asks, and says no.
    pub(super) fn is_about_rights(&self) -> bool {
        let lacks_scope = |challenge: &Challenge| {
            challenge.parameter("error").is_some_and(|error| error == "insufficient_scope")
        };
        (self.status == 403 && !self.is_expired) || self.challenges.iter().any(lacks_scope)
    }
}
