//! One attempt at an operation: authorise, send, follow redirects; and if the registry rejects the
//! authorisation, once more with a better one.

use std::sync::Arc;

use http::header::{HeaderMap, LOCATION};
use http::{Method, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::request::Call;
use super::response::{AuthRejection, CallResponse};
use crate::oci::{ErrorCode, message_of_document};
use crate::upstream::answer;
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::replacements::RequestKind;
use crate::upstream::auth::scheme::{AuthRequest, Authenticator, Authorization};
use crate::upstream::error::{ErrorKind, Fault, Operation, Symptom};
use crate::upstream::transport::body::HttpResponse;
use crate::upstream::transport::feed::UploadBody;
use crate::upstream::transport::request::{HttpRequest, RequestBody, Transport, forbidden};
use crate::upstream::transport::throttle::{Throttle, ThrottleKey};

/// Redirects that one request may take (RED-1).
const REDIRECTS_MAX: usize = 5;
/// How often a call is given another authorisation: the one that a challenge asks for, and a token
/// of the other scope (UP-2).
const AUTHORIZATION_CHANGES_MAX: u32 = 2;

/// The parts of an upstream that an attempt needs, and as whom it is made.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct CallAttempt<'a> {
    pub(in crate::upstream) transport: &'a Arc<Transport>,
    pub(in crate::upstream) auth: &'a Authenticator,
    pub(in crate::upstream) throttle: &'a Throttle,
    pub(in crate::upstream) identity: &'a UpstreamIdentity,
    /// `None`: the caller watches how the sending goes on.
    pub(in crate::upstream) deadline: Option<Instant>,
}

impl CallAttempt<'_> {
    /// Sends the call, and again with a better authorisation if the registry rejects the first one
    /// and there is a better one. A rejected new token is final (UP-6), unless the registry wants
    /// one of another scope.
    pub(in crate::upstream) async fn send(&self, call: &Call<'_>) -> Result<CallResponse, Fault> {
        let mut authorization = self.authorise(call).await?;
        let (mut changes_left, mut has_waited) = (AUTHORIZATION_CHANGES_MAX, false);
        loop {
            let response = self.fetch(call, &authorization).await?;
            let rejection = match response.check_auth(call, &authorization).await {
                Ok(response) => {
                    self.note_accepted(&authorization, has_waited);
                    return self.check_status(call, response).await;
                }
                Err(rejection) => rejection,
            };
            if changes_left == 0 {
                return Err(self.refused(&rejection, &authorization));
            }
            changes_left -= 1;
            match self.reauthorise(call, &rejection, &authorization).await? {
                Some(better) => authorization = better,
                None if rejection.is_about_rights() => {
                    return Err(self.refused(&rejection, &authorization));
                }
                None => match self.auth.begin_wait(&authorization) {
                    Some(wait) => {
                        tokio::time::sleep(wait).await;
                        has_waited = true;
                    }
                    None => return Err(self.refused(&rejection, &authorization)),
                },
            }
        }
    }

    /// The authorisation to begin with, for which a token may have to be fetched.
    pub(in crate::upstream) async fn authorise(
        &self,
        call: &Call<'_>,
    ) -> Result<Authorization, Fault> {
        self.auth.authorise(self.auth_request(call)).await
    }

    /// Sends what cannot be sent a second time. A rejection is final; but if there is a better
    /// authorisation by then, the fault is `TokenReplaced`, since the client may send it again.
    /// What is rejected with that as well is final (UP-6), else the client would send it for ever.
    pub(in crate::upstream) async fn send_once(
        &self,
        call: &Call<'_>,
        authorization: Authorization,
        body: UploadBody,
    ) -> Result<CallResponse, Fault> {
        let request = call.request(&call.url, authorization.header());
        let request = HttpRequest { body: RequestBody::Stream(body), ..request };
        // Not `follow`: what is written goes to the registry itself or nowhere.
        let response = self.transport.send(call.operation, request, self.deadline).await?;
        let (replacements, kind) = (&self.auth.replacements, self.kind_of(call));
        let rejection = match CallResponse::direct(response).check_auth(call, &authorization).await
        {
            Ok(response) => {
                replacements.note_accepted(kind, authorization.header());
                return self.check_status(call, response).await;
            }
            Err(rejection) => rejection,
        };
        let is_about_rights = rejection.is_about_rights();
        if replacements.is_last(&kind, authorization.header(), is_about_rights) {
            if is_about_rights {
                // The registry knows the token, which may still end like any other.
                replacements.note_accepted(kind, authorization.header());
            }
            return Err(self.refused(&rejection, &authorization));
        }
        let better = self.reauthorise(call, &rejection, &authorization).await?;
        Err(if let Some(better) = better {
            replacements.note(kind, better.header());
            rejection.token_replaced()
        } else {
            replacements.note_refused(kind, authorization.header(), is_about_rights);
            self.refused(&rejection, &authorization)
        })
    }

    /// The registry has taken the authorisation, whatever it answers.
    fn note_accepted(&self, authorization: &Authorization, has_waited: bool) {
        if matches!(authorization, Authorization::Basic(_)) {
            self.auth.note_login(self.identity, Ok(()));
        }
        if has_waited {
            self.auth.note_wait_helped(authorization);
        }
    }

    /// What a rejection means once nothing better can be sent.
    fn refused(&self, rejection: &AuthRejection, authorization: &Authorization) -> Fault {
        let fault = rejection.fault(authorization, self.identity);
        self.auth.note_login(self.identity, Err(&fault));
        fault
    }

    async fn reauthorise(
        &self,
        call: &Call<'_>,
        rejection: &AuthRejection,
        rejected: &Authorization,
    ) -> Result<Option<Authorization>, Fault> {
        self.auth.reauthorise(self.auth_request(call), &rejection.challenges, rejected).await
    }

    fn kind_of(&self, call: &Call<'_>) -> RequestKind {
        let (scope, operation) = (call.scope.clone(), call.operation);
        RequestKind { credential: self.identity.credential, scope, operation }
    }

    fn auth_request<'a>(&'a self, call: &'a Call<'_>) -> AuthRequest<'a> {
        let is_ping = call.url.path() == "/v2/";
        AuthRequest { identity: self.identity, scope: &call.scope, is_ping }
    }

    /// Sends the call; once more if it was redirected to storage that does not give what it should:
    /// the registry may lead to another place, or sign its address anew (UP-12). A HEAD is not
    /// repeated, since such addresses are often good for a GET alone (RED-3).
    async fn fetch(
        &self,
        call: &Call<'_>,
        authorization: &Authorization,
    ) -> Result<CallResponse, Fault> {
        let response = self.follow(call, authorization).await?;
        let is_of_storage = call.operation.is_of_blob() && response.is_refused_by_storage();
        if call.method == Method::HEAD || !is_of_storage {
            return Ok(response);
        }
        response.http.discard().await;
        self.follow(call, authorization).await
    }

    /// Sends the call and follows where it is redirected to (RED-1, RED-2).
    async fn follow(
        &self,
        call: &Call<'_>,
        authorization: &Authorization,
    ) -> Result<CallResponse, Fault> {
        let mut url = call.url.clone();
        let mut left_origin = false;
        for _ in 0..=REDIRECTS_MAX {
            // Once its origin is left, the credential is not sent again, even if a later redirect
            // leads back: that URL was chosen by whoever was in between (RELIABILITY §2.1). Another
            // registry that the operator has named for both counts as the origin (RED-2).
            let header = authorization.header().filter(|_| !left_origin);
            let request = call.request(&url, header);
            let is_storage = url.origin() != call.url.origin();
            let response = self.send_to(call.operation, request, is_storage).await?;
            self.note_rate_limit(call.operation, response.headers());
            // What is written goes to the registry itself or nowhere.
            if !is_redirect(response.status()) || call.operation.is_write() {
                return Ok(CallResponse::new(response, left_origin));
            }
            let next = self.redirect_target(&url, &response)?;
            // A redirect's small body is read, so that its connection goes back to the pool.
            response.discard().await;
            left_origin |=
                next.origin() != url.origin() && !self.transport.gate.may_take_credential(&next);
            url = next;
        }
        Err(Fault::protocol(format!("more than {REDIRECTS_MAX} redirects")))
    }

    /// Sends one request of a chain of redirects. Storage has pauses of its own: its 429 says
    /// nothing about the registry, nor about what another storage holds.
    async fn send_to(
        &self,
        operation: Operation,
        request: HttpRequest,
        is_storage: bool,
    ) -> Result<HttpResponse, Fault> {
        let key = is_storage.then(|| ThrottleKey::of_storage(&request.url));
        let pass = key.map(|key| self.throttle.check(key)).transpose()?;
        let response = self.transport.send(operation, request, self.deadline).await?;
        pass.map_or(Ok(()), |pass| pass.judge(response.status(), response.headers()))?;
        Ok(response)
    }

    fn redirect_target(&self, from: &Url, response: &HttpResponse) -> Result<Url, Fault> {
        let location = answer::text(response.headers(), LOCATION)
            .ok_or_else(|| Fault::protocol("a redirect without a usable Location"))?;
        self.transport.gate.redirect(from, location).map_err(|reason| match from.join(location) {
            Ok(to) => forbidden(&to, reason),
            Err(_) => Fault::protocol("a redirect to something that is not a URL"),
        })
    }

    /// Docker Hub tells with each manifest how many pulls there are, and how many are left
    /// (PROTOCOL §3.10).
    fn note_rate_limit(&self, operation: Operation, headers: &HeaderMap) {
        if !matches!(operation, Operation::ManifestGet | Operation::ManifestHead) {
            return;
        }
        let (metrics, label) = (&self.transport.metrics().upstream, [self.transport.name.as_str()]);
        if let Some(remaining) = answer::rate_limit_remaining(headers) {
            metrics.rate_limit_remaining.with_label_values(&label).set(remaining);
        }
        let (limit, window) = answer::rate_limit(headers).unzip();
        for (gauge, told) in
            [(&metrics.rate_limit, limit), (&metrics.rate_limit_window, window.flatten())]
        {
            if let Some(told) = told {
                gauge.with_label_values(&label).set(told);
            }
        }
    }

    /// Passes answers with content, and the 416 of a read, from which the size of an empty blob is
    /// read (BLOB-13). All others are faults.
    async fn check_status(
        &self,
        call: &Call<'_>,
        mut response: CallResponse,
    ) -> Result<CallResponse, Fault> {
        let (status, is_write) = (response.http.status(), call.operation.is_write());
        if status.is_success() || (status == StatusCode::RANGE_NOT_SATISFIABLE && !is_write) {
            return Ok(response);
        }
        let mut said = None;
        if is_write && status.as_u16() >= 400 {
            said = message_of_document(response.refusal_text().await);
        }
        let kind = match status.as_u16() {
            429 => {
                let key = ThrottleKey::of(self.identity.credential, call.operation);
                return Err(self.throttle.pause(&key, response.http.headers()));
            }
            // The client that pushes has to know what it did wrong, or that its upload is gone.
            status @ 400..500 if is_write => {
                let code = ErrorCode::of_document(response.refusal_text().await);
                ErrorKind::Rejected { status, code }
            }
            status => response.failed_read(call.operation, status).await,
        };
        let who = if response.left_origin { "the redirect's target" } else { "the upstream" };
        let reason = format!("{who} answered {}", status.as_u16());
        Err(Fault::new(kind, Symptom::Status(status.as_u16()), reason).saying(said))
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}
