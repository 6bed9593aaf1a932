//! What we show an upstream: nothing, Basic, or a Bearer token, as its challenges ask (PROTOCOL
//! §2.3).
//!
//! The scheme is learned from the first 401 and kept until another contradicts it. A challenge
//! tells where tokens come from. What a token is for is never taken from it, since some registries
//! send placeholders: GHCR's says `repository:user/image:pull` (UP-1, UP-2).

use std::sync::{Arc, Mutex};

use http::HeaderValue;
use url::Url;

use super::challenge::Challenge;
use super::identity::UpstreamIdentity;
use super::token::{TokenCache, TokenKey};
use crate::upstream::error::Fault;
use crate::upstream::transport::gate::ForbiddenUrl;
use crate::upstream::transport::request::{Transport, forbidden};

#[derive(Clone, Debug, PartialEq, Eq)]
enum AuthScheme {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// Who asks, and the scopes that a token has to allow.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct AuthRequest<'a> {
    pub(in crate::upstream) identity: &'a UpstreamIdentity,
    /// One scope, or several with a space in between.
    pub(in crate::upstream) scope: &'a str,
}

/// The `Authorization` of a request, and where it comes from, which decides what its refusal means.
/// The values are marked sensitive, so `Debug` does not show them.
#[derive(Clone, Debug)]
pub(in crate::upstream) enum Authorization {
    None,
    Basic(HeaderValue),
    /// A token that was issued for an earlier request; it may have ended early.
    CachedToken(HeaderValue),
    /// A token issued just now: a refusal of it is final (UP-6).
    NewToken(HeaderValue),
}

impl Authorization {
    pub(in crate::upstream) fn header(&self) -> Option<&HeaderValue> {
        match self {
            Self::None => None,
            Self::Basic(header) | Self::CachedToken(header) | Self::NewToken(header) => {
                Some(header)
            }
        }
    }
}

/// The scheme and the tokens of one upstream.
#[derive(Debug)]
pub(in crate::upstream) struct Authenticator {
    transport: Arc<Transport>,
    /// What the last challenge asked for; `None` before the first.
    scheme: Mutex<Option<AuthScheme>>,
    tokens: TokenCache,
}

impl Authenticator {
    pub(in crate::upstream) fn new(transport: Arc<Transport>, tokens: TokenCache) -> Self {
        Self { transport, scheme: Mutex::new(None), tokens }
    }

    /// Whether the upstream has sent a challenge yet.
    pub(in crate::upstream) fn knows_scheme(&self) -> bool {
        self.known_scheme().is_some()
    }

    fn known_scheme(&self) -> Option<AuthScheme> {
        self.scheme.lock().expect("nothing panics while it holds the scheme").clone()
    }

    /// The authorization to begin with.
    ///
    /// # Errors
    /// If a token is needed and there is none to be had.
    pub(in crate::upstream) async fn authorise(
        &self,
        request: AuthRequest<'_>,
    ) -> Result<Authorization, Fault> {
        match (self.known_scheme(), &request.identity.login) {
            // Before the first challenge the login is not sent either: an open registry has no use
            // for it, and others say where it belongs.
            (None, _) | (Some(AuthScheme::Basic), None) => Ok(Authorization::None),
            (Some(AuthScheme::Basic), Some(login)) => Ok(Authorization::Basic(login.header())),
            // Without a login too: public images of Docker Hub need an anonymous token (UP-7).
            (Some(AuthScheme::Bearer { realm, service }), _) => {
                self.token(key(request, realm, service), None).await
            }
        }
    }

    /// The authorization to use after `rejected` was, with these challenges; `None` if there is
    /// nothing better (UP-6).
    ///
    /// # Errors
    /// `ForbiddenAddress` if tokens come from a realm that may not have our credential; or if a
    /// token is needed and there is none to be had.
    pub(in crate::upstream) async fn reauthorise(
        &self,
        request: AuthRequest<'_>,
        challenges: &[Challenge],
        rejected: &Authorization,
    ) -> Result<Option<Authorization>, Fault> {
        let login = request.identity.login.as_ref();
        let Learned { scheme, is_new } = self.learn(challenges, login.is_some())?;
        match (scheme, rejected) {
            (
                Some(AuthScheme::Basic),
                Authorization::None | Authorization::CachedToken(_) | Authorization::NewToken(_),
            ) => Ok(login.map(|login| Authorization::Basic(login.header()))),
            (None, _) | (Some(AuthScheme::Basic), Authorization::Basic(_)) => Ok(None),
            // The endpoint that issued the refused token would only issue another like it.
            (Some(AuthScheme::Bearer { .. }), Authorization::NewToken(_)) if !is_new => Ok(None),
            (Some(AuthScheme::Bearer { realm, service }), rejected) => {
                self.token(key(request, realm, service), rejected.header()).await.map(Some)
            }
        }
    }

    async fn token(
        &self,
        key: TokenKey,
        rejected: Option<&HeaderValue>,
    ) -> Result<Authorization, Fault> {
        let obtained = self.tokens.obtain(key, rejected).await?;
        Ok(if obtained.is_new {
            Authorization::NewToken(obtained.header)
        } else {
            Authorization::CachedToken(obtained.header)
        })
    }

    /// Takes over what the challenges ask for. No challenge changes nothing: the registries of AWS
    /// refuse an expired token without one.
    fn learn(&self, challenges: &[Challenge], with_login: bool) -> Result<Learned, Fault> {
        let requested = self.choose(challenges, with_login)?;
        let mut scheme = self.scheme.lock().expect("nothing panics while it holds the scheme");
        let is_new = requested.is_some() && *scheme != requested;
        if is_new {
            scheme.clone_from(&requested);
        }
        // Challenges that we cannot answer (Negotiate, Digest) leave nothing to try.
        let scheme = if challenges.is_empty() { scheme.clone() } else { requested };
        Ok(Learned { scheme, is_new })
    }

    /// The first challenge that we can and may answer. A realm that we may not go to is an error if
    /// nothing else is left.
    fn choose(
        &self,
        challenges: &[Challenge],
        with_login: bool,
    ) -> Result<Option<AuthScheme>, Fault> {
        let mut fault = None;
        for challenge in challenges {
            // Without a login there is nothing to send by Basic; a Bearer challenge behind it may
            // still give an anonymous token.
            if challenge.is("basic") && with_login {
                return Ok(Some(AuthScheme::Basic));
            }
            let Some(realm) = challenge.parameter("realm").filter(|_| challenge.is("bearer"))
            else {
                continue;
            };
            match self.transport.gate.realm(realm) {
                Ok(realm) => {
                    let service = challenge.parameter("service").map(ToOwned::to_owned);
                    return Ok(Some(AuthScheme::Bearer { realm, service }));
                }
                // Not a denial: the operator can add the realm to `token_hosts`, and has to be told
                // which it is.
                Err(reason) => fault = Some(forbidden_realm(realm, reason)),
            }
        }
        fault.map_or(Ok(None), Err)
    }
}

/// What the challenges of one answer have taught.
struct Learned {
    /// The scheme to use from now on.
    scheme: Option<AuthScheme>,
    /// It differs from the one before.
    is_new: bool,
}

fn key(request: AuthRequest<'_>, realm: Url, service: Option<String>) -> TokenKey {
    let AuthRequest { identity, scope } = request;
    TokenKey { identity: identity.clone(), realm, service, scope: scope.to_owned() }
}

fn forbidden_realm(realm: &str, reason: ForbiddenUrl) -> Fault {
    match Url::parse(realm) {
        Ok(url) => forbidden(&url, reason),
        Err(_) => Fault::protocol("the token realm is not a URL"),
    }
}
