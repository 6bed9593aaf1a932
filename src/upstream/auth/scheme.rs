//! What we present to an upstream: nothing, Basic, or a Bearer token, as its challenges ask
//! (PROTOCOL §2.3).
//!
//! The scheme is learned from the first 401 and kept until another contradicts it. A challenge
//! tells where tokens come from; what a token is for is never taken from it, since some registries
//! send placeholders (UP-1, UP-2).

use std::sync::{Arc, Mutex};

use http::HeaderValue;
use url::Url;

use super::challenge::Challenge;
use super::login::Speaker;
use super::token::{Key, Tokens};
use crate::upstream::error::Failure;
use crate::upstream::transport::gate::Refusal;
use crate::upstream::transport::request::{Wire, refused};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Scheme {
    Basic,
    Bearer { realm: Url, service: Option<String> },
}

/// What a request carries; the values show nothing in `Debug`.
#[derive(Clone, Debug)]
pub(in crate::upstream) enum Presented {
    Nothing,
    Basic(HeaderValue),
    /// A token that was issued for an earlier request.
    Kept(HeaderValue),
    /// A token issued just now: a refusal of it is final (UP-6).
    Fresh(HeaderValue),
}

impl Presented {
    pub(in crate::upstream) fn header(&self) -> Option<&HeaderValue> {
        match self {
            Self::Nothing => None,
            Self::Basic(header) | Self::Kept(header) | Self::Fresh(header) => Some(header),
        }
    }
}

/// The scheme and tokens of one upstream.
#[derive(Debug)]
pub(in crate::upstream) struct Auth {
    wire: Arc<Wire>,
    /// What the last challenge asked for.
    scheme: Mutex<Option<Scheme>>,
    tokens: Tokens,
}

impl Auth {
    pub(in crate::upstream) fn new(wire: Arc<Wire>, tokens: Tokens) -> Self {
        Self { wire, scheme: Mutex::new(None), tokens }
    }

    /// Whether it is known by now how this upstream wants to be asked.
    pub(in crate::upstream) fn knows_scheme(&self) -> bool {
        self.scheme.lock().expect("nothing panics while it holds the scheme").is_some()
    }

    /// What to present at first, for a token that allows `scope`.
    pub(in crate::upstream) async fn present(
        &self,
        speaker: &Speaker,
        scope: &str,
    ) -> Result<Presented, Failure> {
        let scheme = self.scheme.lock().expect("nothing panics while it holds the scheme").clone();
        match (scheme, &speaker.login) {
            (None, _) | (Some(Scheme::Basic), None) => Ok(Presented::Nothing),
            (Some(Scheme::Basic), Some(login)) => Ok(Presented::Basic(login.basic())),
            (Some(Scheme::Bearer { realm, service }), _) => {
                self.token(key(speaker, scope, realm, service), None).await
            }
        }
    }

    /// What to present after `rejected` was, with these challenges; `None` if there is nothing
    /// better (UP-6).
    pub(in crate::upstream) async fn reconsider(
        &self,
        (speaker, scope): (&Speaker, &str),
        challenges: &[Challenge],
        rejected: &Presented,
    ) -> Result<Option<Presented>, Failure> {
        let login = speaker.login.as_ref();
        let (scheme, is_new) = self.learn(challenges, login.is_some())?;
        match (scheme, rejected) {
            (
                Some(Scheme::Basic),
                Presented::Nothing | Presented::Kept(_) | Presented::Fresh(_),
            ) => Ok(login.map(|login| Presented::Basic(login.basic()))),
            (None, _) | (Some(Scheme::Basic), Presented::Basic(_)) => Ok(None),
            (Some(Scheme::Bearer { .. }), Presented::Fresh(_)) if !is_new => Ok(None),
            (Some(Scheme::Bearer { realm, service }), rejected) => {
                self.token(key(speaker, scope, realm, service), rejected.header()).await.map(Some)
            }
        }
    }

    async fn token(&self, key: Key, rejected: Option<&HeaderValue>) -> Result<Presented, Failure> {
        let (token, is_fresh) = self.tokens.obtain(key, rejected).await?;
        Ok(if is_fresh { Presented::Fresh(token.header) } else { Presented::Kept(token.header) })
    }

    /// The scheme to use from now on, and whether it differs from before. No challenge changes
    /// nothing.
    fn learn(
        &self,
        challenges: &[Challenge],
        with_login: bool,
    ) -> Result<(Option<Scheme>, bool), Failure> {
        let asked = self.choose(challenges, with_login)?;
        let mut scheme = self.scheme.lock().expect("nothing panics while it holds the scheme");
        let is_new = asked.is_some() && *scheme != asked;
        if is_new {
            scheme.clone_from(&asked);
        }
        let chosen = if challenges.is_empty() { scheme.clone() } else { asked };
        Ok((chosen, is_new))
    }

    /// The first challenge that we can and may answer. A realm that we may not go to is an error if
    /// nothing else is left.
    fn choose(
        &self,
        challenges: &[Challenge],
        with_login: bool,
    ) -> Result<Option<Scheme>, Failure> {
        let mut refusal = None;
        for challenge in challenges {
            if challenge.is("basic") && with_login {
                return Ok(Some(Scheme::Basic));
            }
            let Some(realm) = challenge.parameter("realm").filter(|_| challenge.is("bearer"))
            else {
                continue;
            };
            match self.wire.gate.realm(realm) {
                Ok(realm) => {
                    let service = challenge.parameter("service").map(ToOwned::to_owned);
                    return Ok(Some(Scheme::Bearer { realm, service }));
                }
                Err(error) => refusal = Some(refused_realm(realm, error)),
            }
        }
        refusal.map_or(Ok(None), Err)
    }
}

fn key(speaker: &Speaker, scope: &str, realm: Url, service: Option<String>) -> Key {
    Key { speaker: speaker.clone(), realm, service, scope: scope.to_owned() }
}

fn refused_realm(realm: &str, refusal: Refusal) -> Failure {
    match Url::parse(realm) {
        Ok(url) => refused(&url, refusal),
        Err(_) => Failure::protocol("the token realm is not a URL"),
    }
}
