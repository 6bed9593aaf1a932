//! Bearer tokens: one request per credential, realm, service and scope, however many ask; renewed
//! before they end.
//!
//! A refresh runs in a task of its own, so that a client that leaves does not take it along
//! (PROTOCOL §2.1, UP-2…UP-5).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use moka::future::Cache;
use url::{Url, form_urlencoded};

use super::login::{Login, Speaker};
use crate::clock::{Clock, Timestamp};
use crate::upstream::error::{ErrorKind, Failure, FailureClass, Operation, Symptom};
use crate::upstream::transport::body::Incoming;
use crate::upstream::transport::request::{Outbound, Payload, Wire};
use crate::upstream::transport::throttle::Throttle;

const LARGEST_ANSWER: usize = 64 * 1024;
const MOST_TOKENS: u64 = 10_000;
/// The life of a token that tells none (token.md, `expires_in`).
const DEFAULT_LIFE: Duration = Duration::from_mins(1);
const LONGEST_LIFE: Duration = Duration::from_hours(24);
/// How long a token that could not be renewed, and is still good, is used before the next try.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// What a token is for, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) struct Key {
    pub(in crate::upstream) speaker: Speaker,
    pub(in crate::upstream) realm: Url,
    pub(in crate::upstream) service: Option<String>,
    /// One, or several with a space in between.
    pub(in crate::upstream) scope: String,
}

/// A token as it is sent. Its header value is marked sensitive, so `Debug` does not show it.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Token {
    pub(in crate::upstream) header: HeaderValue,
    /// From here on it is replaced, and used only if that fails.
    renew: Timestamp,
    expires: Timestamp,
}

type Slot = Result<Token, Failure>;

/// The tokens of one upstream.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Tokens {
    cache: Cache<Key, Slot>,
    source: Arc<Source>,
}

impl Tokens {
    pub(in crate::upstream) fn new(source: Source) -> Self {
        Self { cache: Cache::new(MOST_TOKENS), source: Arc::new(source) }
    }

    /// A token other than `rejected`, and whether it was issued just now.
    pub(in crate::upstream) async fn obtain(
        &self,
        key: Key,
        rejected: Option<&HeaderValue>,
    ) -> Result<(Token, bool), Failure> {
        let now = self.source.clock.now();
        let cached = self.cache.get(&key).await.and_then(Result::ok);
        let usable = cached.filter(|token| now < token.expires && Some(&token.header) != rejected);
        if let Some(token) = usable.as_ref().filter(|token| now < token.renew) {
            return Ok((token.clone(), false));
        }
        let renewal = tokio::spawn(self.clone().renew(key, usable, rejected.cloned()));
        let slot = renewal.await.unwrap_or_else(|error| {
            Err(Failure::protocol("the token request ended").because(error))
        });
        slot.map(|token| (token, true))
    }

    /// Renews the token unless somebody else has since; all who wait share the outcome.
    async fn renew(self, key: Key, old: Option<Token>, rejected: Option<HeaderValue>) -> Slot {
        let now = self.source.clock.now();
        let replaced = |slot: &Slot| match slot {
            Ok(token) => token.renew <= now || Some(&token.header) == rejected.as_ref(),
            Err(_) => true,
        };
        let fetched = self.source.fetch_or_keep(&key, old);
        self.cache.entry_by_ref(&key).or_insert_with_if(fetched, replaced).await.into_value()
    }
}

/// Where tokens come from.
#[derive(Debug)]
pub(in crate::upstream) struct Source {
    pub(in crate::upstream) wire: Arc<Wire>,
    pub(in crate::upstream) throttle: Arc<Throttle>,
    pub(in crate::upstream) clock: Clock,
    /// For one token, all requests together; a caller with less patience leaves earlier.
    pub(in crate::upstream) deadline: Duration,
}

impl Source {
    async fn fetch_or_keep(&self, key: &Key, old: Option<Token>) -> Slot {
        let late = || Err(Failure::new(ErrorKind::Timeout, Symptom::Silence, "no token in time"));
        let fetched =
            tokio::time::timeout(self.deadline, self.fetch(key)).await.unwrap_or_else(|_| late());
        let outcome = outcome(&fetched);
        self.wire
            .metrics()
            .upstream
            .token_refreshes
            .with_label_values(&[self.wire.name.as_str(), outcome])
            .inc();
        match (fetched, old) {
            (Err(failure), Some(old)) if failure.kind.class() == FailureClass::Passing => {
                Ok(Token { renew: old.expires.min(self.clock.now().plus(RENEWAL_PAUSE)), ..old })
            }
            (fetched, _) => fetched,
        }
    }

    /// GET first; POST where that is refused and there is a credential (UP-3).
    async fn fetch(&self, key: &Key) -> Slot {
        let Speaker { holder, login } = &key.speaker;
        self.throttle.check(*holder, Operation::Token)?;
        let got = self.wire.send(Operation::Token, get(key)).await?;
        let refused = matches!(got.status().as_u16(), 400 | 404 | 405);
        let answer = match login.as_ref().filter(|_| refused) {
            Some(login) => {
                got.discard().await;
                self.wire.send(Operation::Token, post(key, login)).await?
            }
            None => got,
        };
        self.read(&key.speaker, answer).await
    }

    async fn read(&self, speaker: &Speaker, mut answer: Incoming) -> Slot {
        let status = answer.status();
        let failure = |kind, reason| Err(Failure::new(kind, Symptom::Answered, reason));
        match status.as_u16() {
            200 => {
                let body = answer.whole(LARGEST_ANSWER).await?;
                parse(&body, self.clock.now())
                    .ok_or_else(|| Failure::protocol("the token endpoint sent no token"))
            }
            401 if speaker.login.is_some() => {
                failure(ErrorKind::CredentialRejected, "the token endpoint rejects the credential")
            }
            // With a good credential too, some say it of a repository that is private or missing
            // (GHCR, GAR; UP-9).
            401 | 403 => {
                failure(ErrorKind::Denied, "the token endpoint gives no token for this repository")
            }
            429 => Err(self.throttle.close(speaker.holder, Operation::Token, answer.headers())),
            300..=399 => {
                failure(ErrorKind::Refused, "the token endpoint redirects, which is not followed")
            }
            500.. => Err(server_error(status)),
            _ => Err(Failure::protocol(format!("the token endpoint answered {}", status.as_u16()))),
        }
    }
}

fn server_error(status: StatusCode) -> Failure {
    let status = status.as_u16();
    let reason = format!("the token endpoint answered {status}");
    Failure::new(ErrorKind::ServerError(status), Symptom::Status(status), reason)
}

/// The word for the metric.
fn outcome(slot: &Slot) -> &'static str {
    let Err(failure) = slot else { return "issued" };
    match (&failure.kind, failure.kind.class()) {
        (ErrorKind::RateLimited { .. }, _) => "rate_limited",
        (_, FailureClass::Refused) => "denied",
        (_, FailureClass::Credential) => "rejected",
        (
            _,
            FailureClass::Absent
            | FailureClass::Passing
            | FailureClass::Untrue
            | FailureClass::Ours,
        ) => "failed",
    }
}

fn get(key: &Key) -> Outbound {
    let mut url = key.realm.clone();
    let service = key.service.iter().map(|service| ("service", service.as_str()));
    let scopes = key.scope.split(' ').map(|scope| ("scope", scope));
    url.query_pairs_mut().extend_pairs(service).extend_pairs(scopes);
    let headers = key.speaker.login.iter().map(|login| (AUTHORIZATION, login.basic())).collect();
    Outbound { method: Method::GET, url, headers, payload: Payload::Nothing }
}

fn post(key: &Key, login: &Login) -> Outbound {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "password")
        .append_pair("username", login.username())
        .append_pair("password", login.password())
        .append_pair("client_id", "roadstead")
        .extend_pairs(key.service.iter().map(|service| ("service", service.as_str())))
        .append_pair("scope", &key.scope);
    let payload = Payload::Form(form.finish());
    Outbound { method: Method::POST, url: key.realm.clone(), headers: HeaderMap::new(), payload }
}

#[derive(serde::Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    /// A whole number by the specification; whatever else it is counts as absent.
    expires_in: Option<serde_json::Value>,
}

/// Reads the answer of a token endpoint; `None` if there is no token in it that could be sent.
fn parse(body: &[u8], now: Timestamp) -> Option<Token> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let token = answer.token.or(answer.access_token).filter(|token| !token.is_empty())?;
    let told = answer.expires_in.and_then(|value| value.as_u64()).filter(|seconds| *seconds > 0);
    let life = told
        .map(Duration::from_secs)
        .or_else(|| jwt_life(&token, now))
        .unwrap_or(DEFAULT_LIFE)
        .min(LONGEST_LIFE);
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    Some(Token { header, renew: now.plus(life * 4 / 5), expires: now.plus(life) })
}

/// What is left until the `exp` of a token that is a JWT. Its signature is the upstream's business.
fn jwt_life(token: &str, now: Timestamp) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct Claims {
        exp: u64,
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: Claims = serde_json::from_slice(&claims).ok()?;
    let left = Timestamp::from_unix(Duration::from_secs(claims.exp)).since(now);
    (!left.is_zero()).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_unix(Duration::ZERO)
    }

    fn life(body: &str) -> Option<u64> {
        parse(body.as_bytes(), now()).map(|token| token.expires.since(now()).as_secs())
    }

    #[test]
    fn either_name_of_the_token_will_do() {
        let header = |body: &str| {
            parse(body.as_bytes(), now()).map(|token| token.header.to_str().map(ToOwned::to_owned))
        };
        assert_eq!(header(r#"{"token":"a"}"#).expect("token").as_deref().ok(), Some("Bearer a"));
        assert_eq!(
            header(r#"{"access_token":"b","x":1}"#).expect("token").as_deref().ok(),
            Some("Bearer b")
        );
        for bad in
            ["{}", "[]", "", r#"{"token":""}"#, r#"{"token":"a\nb"}"#, r#"{"token":1}"#, "<html>"]
        {
            assert!(header(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_life_is_told_or_read_from_the_token_or_a_minute() {
        let jwt =
            |exp: &str| format!("h.{}.s", URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{exp}}}"#)));
        assert_eq!(life(r#"{"token":"a","expires_in":300}"#), Some(300));
        assert_eq!(life(r#"{"token":"a"}"#), Some(60));
        assert_eq!(life(r#"{"token":"a","expires_in":0}"#), Some(60));
        assert_eq!(life(r#"{"token":"a","expires_in":"soon"}"#), Some(60));
        assert_eq!(life(r#"{"token":"a","expires_in":99999999999}"#), Some(86400));
        assert_eq!(life(&format!(r#"{{"token":"{}"}}"#, jwt("3600"))), Some(3600));
        assert_eq!(life(&format!(r#"{{"token":"{}"}}"#, jwt("\"x\""))), Some(60));
        assert_eq!(life(&format!(r#"{{"token":"{}","expires_in":100}}"#, jwt("3600"))), Some(100));
    }

    #[test]
    fn a_token_is_renewed_at_four_fifths_of_its_life() {
        let token = parse(br#"{"token":"a","expires_in":100}"#, now()).expect("token");
        assert_eq!(token.renew.since(now()), Duration::from_secs(80));
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = parse(br#"{"token":"hush"}"#, now()).expect("token");
        assert!(!format!("{token:?}").contains("hush"));
    }
}
