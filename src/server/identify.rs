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
use crate::oci::{ErrorCode, Ns, Repository};
use crate::route::Route;

/// What a login is checked with.
pub(super) struct LoginAttempt<'a> {
    pub(super) gatekeeper: &'a Gatekeeper,
    pub(super) metrics: &'a Metrics,
    pub(super) config: &'a RequestConfig,
    pub(super) credential: &'a ClientCredential,
    /// Until when an answer is wanted.
    pub(super) deadline: Instant,
}

/// A request whose caller is identified, as far as that is possible.
#[derive(Debug)]
pub(super) struct Identified {
    pub(super) host: VirtualHost,
    pub(super) caller: Caller,
    /// What a good credential has shown; none if there was none, or none that is good.
    pub(super) authenticated: Option<Authenticated>,
    with_token: bool,
    /// Why the credential counts for nothing, on a name where that is no error.
    ignored: Option<Rejection>,
}

impl LoginAttempt<'_> {
    /// Checks the credential, and counts what came of it. On an open name one that is not good is
    /// as good as none (AUTH-7).
    ///
    /// # Errors
    /// If it is not good, and the name is not open.
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
        let with_token = matches!(self.credential, ClientCredential::Bearer(_));
        let (authenticated, ignored) = match result {
            Ok(somebody) => {
                (Some(somebody).filter(|_| *self.credential != ClientCredential::None), None)
            }
            Err(rejection) if host.open => (None, Some(rejection)),
            Err(rejection) => return Err(rejected(&host, with_token, &rejection)),
        };
        let (identity, applications) = if let Some(somebody) = &authenticated {
            (somebody.identity.clone(), somebody.applications.clone())
        } else {
            let by_certificate = self.config.policy.certificate_identity(&caller);
            (by_certificate.unwrap_or(Identity::Anonymous), Vec::new())
        };
        let caller = caller.known_as(identity, applications);
        Ok(Identified { host, caller, authenticated, with_token, ignored })
    }

    /// Counts the attempt, in the vocabulary of [`Rejection::as_str`]. A rejection that is ignored,
    /// because the name is open, is told apart from one that the client has heard of.
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
    /// Whom a token would be for.
    pub(super) fn subject(&self) -> Authenticated {
        self.authenticated.clone().unwrap_or_else(Authenticated::anonymous)
    }

    /// What a customer should hear before the licence ends (ACCESS §4.7).
    pub(super) fn notice(&self, issuer: Option<&str>, now: Timestamp) -> Option<String> {
        let Identity::Licence(id) = &self.caller.identity else { return None };
        let expires = self.authenticated.as_ref()?.expires?;
        let left = expires.since(now);
        let ask = issuer.map(|issuer| format!("; ask {issuer}")).unwrap_or_default();
        (left <= EXPIRY_NOTICE)
            .then(|| format!("licence {id} ends on {}{ask}", calendar::day(expires)))
    }

    /// Whether the ping has to ask for a login, so that clients log in at all (AUTH-3).
    pub(super) fn must_log_in(&self) -> bool {
        !self.host.open && self.authenticated.is_none() && self.caller.is_anonymous()
    }

    /// Whether the caller may do it, asked before anything is looked up. Where nothing can be
    /// written, callers who may read are told so.
    ///
    /// # Errors
    /// How the caller is turned away.
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
                Err(denial) => self.refuse(denial, action, route.visible_name()),
            });
        }
        self.decide(policy, action, route)
            .map_err(|denial| self.refuse(denial, action, route.visible_name()))
    }

    /// The decision itself.
    pub(super) fn decide<'p>(
        &self,
        policy: &'p Policy,
        action: Action,
        route: &Route,
    ) -> Result<Grant<'p>, Denial> {
        policy.decide(&self.caller, action, &route.canonical(), route.application.as_ref())
    }

    /// Turns the caller away from a name that no upstream has, like from one that nobody may use.
    /// An open name answers 404 to an unknown `ns`, so that clients go on to their next mirror
    /// (ACCESS §3.3).
    pub(super) fn nowhere(&self, ns: &Ns, action: Action, name: &Repository) -> Refusal {
        match Policy::denial_of_unknown_name(&self.caller, action) {
            Denial::Unauthenticated if self.host.open && *ns != Ns::Absent => {
                Refusal::unknown_name()
            }
            denial @ (Denial::Unauthenticated | Denial::Hidden | Denial::Forbidden) => {
                self.refuse(denial, action, name)
            }
        }
    }

    /// Turns the caller away from `action` on what they call `name`.
    fn refuse(&self, denial: Denial, action: Action, name: &Repository) -> Refusal {
        match denial {
            Denial::Hidden => Refusal::unknown_name(),
            Denial::Forbidden => {
                let message = format!("{} may not {} here", self.caller.identity, verb(action));
                Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
            }
            Denial::Unauthenticated => {
                self.challenge(Some(&format!("repository:{name}:{}", actions(action))))
            }
        }
    }

    /// 401 with the one challenge there is, or 404 where nobody has anything to log in with.
    pub(super) fn challenge(&self, scope: Option<&str>) -> Refusal {
        if !self.host.challenges {
            return Refusal::unknown_name();
        }
        if let Some(rejection) = &self.ignored {
            return rejected(&self.host, self.with_token, rejection);
        }
        let error = self.with_token.then_some("insufficient_scope");
        let challenge = challenge(&self.host, scope, error);
        let message = "log in to use this";
        Refusal::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
            .with(Extra::Challenge(challenge))
    }
}

/// What a credential that is not good is answered with. The reason goes to the log alone: to a
/// client an unknown user, a wrong password and a forged licence are the same.
fn rejected(host: &VirtualHost, with_token: bool, rejection: &Rejection) -> Refusal {
    let unauthorized = |message: &str| {
        let error = with_token.then_some("invalid_token");
        Refusal::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
            .with(Extra::Challenge(challenge(host, None, error)))
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
        // The signature was right, so this is the customer: docker prints the sentence (ACCESS
        // §4.6).
        Rejection::LicenceExpired { message } | Rejection::LicenceRevoked { message } => {
            unauthorized(message)
        }
        // Failures of this login, or others that keep the thread busy: a client need not know
        // which.
        Rejection::Throttled { retry_after } | Rejection::Overloaded { retry_after } => {
            try_again(*retry_after)
        }
    };
    Refusal { cause: Some(rejection.to_string()), ..refusal }.because(rejection.as_str())
}

fn try_again(retry_after: Duration) -> Refusal {
    let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
    let message = format!("too many logins for now; try again in {seconds} s");
    Refusal::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
        .with(Extra::RetryAfter(seconds))
}

/// Parameters quoted and in this order (AUTH-2). Nothing in them needs escaping: names of hosts and
/// repositories.
fn challenge(host: &VirtualHost, scope: Option<&str>, error: Option<&str>) -> String {
    let scope = scope.map(|scope| format!(",scope=\"{scope}\"")).unwrap_or_default();
    let error = error.map(|error| format!(",error=\"{error}\"")).unwrap_or_default();
    format!("Bearer realm=\"{}\",service=\"{}\"{scope}{error}", host.realm, host.service)
}

fn actions(action: Action) -> &'static str {
    match action {
        Action::Pull | Action::Probe | Action::List => "pull",
        Action::Push => "pull,push",
        Action::Delete => "delete",
    }
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Pull | Action::Probe => "pull",
        Action::List => "list tags",
        Action::Push => "push",
        Action::Delete => "delete",
    }
}
