//! Our own access tokens: who asks, for which name of ours, until when (ACCESS §5.1). What it may
//! do is decided afresh with every request.
//!
//! A compact JWS like a licence ([`jws`](crate::jws)), by an Ed25519 key that comes from the key
//! file by HKDF.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::keys::key_from;
use super::rejection::Rejection;
use crate::clock::{Clock, Moment, Timestamp};
use crate::expiring::ExpiringCache;
use crate::jws::JwsKey;
use crate::licence::{KeyId, Licence, LicenceId, SKEW, Slug, Term};
use crate::secret::Secret;

/// How long a token is good; longer for those who push, since a push is not interrupted to renew it
/// (AUTH-10).
pub(crate) const TOKEN_LIFE: Duration = Duration::from_mins(15);
pub(crate) const TOKEN_LIFE_FOR_PUSH: Duration = Duration::from_hours(1);

/// Bytes of a token; with 32 applications it takes about 3 KiB.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// `typ` in the header of our tokens.
const TOKEN_TYPE: &str = "roadstead-access";

/// Bytes of a key's digest that name it in the header.
const KEY_ID_BYTES: usize = 9;

/// Tokens whose signature was checked already: clients present one token with each of dozens of
/// requests.
const VERIFIED_TOKENS_MAX: u64 = 10_000;

/// Whom a token is for, as it stands in the token. It says more than an
/// [`Identity`](crate::identity::Identity): for each kind also what tells that the token has to end
/// early. There is no certificate, whose rights come from the connection alone (ACCESS §1.1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TokenSubject {
    Anonymous,
    /// `hash` is the fingerprint of the stored hash, which changes with the password.
    User {
        name: String,
        hash: String,
    },
    Licence(RunningLicence),
}

/// What is needed of a licence to go on checking its end and its revocation while the token runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RunningLicence {
    id: String,
    key: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    applications: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct AccessClaims {
    aud: String,
    iat: u64,
    exp: u64,
    sub: TokenSubject,
}

impl RunningLicence {
    pub(super) fn new(licence: &Licence, key: &KeyId) -> Self {
        Self {
            id: licence.id.to_string(),
            key: key.to_string(),
            iat: licence.issued.unix().as_secs(),
            nbf: licence.not_before.unix().as_secs(),
            exp: licence.expires.unix().as_secs(),
            applications: licence.applications.iter().map(Slug::to_string).collect(),
        }
    }

    /// None if it is not what [`new`](Self::new) writes.
    pub(super) fn read(&self) -> Option<(Term, KeyId, Vec<Slug>)> {
        let at = |seconds| Timestamp::from_unix(Duration::from_secs(seconds));
        let id = LicenceId::parse(&self.id).ok()?;
        let term =
            Term { id, issued: at(self.iat), not_before: at(self.nbf), expires: at(self.exp) };
        let applications = self
            .applications
            .iter()
            .map(|slug| Slug::parse(slug))
            .collect::<Result<_, _>>()
            .ok()?;
        Some((term, KeyId::known(&self.key), applications))
    }
}

/// The key of our tokens, both halves.
struct SigningKey {
    pair: Ed25519KeyPair,
    /// Which key it is; a part of the thumbprint is enough to tell two of them apart.
    id: String,
    jws: JwsKey,
}

impl SigningKey {
    /// # Errors
    /// If the material is too short to be secret.
    fn derive(material: &[u8]) -> Result<Self, String> {
        let seed = key_from(material, b"access token signing")?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref())
            .map_err(|_| "no key can be derived from it")?;
        let public = pair.public_key().as_ref();
        let id = URL_SAFE_NO_PAD.encode(&digest(&SHA256, public).as_ref()[..KEY_ID_BYTES]);
        let jws = JwsKey::new(public, TOKEN_TYPE, &id).ok_or("no key can be derived from it")?;
        Ok(Self { pair, id, jws })
    }
}

/// Issues and reads tokens.
pub(super) struct AccessTokens {
    current: Arc<SigningKey>,
    /// Verifies what it signed until the longest of that has run out.
    previous: Option<(Arc<SigningKey>, Moment)>,
    clock: Clock,
    /// By SHA-256 of the token. Only the signature is remembered: times and audience are checked
    /// again for every request.
    verified: ExpiringCache<[u8; 32], AccessClaims>,
}

/// A token and how long it is good.
#[derive(Debug)]
pub(crate) struct Issued {
    pub token: Secret,
    pub at: Timestamp,
    pub life: Duration,
}

impl AccessTokens {
    /// `material` is the content of the key file.
    ///
    /// # Errors
    /// What is wrong with the material.
    pub(super) fn new(material: &[u8], clock: Clock) -> Result<Self, String> {
        let current = Arc::new(SigningKey::derive(material)?);
        let verified = ExpiringCache::new(VERIFIED_TOKENS_MAX, clock.clone());
        Ok(Self { current, previous: None, clock, verified })
    }

    /// With another key from now on; `None` if it is the one that there is.
    ///
    /// # Errors
    /// What is wrong with the material.
    pub(super) fn renewed(&self, material: &[u8]) -> Result<Option<Self>, String> {
        let renewed = Self::new(material, self.clock.clone())?;
        if renewed.current.id == self.current.id {
            return Ok(None);
        }
        let until = self.clock.moment().plus(TOKEN_LIFE_FOR_PUSH + SKEW);
        Ok(Some(Self { previous: Some((Arc::clone(&self.current), until)), ..renewed }))
    }

    /// A token for `audience`, good for `life` but not past `limit`.
    pub(super) fn issue(
        &self,
        subject: TokenSubject,
        audience: &str,
        life: Duration,
        limit: Option<Timestamp>,
    ) -> Issued {
        let now = self.clock.now();
        let life = limit.map_or(life, |limit| life.min(limit.since(now)));
        let life = Duration::from_secs(life.as_secs());
        let (iat, aud) = (now.unix().as_secs(), audience.to_owned());
        let claims = AccessClaims { aud, iat, exp: iat + life.as_secs(), sub: subject };
        let json =
            serde_json::to_vec(&claims).expect("claims are text and numbers under text keys");
        let SigningKey { pair, jws, .. } = &*self.current;
        Issued { token: Secret::new(jws.sign(pair, &json)), at: now, life }
    }

    /// Whom a token is for.
    ///
    /// # Errors
    /// [`Rejection::TokenInvalid`] if it is none of ours for this audience, and
    /// [`Rejection::TokenExpired`] if it has run out.
    pub(super) fn read(&self, token: &str, audience: &str) -> Result<TokenSubject, Rejection> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Rejection::TokenInvalid);
        }
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let known = self.verified.get(&key).or_else(|| {
            let claims = self.verify(token)?;
            self.verified.insert(key, claims.clone(), TOKEN_LIFE_FOR_PUSH);
            Some(claims)
        });
        let claims =
            known.filter(|claims| claims.aud == audience).ok_or(Rejection::TokenInvalid)?;
        let at = |seconds| Timestamp::from_unix(Duration::from_secs(seconds));
        let now = self.clock.now();
        // One that was issued while our clock was ahead would be good until it gets there again.
        let is_good = at(claims.iat) <= now.plus(SKEW) && now < at(claims.exp).plus(SKEW);
        if is_good { Ok(claims.sub) } else { Err(Rejection::TokenExpired) }
    }

    fn verify(&self, token: &str) -> Option<AccessClaims> {
        let now = self.clock.moment();
        let previous = self.previous.iter().filter(|(_, until)| now < *until).map(|(key, _)| key);
        let mut keys = std::iter::once(&self.current).chain(previous);
        let key = keys.find(|key| key.jws.is_named_by(token))?;
        serde_json::from_slice(&key.jws.verify(token).ok()?).ok()
    }
}

impl fmt::Debug for AccessTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessTokens")
            .field("rotating", &self.previous.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUDIENCE: &str = "registry.example.com";

    fn tokens() -> (AccessTokens, Clock) {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        (AccessTokens::new(&[7; 32], clock.clone()).expect("a key"), clock)
    }

    fn user() -> TokenSubject {
        TokenSubject::User { name: "ci".to_owned(), hash: "abc".to_owned() }
    }

    fn issue(tokens: &AccessTokens) -> String {
        tokens.issue(user(), AUDIENCE, TOKEN_LIFE, None).token.expose().to_owned()
    }

    #[test]
    fn a_token_tells_whom_it_is_for_until_it_runs_out() {
        let (tokens, clock) = tokens();
        let token = issue(&tokens);
        assert_eq!(tokens.read(&token, AUDIENCE), Ok(user()));
        clock.advance(TOKEN_LIFE + Duration::from_secs(59));
        assert_eq!(tokens.read(&token, AUDIENCE), Ok(user()), "clocks differ");
        clock.advance(Duration::from_secs(1));
        assert_eq!(tokens.read(&token, AUDIENCE), Err(Rejection::TokenExpired));
    }

    #[test]
    fn a_token_for_another_name_or_by_another_key_is_none() {
        let (tokens, clock) = tokens();
        let token = issue(&tokens);
        assert_eq!(tokens.read(&token, "mirror.example.com"), Err(Rejection::TokenInvalid));
        let other = AccessTokens::new(&[8; 32], clock).expect("a key");
        assert_eq!(other.read(&token, AUDIENCE), Err(Rejection::TokenInvalid));
        assert!(AccessTokens::new(&[7; 31], Clock::system()).is_err());
    }

    #[test]
    fn a_token_with_any_byte_changed_is_none() {
        let (tokens, _) = tokens();
        let token = issue(&tokens);
        for i in 0..token.len() {
            for replacement in [b'A', b'B', b'.'] {
                let mut bytes = token.clone().into_bytes();
                if bytes[i] != replacement {
                    bytes[i] = replacement;
                    let changed = String::from_utf8(bytes).expect("ASCII");
                    assert_eq!(
                        tokens.read(&changed, AUDIENCE),
                        Err(Rejection::TokenInvalid),
                        "byte {i}"
                    );
                }
            }
        }
        for bad in ["", ".", "..", "a.b.c", &format!("{token}="), &"x".repeat(TOKEN_BYTES_MAX + 1)]
        {
            assert_eq!(tokens.read(bad, AUDIENCE), Err(Rejection::TokenInvalid));
        }
    }

    #[test]
    fn no_more_than_8_kib_are_looked_at() {
        let (tokens, _) = tokens();
        for length in 5_700..6_200 {
            let name = "x".repeat(length);
            let user = TokenSubject::User { name, hash: "abc".to_owned() };
            let token = tokens.issue(user.clone(), AUDIENCE, TOKEN_LIFE, None).token;
            let expected = if token.expose().len() <= 8 * 1024 {
                Ok(user)
            } else {
                Err(Rejection::TokenInvalid)
            };
            assert_eq!(tokens.read(token.expose(), AUDIENCE), expected, "{length}");
        }
    }

    #[test]
    fn a_replaced_key_still_reads_what_it_signed_for_as_long_as_that_can_be_good() {
        let (tokens, clock) = tokens();
        let token = issue(&tokens);
        let renewed = tokens.renewed(&[8; 32]).expect("a key").expect("another one");
        assert!(tokens.renewed(&[7; 32]).expect("a key").is_none(), "the same key");
        assert_eq!(renewed.read(&token, AUDIENCE), Ok(user()));
        assert_ne!(issue(&renewed), token);
        assert_eq!(tokens.read(&issue(&renewed), AUDIENCE), Err(Rejection::TokenInvalid));
        let fresh = || tokens.renewed(&[8; 32]).expect("a key").expect("another one");
        let (asked, not_yet_asked) = (fresh(), fresh());
        let longest = tokens.issue(user(), AUDIENCE, TOKEN_LIFE_FOR_PUSH, None).token;
        clock.advance((TOKEN_LIFE_FOR_PUSH + SKEW).saturating_sub(Duration::from_secs(1)));
        assert_eq!(asked.read(longest.expose(), AUDIENCE), Ok(user()));
        clock.advance(Duration::from_secs(1));
        assert_eq!(not_yet_asked.read(&token, AUDIENCE), Err(Rejection::TokenInvalid));
    }

    #[test]
    fn a_token_never_outlives_what_it_stands_on() {
        let (tokens, clock) = tokens();
        let limit = clock.now().plus(Duration::from_millis(90_500));
        let issued = tokens.issue(user(), AUDIENCE, TOKEN_LIFE, Some(limit));
        assert_eq!(issued.life, Duration::from_secs(90), "rounded down");
        assert_eq!(tokens.issue(user(), AUDIENCE, TOKEN_LIFE, None).life, TOKEN_LIFE);
    }
}
