//! Who asks, and how callers are turned away (ACCESS §1.3, §3.3; AUTH-1 to AUTH-7).

use std::time::Duration;

use http::StatusCode;
use tokio::time::Instant;

use super::error::{Extra, Refusal};
use super::snapshot::RequestConfig;
use crate::access::{
    Action, Authenticated, Caller, ClientCredential, Denial, Gatekeeper, Grant, Policy,
    PresentedCredential, Rejection, VirtualHost,
};
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::licence::{EXPIRY_NOTICE, calendar};
use crate::metrics::Metrics;
use crate::oci::{ErrorCode, Ns, Repository, retry_after_seconds};
use crate::route::Route;

/// A credential that is to be checked, and what it is checked with.
pub(super) struct LoginAttempt<'a> {
    pub(super) gatekeeper: &'a Gatekeeper,
    pub(super) metrics: &'a Metrics,
    pub(super) config: &'a RequestConfig,
    pub(super) credential: &'a ClientCredential,
    /// When the response headers have to leave; the check waits no longer for its turn.
    pub(super) deadline: Instant,
}

/// Who asks: by a credential, else by a certificate, else nobody (ACCESS §1).
#[derive(Debug)]
pub(super) struct Identified {
    pub(super) host: VirtualHost,
    pub(super) caller: Caller,
    /// Who a credential says it is; none if there was no credential, or one that was rejected.
    pub(super) authenticated: Option<Authenticated>,
    /// The credential was a token of ours.
    presented_token: bool,
    /// Why the credential was rejected, on an open name, where that ends no request.
    ignored_rejection: Option<Rejection>,
}

impl LoginAttempt<'_> {
    /// Checks the credential, and counts the result. On an open name a rejected credential is
    /// ignored, since clients send credentials that are not for us: dockerd its Docker Hub login,
    /// containerd the pull secret of the image's host (AUTH-7).
    ///
    /// # Errors
    /// 401, or 429 for too many attempts, if it is rejected and the name is not open.
    pub(super) async fn identify(
        self,
        host: VirtualHost,
        caller: Caller,
    ) -> Result<Identified, Refusal> {
        let result = self
            .gatekeeper
            .authenticate(PresentedCredential {
                credential: self.credential,
                address: caller.address,
                audience: &host.audience,
                issuer: self.config.issuer.as_deref(),
                deadline: self.deadline,
            })
            .await;
        self.count(&result, host.open);
        let presented_token = matches!(self.credential, ClientCredential::Bearer(_));
        let (authenticated, ignored_rejection) = match result {
            // No credential is good, too, and says nothing about who asks.
            Ok(_) if *self.credential == ClientCredential::None => (None, None),
            Ok(authenticated) => (Some(authenticated), None),
            Err(rejection) if host.open => (None, Some(rejection)),
            Err(rejection) => {
                return Err(refuse_credential(&host, presented_token, &rejection));
            }
        };
        let (identity, applications) = if let Some(login) = &authenticated {
            (login.identity.clone(), login.applications.clone())
        } else {
            let by_certificate = self.config.policy.certificate_identity(&caller);
            (by_certificate.unwrap_or(Identity::Anonymous), Vec::new())
        };
        let caller = caller.known_as(identity, applications);
        Ok(Identified { host, caller, authenticated, presented_token, ignored_rejection })
    }

    /// Counts the attempt, in the vocabulary of [`Rejection::as_str`]. Rejections that are ignored,
    /// because the name is open, are counted apart: there they are no sign of an attack.
    fn count(&self, result: &Result<Authenticated, Rejection>, open: bool) {
        if *self.credential == ClientCredential::None {
            return;
        }
        let outcome = match result {
            Ok(_) => "accepted".to_owned(),
            Err(rejection) if open => format!("ignored_{}", rejection.as_str()),
            Err(rejection) => rejection.as_str().to_owned(),
        };
        let labels = [self.credential.scheme(), &outcome];
        self.metrics.http.auth_attempts.with_label_values(&labels).inc();
    }
}

impl Identified {
    /// Whether a credential came with the request that counts for nothing here.
    pub(super) fn has_ignored_a_credential(&self) -> bool {
        self.ignored_rejection.is_some()
    }

    /// Whom a token that this caller asks for is for.
    pub(super) fn token_subject(&self) -> Authenticated {
        self.authenticated.clone().unwrap_or_else(Authenticated::anonymous)
    }

    /// The sentence that warns a customer from [`EXPIRY_NOTICE`] before the licence ends
    /// (ACCESS §4.7).
    pub(super) fn expiry_notice(&self, issuer: Option<&str>, now: Timestamp) -> Option<String> {
        let Identity::Licence(id) = &self.caller.identity else { return None };
        let expires = self.authenticated.as_ref()?.expires?;
        let left = expires.since(now);
        let ask = issuer.map(|issuer| format!("; ask {issuer}")).unwrap_or_default();
        (left <= EXPIRY_NOTICE)
            .then(|| format!("licence {id} ends on {}{ask}", calendar::day(expires)))
    }

    /// Whether the ping has to ask for a login. dockerd and podman take the challenge from the ping
    /// alone: after a 200 they never log in (AUTH-3).
    pub(super) fn must_log_in(&self) -> bool {
        !self.host.open && self.authenticated.is_none() && self.caller.is_anonymous()
    }

    /// Whether the caller may do it, decided before anything is looked up. Where nothing can be
    /// written, a caller who may read is told that it is a mirror; others learn nothing.
    ///
    /// # Errors
    /// 405 for a write to a mirror, else 401, 403 or 404 (ACCESS §3.3).
    pub(super) fn authorise<'p>(
        &self,
        policy: &'p Policy,
        action: Action,
        route: &Route,
    ) -> Result<Grant<'p>, Refusal> {
        let write = matches!(action, Action::Push | Action::Delete);
        if write && !route.writable {
            let readable = self
                .decide(policy, Action::Pull, route)
                .or_else(|_| self.decide(policy, action, route));
            return Err(match readable {
                Ok(_) => Refusal::read_only(),
                Err(denial) => self.refuse_right(denial, action, route),
            });
        }
        self.decide(policy, action, route)
            .map_err(|denial| self.refuse_right(denial, action, route))
    }

    /// The decision of the policy, for callers that word the refusal themselves.
    pub(super) fn decide<'p>(
        &self,
        policy: &'p Policy,
        action: Action,
        route: &Route,
    ) -> Result<Grant<'p>, Denial> {
        policy.decide(&self.caller, action, &route.canonical(), route.application.as_ref())
    }

    /// Refuses a name that no upstream is configured for, in the same way as one that the caller
    /// may not use. An open name answers 404 to an unknown `ns`, so that containerd goes on to its
    /// next host, the registry itself (ACCESS §3.3).
    pub(super) fn refuse_unknown_name(
        &self,
        ns: &Ns,
        action: Action,
        name: &Repository,
    ) -> Refusal {
        let refusal = match Policy::denial_of_unknown_name(&self.caller, action) {
            Denial::Unauthenticated if self.host.open && *ns != Ns::Absent => {
                Refusal::unknown_name()
            }
            denial @ (Denial::Unauthenticated | Denial::Hidden | Denial::Forbidden) => {
                self.refuse(denial, action, name)
            }
        };
        refusal.because("no upstream that is configured is meant by this host, name and ns")
    }

    /// Refuses `action` on an image, and tells the log which right it takes.
    fn refuse_right(&self, denial: Denial, action: Action, route: &Route) -> Refusal {
        let (who, right, image) = (&self.caller.identity, right(action), route.canonical());
        let cause = match &route.application {
            None => format!("no rule gives {who} the right to {right} {image}"),
            Some(application) => {
                format!("no rule gives {who} the right to {right} {image} of {application}")
            }
        };
        self.refuse(denial, action, route.visible_name()).because(&cause)
    }

    /// Words the refusal of `action` on what the caller calls `name`.
    fn refuse(&self, denial: Denial, action: Action, name: &Repository) -> Refusal {
        match denial {
            Denial::Hidden => Refusal::unknown_name(),
            Denial::Forbidden => {
                let message = format!("{} may not {} here", self.caller.identity, verb(action));
                Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
            }
            Denial::Unauthenticated => {
                self.challenge(Some(&format!("repository:{name}:{}", scope_actions(action))))
            }
        }
    }

    /// 401 with our one challenge, or 404 on a name where nobody can log in.
    pub(super) fn challenge(&self, scope: Option<&str>) -> Refusal {
        if !self.host.challenges {
            return Refusal::unknown_name();
        }
        // An open name ignored the credential so far; where one is needed, its holder has to hear
        // that it is no good.
        if let Some(rejection) = &self.ignored_rejection {
            return refuse_credential(&self.host, self.presented_token, rejection);
        }
        // containerd sends the same token again unless the challenge has an `error`.
        let error = self.presented_token.then_some("insufficient_scope");
        let challenge = challenge_header(&self.host, scope, error);
        let message = "log in to use this";
        Refusal::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
            .with(Extra::Challenge(challenge))
    }
}

/// The answer to a credential that is rejected. The reason goes to the log alone: whoever guesses
/// must not learn whether a user exists, so an unknown user, a wrong password and a forged licence
/// have one message.
fn refuse_credential(host: &VirtualHost, presented_token: bool, rejection: &Rejection) -> Refusal {
    let unauthorized = |message: &str| {
        // Without it containerd sends the same token five times and gives up.
        let error = presented_token.then_some("invalid_token");
        Refusal::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
            .with(Extra::Challenge(challenge_header(host, None, error)))
    };
    let refusal = match rejection {
        Rejection::Malformed
        | Rejection::UnknownUser
        | Rejection::WrongPassword
        | Rejection::LicenceInvalid(_)
        | Rejection::LicenceUserMismatch(_)
        | Rejection::LicenceNotYet(_) => unauthorized("wrong user, password or licence"),
        Rejection::TokenInvalid | Rejection::TokenExpired | Rejection::TokenRevoked { .. } => {
            unauthorized("the token is not good any more")
        }
        // The signature is right, so this is the customer, who may hear the reason; docker prints
        // the sentence (ACCESS §4.6).
        Rejection::LicenceExpired { message } | Rejection::LicenceRevoked { message } => {
            unauthorized(message)
        }
        Rejection::Throttled { retry_after } => {
            try_again("too many failed logins of this user from this address", *retry_after)
        }
        Rejection::Overloaded { retry_after } => try_again("too many logins for now", *retry_after),
    };
    Refusal { cause: Some(rejection.to_string()), ..refusal }.with_reason(rejection.as_str())
}

fn try_again(message: &str, retry_after: Duration) -> Refusal {
    let seconds = retry_after_seconds(retry_after);
    let message = format!("{message}; try again in {seconds} s");
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
        .with(Extra::RetryAfter(seconds))
}

/// The value of `WWW-Authenticate`, its parameters quoted and in this order (AUTH-2). Nothing in
/// them needs escaping: they are names of hosts and repositories, and words of our own.
fn challenge_header(host: &VirtualHost, scope: Option<&str>, error: Option<&str>) -> String {
    let scope = scope.map(|scope| format!(",scope=\"{scope}\"")).unwrap_or_default();
    let error = error.map(|error| format!(",error=\"{error}\"")).unwrap_or_default();
    format!("Bearer realm=\"{}\",service=\"{}\"{scope}{error}", host.realm, host.service)
}

/// The actions that a challenge asks for, in the words of the token protocol. Pushing includes
/// pulling: clients look whether a layer is there before they push it.
fn scope_actions(action: Action) -> &'static str {
    match action {
        Action::Pull | Action::Probe | Action::List => "pull",
        Action::Push => "pull,push",
        Action::Delete => "delete",
    }
}

/// The word of a rule's `allow` that an action takes.
fn right(action: Action) -> &'static str {
    match action {
        Action::Pull | Action::Probe => "pull",
        Action::List => "list",
        Action::Push => "push",
        Action::Delete => "delete",
    }
}

/// What a refusal says that the caller may not do.
fn verb(action: Action) -> &'static str {
    match action {
        Action::Pull | Action::Probe => "pull",
        Action::List => "list tags",
        Action::Push => "push",
        Action::Delete => "delete",
    }
}
