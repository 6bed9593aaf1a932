//! What we show an upstream: nothing, Basic, or a Bearer token, as its challenges ask (PROTOCOL
//! §2.3).
//!
//! The scheme is learned from the first 401 and kept until another contradicts it. A challenge
//! tells where tokens come from, and what a token has to be for, if it answers a request about a
//! repository: in answer to a ping some registries send placeholders, as GHCR's
//! `repository:user/image:pull` (UP-1, UP-2). The registry's word is kept for each of our scopes
//! and holds for no other, so that no token is taken for one of another repository.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::HeaderValue;
use moka::sync::Cache;
use url::Url;

use super::challenge::Challenge;
use super::identity::UpstreamIdentity;
use super::rejected::RejectedLogins;
use super::replacements::Replacements;
use super::scope;
use super::token::{CACHED_TOKENS_MAX, ObtainedToken, TokenCache, TokenKey};
use crate::clock::Moment;
use crate::upstream::error::{ErrorKind, Fault};
use crate::upstream::transport::gate::ForbiddenUrl;
use crate::upstream::transport::request::{Transport, forbidden};

/// How long it is remembered that waiting with a new token was in vain: a denied repository costs
/// the wait once in a while, not with each pull.
const PATIENCE_INTERVAL: Duration = Duration::from_mins(5);

#[derive(Clone, Debug, PartialEq, Eq)]
enum AuthScheme {
    Basic,
    Bearer(TokenIssuer),
}

/// Where tokens come from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TokenIssuer {
    realm: Url,
    service: Option<String>,
}

/// Who asks, and the scopes that a token has to allow.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct AuthRequest<'a> {
    pub(in crate::upstream) identity: &'a UpstreamIdentity,
    /// One scope, or several with a space in between; in our words.
    pub(in crate::upstream) scope: &'a str,
    /// It asks about no repository, so a scope in its challenge is a placeholder.
    pub(in crate::upstream) is_ping: bool,
}

/// The `Authorization` of a request, and where it comes from, which decides what its refusal means.
/// The values are marked sensitive, so `Debug` does not show them.
#[derive(Clone, Debug)]
pub(in crate::upstream) enum Authorization {
    None,
    Basic(HeaderValue),
    /// A token that was issued for an earlier request; it may have ended early.
    CachedToken(ScopedToken),
    /// A token issued just now: a refusal of it is final, unless the registry wants another scope
    /// (UP-6).
    NewToken(ScopedToken),
}

/// A token, and the scope that it was asked for.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct ScopedToken {
    header: HeaderValue,
    scope: String,
}

impl Authorization {
    pub(in crate::upstream) fn header(&self) -> Option<&HeaderValue> {
        match self {
            Self::None => None,
            Self::Basic(header) => Some(header),
            Self::CachedToken(token) | Self::NewToken(token) => Some(&token.header),
        }
    }
}

/// The scheme and the tokens of one upstream.
#[derive(Debug)]
pub(in crate::upstream) struct Authenticator {
    transport: Arc<Transport>,
    /// What the last challenge asked for; `None` before the first.
    scheme: Mutex<Option<AuthScheme>>,
    /// The scope that the registry wants, by ours, where they differ.
    wanted_scopes: Cache<String, String>,
    /// When waiting with a new token was last in vain, by its scope.
    waited_in_vain: Cache<String, Moment>,
    rejected: RejectedLogins,
    tokens: TokenCache,
    pub(in crate::upstream) replacements: Replacements,
}

impl Authenticator {
    pub(in crate::upstream) fn new(transport: Arc<Transport>, tokens: TokenCache) -> Self {
        let (wanted_scopes, waited_in_vain) =
            (Cache::new(CACHED_TOKENS_MAX), Cache::new(CACHED_TOKENS_MAX));
        let gauge = &transport.metrics().upstream.credential_rejected;
        let gauge = gauge.with_label_values(&[transport.name.as_str()]);
        let rejected = RejectedLogins::new(transport.name.clone(), gauge);
        let (scheme, replacements) = (Mutex::new(None), Replacements::new());
        Self { transport, scheme, wanted_scopes, waited_in_vain, rejected, tokens, replacements }
    }

    /// Takes note of how a request went that showed the login itself.
    pub(in crate::upstream) fn note_login(
        &self,
        identity: &UpstreamIdentity,
        outcome: Result<(), &Fault>,
    ) {
        match outcome {
            Ok(()) => self.rejected.note_success(identity),
            Err(fault) => self.rejected.note_failure(identity, fault),
        }
    }

    /// How long to wait before a token is shown once more that was issued just now and refused: the
    /// registry's clock may be a moment behind the issuer's, so that the token is not valid yet
    /// (UP-6). `None` where waiting has been in vain for this scope a while ago. A wait counts as in
    /// vain until [`Self::note_wait_helped`].
    pub(in crate::upstream) fn begin_wait(&self, refused: &Authorization) -> Option<Duration> {
        let Authorization::NewToken(token) = refused else { return None };
        let now = self.tokens.now();
        let waited = self.waited_in_vain.get(&token.scope);
        if waited.is_some_and(|at| now.since(at) < PATIENCE_INTERVAL) {
            return None;
        }
        self.waited_in_vain.insert(token.scope.clone(), now);
        Some(self.tokens.settling_time())
    }

    /// The token is good after all, so the next new one may need the same patience.
    pub(in crate::upstream) fn note_wait_helped(&self, accepted: &Authorization) {
        if let Authorization::NewToken(token) = accepted {
            self.waited_in_vain.invalidate(&token.scope);
        }
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
            (Some(AuthScheme::Bearer(issuer)), _) => {
                let own = request.scope.to_owned();
                let scopes = match self.wanted_scopes.get(request.scope) {
                    Some(wanted) => vec![wanted, own],
                    None => vec![own],
                };
                Ok(self.token(request, &issuer, scopes, None).await?.unwrap_or(Authorization::None))
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
        let Learned { scheme, is_new, scope: named } = self.learn(challenges, login.is_some())?;
        let issuer = match (scheme, rejected) {
            (
                Some(AuthScheme::Basic),
                Authorization::None | Authorization::CachedToken(_) | Authorization::NewToken(_),
            ) => return Ok(login.map(|login| Authorization::Basic(login.header()))),
            (None, _) | (Some(AuthScheme::Basic), Authorization::Basic(_)) => return Ok(None),
            (Some(AuthScheme::Bearer(issuer)), _) => issuer,
        };
        let scopes = scope::candidates(request.scope, named.filter(|_| !request.is_ping));
        let token = match rejected {
            // The endpoint that issued the refused token would only issue another like it, unless
            // for another scope. If it does not, the refusal stands.
            Authorization::NewToken(refused) if !is_new => {
                let others = scope::other_than(scopes, &refused.scope);
                let token = self.token(request, &issuer, others, rejected.header()).await;
                token.or_else(|fault| if is_refusal(&fault) { Ok(None) } else { Err(fault) })?
            }
            Authorization::CachedToken(ended) => {
                let scopes = scope::renewing(scopes, request.scope, &ended.scope);
                self.token(request, &issuer, scopes, rejected.header()).await?
            }
            Authorization::None | Authorization::Basic(_) | Authorization::NewToken(_) => {
                self.token(request, &issuer, scopes, rejected.header()).await?
            }
        };
        Ok(token)
    }

    /// A token for the first of the scopes that the endpoint gives one for; `None` without a scope.
    async fn token(
        &self,
        request: AuthRequest<'_>,
        issuer: &TokenIssuer,
        scopes: Vec<String>,
        rejected: Option<&HeaderValue>,
    ) -> Result<Option<Authorization>, Fault> {
        let mut refusal = Ok(None);
        for scope in scopes {
            let key = issuer.key(request.identity, &scope);
            let obtained = self.tokens.obtain(key, rejected).await;
            if let Err(fault) = &obtained {
                self.rejected.note_failure(request.identity, fault);
            }
            match obtained {
                Ok(ObtainedToken { header, is_new }) => {
                    if is_new {
                        self.rejected.note_success(request.identity);
                    }
                    self.note_wanted(request.scope, &scope);
                    let token = ScopedToken { header, scope };
                    return Ok(Some(if is_new {
                        Authorization::NewToken(token)
                    } else {
                        Authorization::CachedToken(token)
                    }));
                }
                // It may know the repository by the other name.
                Err(fault) if is_refusal(&fault) => refusal = refusal.and(Err(fault)),
                Err(fault) => return Err(fault),
            }
        }
        refusal
    }

    /// Keeps which scope a token was asked for instead of ours.
    fn note_wanted(&self, own: &str, asked: &str) {
        if own == asked {
            self.wanted_scopes.invalidate(own);
        } else {
            self.wanted_scopes.insert(own.to_owned(), asked.to_owned());
        }
    }

    /// Takes over what the challenges ask for. No challenge changes nothing: the registries of AWS
    /// refuse an expired token without one.
    fn learn(&self, challenges: &[Challenge], with_login: bool) -> Result<Learned, Fault> {
        let (requested, scope) = self.choose(challenges, with_login)?.unzip();
        let mut scheme = self.scheme.lock().expect("nothing panics while it holds the scheme");
        let is_new = requested.is_some() && *scheme != requested;
        if is_new {
            scheme.clone_from(&requested);
        }
        // Challenges that we cannot answer (Negotiate, Digest) leave nothing to try.
        let scheme = if challenges.is_empty() { scheme.clone() } else { requested };
        Ok(Learned { scheme, is_new, scope: scope.flatten() })
    }

    /// The first challenge that we can and may answer, and the scope that it names. A realm that we
    /// may not go to is an error if nothing else is left.
    fn choose(
        &self,
        challenges: &[Challenge],
        with_login: bool,
    ) -> Result<Option<(AuthScheme, Option<String>)>, Fault> {
        let mut fault = None;
        for challenge in challenges {
            // Without a login there is nothing to send by Basic; a Bearer challenge behind it may
            // still give an anonymous token.
            if challenge.is("basic") && with_login {
                return Ok(Some((AuthScheme::Basic, None)));
            }
            let Some(realm) = challenge.parameter("realm").filter(|_| challenge.is("bearer"))
            else {
                continue;
            };
            match self.transport.gate.realm(realm) {
                Ok(realm) => {
                    let service = challenge.parameter("service").map(ToOwned::to_owned);
                    let scope = challenge.parameter("scope").and_then(scope::named);
                    let issuer = TokenIssuer { realm, service };
                    return Ok(Some((AuthScheme::Bearer(issuer), scope)));
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
    /// What a token has to allow, if the challenge says.
    scope: Option<String>,
}

impl TokenIssuer {
    fn key(&self, identity: &UpstreamIdentity, scope: &str) -> TokenKey {
        let Self { realm, service } = self.clone();
        TokenKey { identity: identity.clone(), realm, service, scope: scope.to_owned() }
    }
}

/// Whether the endpoint gives no token of this scope, and might give one of another.
fn is_refusal(fault: &Fault) -> bool {
    matches!(fault.kind, ErrorKind::Denied | ErrorKind::Protocol)
}

fn forbidden_realm(realm: &str, reason: ForbiddenUrl) -> Fault {
    match Url::parse(realm) {
        Ok(url) => forbidden(&url, reason),
        Err(_) => Fault::protocol("the token realm is not a URL"),
    }
}
