//! Who is at the door, and how people are turned away from it (ACCESS §1.3, §3.3; AUTH-1 to
//! AUTH-7).

use http::StatusCode;

use super::error::{Extra, Refusal};
use super::snapshot::Generation;
use crate::access::{
    Action, Authenticated, Caller, Credential, Denial, Door, Gatekeeper, Grant, Policy, Presented,
    Principal, Rejection,
};
use crate::clock::Timestamp;
use crate::licence::{NOTICE, calendar};
use crate::oci::{ErrorCode, Ns, Repository};
use crate::route::Route;

/// A request whose asker is known as far as it can be.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) door: Door,
    pub(super) caller: Caller,
    /// Something was presented, or a certificate that opens something.
    pub(super) authenticated: Option<Authenticated>,
    with_token: bool,
    /// Why what was presented counts for nothing here.
    rejection: Option<Rejection>,
}

impl Visit {
    /// Checks the credential. On an open door one that is unknown is as good as none (AUTH-7).
    ///
    /// # Errors
    /// If it is not good, and this door wants that said.
    pub(super) async fn begin(
        gatekeeper: &Gatekeeper,
        generation: &Generation,
        door: Door,
        mut caller: Caller,
        credential: &Credential,
    ) -> Result<Self, Refusal> {
        let audience = &door.audience;
        let issuer = generation.issuer.as_deref();
        let presented = Presented { credential, source: caller.address, audience, issuer };
        let with_token = matches!(credential, Credential::Bearer(_));
        let (authenticated, rejection) = match gatekeeper.authenticate(presented).await {
            Ok(somebody) => (Some(somebody).filter(|_| *credential != Credential::None), None),
            Err(rejection) if door.open => (None, Some(rejection)),
            Err(rejection) => return Err(door_refusal(&door, with_token, rejection)),
        };
        caller.principal = match &authenticated {
            Some(somebody) => somebody.principal.clone(),
            None => {
                generation.policy.certificate_principal(&caller).unwrap_or(Principal::Anonymous)
            }
        };
        Ok(Self { door, caller, authenticated, with_token, rejection })
    }

    /// Whom a token would be for.
    pub(super) fn subject(&self) -> Authenticated {
        self.authenticated.clone().unwrap_or_else(Authenticated::anonymous)
    }

    /// What became of the credential, as a label of metrics.
    pub(super) fn outcome(&self) -> &'static str {
        self.rejection.as_ref().map_or("accepted", Rejection::as_str)
    }

    /// What a customer should hear before the licence ends (ACCESS §4.7).
    pub(super) fn notice(&self, issuer: Option<&str>, now: Timestamp) -> Option<String> {
        let Principal::Licence { id, .. } = &self.caller.principal else { return None };
        let expires = self.authenticated.as_ref()?.expires?;
        let left = expires.since(now);
        let ask = issuer.map(|issuer| format!("; ask {issuer}")).unwrap_or_default();
        (left <= NOTICE).then(|| format!("licence {id} ends on {}{ask}", calendar::day(expires)))
    }

    /// Whether the ping has to ask for a login, so that clients log in at all (AUTH-3).
    pub(super) fn must_log_in(&self) -> bool {
        !self.door.open && self.authenticated.is_none() && self.caller.is_anonymous()
    }

    /// The right to do it, before anything is looked up. Where nothing can be written, whoever may
    /// read is told so.
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

    /// A name that leads nowhere is one that nobody may use. Mirrors say at once that they do not
    /// know a registry, so that clients go on to it (ACCESS §3.3).
    pub(super) fn nowhere(&self, ns: &Ns, action: Action, name: &Repository) -> Refusal {
        match Policy::nowhere(&self.caller, action) {
            Denial::Unauthenticated if self.door.open && *ns != Ns::Absent => {
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
                let message = format!("{} may not {} here", self.caller.principal, verb(action));
                Refusal::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
            }
            Denial::Unauthenticated => {
                self.challenge(Some(&format!("repository:{name}:{}", actions(action))))
            }
        }
    }

    /// 401 with the one challenge there is, or 404 where nobody has anything to log in with.
    pub(super) fn challenge(&self, scope: Option<&str>) -> Refusal {
        if !self.door.challenges {
            return Refusal::unknown_name();
        }
        if let Some(rejection) = &self.rejection {
            return door_refusal(&self.door, self.with_token, rejection.clone());
        }
        let error = self.with_token.then_some("insufficient_scope");
        let challenge = challenge(&self.door, scope, error);
        let message = "log in to use this";
        Refusal::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
            .with(Extra::Challenge(challenge))
    }
}

/// What a credential that is not good is answered with; the reason goes to the log alone.
fn door_refusal(door: &Door, with_token: bool, rejection: Rejection) -> Refusal {
    let unauthorized = |message: &str, cause: Option<String>| {
        let error = with_token.then_some("invalid_token");
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message);
        Refusal { cause, ..refusal.with(Extra::Challenge(challenge(door, None, error))) }
    };
    match rejection {
        Rejection::Unknown { reason } => {
            unauthorized("wrong user, password or licence", Some(reason))
        }
        Rejection::InvalidToken { reason } => {
            unauthorized("the token is not good any more", Some(reason))
        }
        Rejection::Ended { message } => unauthorized(&message, Some(message.clone())),
        Rejection::Later { retry_after } => {
            // Failures of this login, or of others who keep us busy: whoever waits need not know
            // which.
            let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
            let message = format!("too many logins for now; try again in {seconds} s");
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, message)
                .with(Extra::RetryAfter(seconds))
        }
    }
}

/// Parameters quoted and in this order (AUTH-2). Nothing in them needs escaping: names of hosts and
/// repositories.
fn challenge(door: &Door, scope: Option<&str>, error: Option<&str>) -> String {
    let scope = scope.map(|scope| format!(",scope=\"{scope}\"")).unwrap_or_default();
    let error = error.map(|error| format!(",error=\"{error}\"")).unwrap_or_default();
    format!("Bearer realm=\"{}\",service=\"{}\"{scope}{error}", door.realm, door.service)
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
