//! Bearer tokens: one request per identity, realm, service and scope, however many ask; renewed
//! before they end (PROTOCOL §2.1, UP-2…UP-5).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use moka::future::Cache;
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use super::identity::{BasicLogin, UpstreamIdentity};
use super::scope;
use crate::clock::{Clock, Moment, Timestamp};
use crate::oci::message_of_document;
use crate::upstream::error::{ErrorKind, FailureClass, Fault, Operation, Symptom};
use crate::upstream::transport::body::HttpResponse;
use crate::upstream::transport::request::{HttpRequest, RequestBody, Transport};
use crate::upstream::transport::throttle::{Throttle, ThrottleKey};

/// Bytes of a token endpoint's answer (UP-4).
const TOKEN_ANSWER_MAX: usize = 64 * 1024;
/// Redirects that a token request takes, all of them on the endpoint's own origin.
const REDIRECTS_MAX: u32 = 3;
/// Tokens that one upstream may have in memory; one for each repository and kind of access.
pub(super) const CACHED_TOKENS_MAX: u64 = 10_000;
/// The life of a token that tells none (token.md, `expires_in`).
const DEFAULT_LIFE: Duration = Duration::from_mins(1);
const LONGEST_LIFE: Duration = Duration::from_hours(24);
/// How long a token that could not be renewed, and is still good, is used before the next try.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);

/// What a token is for, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) struct TokenKey {
    pub(in crate::upstream) identity: UpstreamIdentity,
    pub(in crate::upstream) realm: Url,
    pub(in crate::upstream) service: Option<String>,
    /// One scope, or several with a space in between.
    pub(in crate::upstream) scope: String,
}

impl TokenKey {
    /// A pause that a push has met is none for pulls, nor the other way.
    fn throttle_key(&self) -> ThrottleKey {
        ThrottleKey::of_tokens(self.identity.credential, scope::direction(&self.scope))
    }
}

/// A token as it is sent. Its header value is marked sensitive, so `Debug` does not show it.
#[derive(Clone, Debug)]
struct BearerToken {
    header: HeaderValue,
    /// From here on it is replaced, and used only if that fails.
    renew: Moment,
    expires: Moment,
}

/// The header value of a token.
#[derive(Debug)]
pub(in crate::upstream) struct ObtainedToken {
    pub(in crate::upstream) header: HeaderValue,
    /// It was issued just now, so a refusal of it is final (UP-6).
    pub(in crate::upstream) is_new: bool,
}

type TokenResult = Result<BearerToken, Fault>;

/// The tokens of one upstream.
///
/// The cache has no time to live of its own: when a token ends is the clock's to say, which tests
/// move.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct TokenCache {
    cache: Cache<TokenKey, TokenResult>,
    endpoint: Arc<TokenEndpoint>,
}

impl TokenCache {
    pub(in crate::upstream) fn new(endpoint: TokenEndpoint) -> Self {
        Self { cache: Cache::new(CACHED_TOKENS_MAX), endpoint: Arc::new(endpoint) }
    }

    pub(super) fn now(&self) -> Moment {
        self.endpoint.clock.moment()
    }

    /// How long a new token may take until the registry takes it.
    pub(super) fn settling_time(&self) -> Duration {
        self.endpoint.settling_time
    }

    /// A token other than `rejected`. Waits for the endpoint if need be; a caller with less
    /// patience may leave.
    ///
    /// # Errors
    /// What the endpoint said; see [`TokenEndpoint::read`].
    pub(in crate::upstream) async fn obtain(
        &self,
        key: TokenKey,
        rejected: Option<&HeaderValue>,
    ) -> Result<ObtainedToken, Fault> {
        let now = self.endpoint.clock.moment();
        let cached = self.cache.get(&key).await.and_then(Result::ok);
        // A failure in the cache was shared with those who waited for it; whoever comes later tries
        // again.
        let usable = cached.filter(|token| now < token.expires && Some(&token.header) != rejected);
        if let Some(token) = usable.as_ref().filter(|token| now < token.renew) {
            return Ok(ObtainedToken { header: token.header.clone(), is_new: false });
        }
        let kept = usable.as_ref().map(|token| token.header.clone());
        // A task of its own: if it ran within the operation of the client that came first, that
        // client would take the request along when it leaves, and those who wait would start over.
        let renewal = tokio::spawn(self.clone().renew(key, usable, rejected.cloned()));
        let renewed = renewal
            .await
            .unwrap_or_else(|error| Err(Fault::protocol("the token request ended").because(error)));
        // While the endpoint fails, the one before is kept for as long as it lives: that is not new.
        renewed.map(|BearerToken { header, .. }| ObtainedToken {
            is_new: kept.as_ref() != Some(&header),
            header,
        })
    }

    /// Renews the token, unless another task has done so since this one looked. All who wait for
    /// the same key share one outcome.
    async fn renew(
        self,
        key: TokenKey,
        old: Option<BearerToken>,
        rejected: Option<HeaderValue>,
    ) -> TokenResult {
        let now = self.endpoint.clock.moment();
        // Asked under the key's lock: what another task has put there meanwhile is kept, if it is
        // not the token that was refused.
        let must_be_replaced = |cached: &TokenResult| match cached {
            Ok(token) => token.renew <= now || Some(&token.header) == rejected.as_ref(),
            Err(_) => true,
        };
        let fetched = self.endpoint.fetch_or_keep(&key, old);
        let entry = self.cache.entry_by_ref(&key);
        entry.or_insert_with_if(fetched, must_be_replaced).await.into_value()
    }
}

/// Where tokens come from.
#[derive(Debug)]
pub(in crate::upstream) struct TokenEndpoint {
    pub(in crate::upstream) transport: Arc<Transport>,
    pub(in crate::upstream) throttle: Arc<Throttle>,
    pub(in crate::upstream) clock: Clock,
    /// For one token, GET and POST together. It is not a caller's deadline, since many callers wait
    /// for the same token; one with less patience leaves earlier.
    pub(in crate::upstream) time_limit: Duration,
    /// How long a new token may take until the registry takes it.
    pub(in crate::upstream) settling_time: Duration,
}

impl TokenEndpoint {
    async fn fetch_or_keep(&self, key: &TokenKey, old: Option<BearerToken>) -> TokenResult {
        let late = |_| Err(Fault::new(ErrorKind::Timeout, Symptom::Silence, "no token in time"));
        let fetched =
            tokio::time::timeout(self.time_limit, self.fetch(key)).await.unwrap_or_else(late);
        let labels = [self.transport.name.as_str(), outcome(&fetched)];
        self.transport.metrics().upstream.token_refreshes.with_label_values(&labels).inc();
        match (fetched, old) {
            // Tokens are renewed at four fifths of their life. If the endpoint is down at that
            // moment, the rest of the life bridges it; without that, every pull would fail with a
            // good token in hand. A definite refusal ends the old token at once.
            (Err(fault), Some(old)) if fault.kind.class() == FailureClass::Passing => {
                let next_try = self.clock.moment().plus(RENEWAL_PAUSE);
                Ok(BearerToken { renew: old.expires.min(next_try), ..old })
            }
            (fetched, _) => fetched,
        }
    }

    /// GET first: Quay and GAR do not take POST. POST where GET is refused and there is a login
    /// (UP-3).
    async fn fetch(&self, key: &TokenKey) -> TokenResult {
        let UpstreamIdentity { login, .. } = &key.identity;
        let pass = self.throttle.check(key.throttle_key())?;
        let deadline = Some(Instant::now() + self.time_limit);
        let first = self.ask_by_get(key, deadline).await?;
        let is_refused = matches!(first.status().as_u16(), 400 | 404 | 405);
        let answer = match login.as_ref().filter(|_| is_refused) {
            Some(login) => {
                first.discard().await;
                self.transport.send(Operation::Token, post(key, login), deadline).await?
            }
            None => first,
        };
        let status = answer.status();
        let token = if status == StatusCode::FORBIDDEN && self.rejects_login(key).await {
            Err(login_rejected(&key.identity, answer).await)
        } else {
            self.read(key, answer).await
        };
        if status != StatusCode::TOO_MANY_REQUESTS && !status.is_server_error() {
            pass.answered();
        }
        token
    }

    /// Whether the endpoint, which gives no token for a repository, gives none for no repository
    /// either, as `docker login` asks it. GHCR and GAR answer 403 to a login that they reject, and
    /// just so for a repository that is private or missing (UP-9).
    async fn rejects_login(&self, key: &TokenKey) -> bool {
        if key.identity.login.is_none() {
            return false;
        }
        let plain = TokenKey { scope: String::new(), ..key.clone() };
        let answer = self.ask_by_get(&plain, Some(Instant::now() + self.time_limit)).await;
        let status = answer.map(|answer| answer.status().as_u16());
        matches!(status, Ok(401 | 403))
    }

    /// Follows redirects on the endpoint's own origin; another is the answer, and goes no further.
    async fn ask_by_get(
        &self,
        key: &TokenKey,
        deadline: Option<Instant>,
    ) -> Result<HttpResponse, Fault> {
        let mut request = get(key);
        for _ in 0..REDIRECTS_MAX {
            let HttpRequest { method, url, headers, .. } = &request;
            let again = HttpRequest {
                method: method.clone(),
                url: url.clone(),
                headers: headers.clone(),
                body: RequestBody::Empty,
            };
            let answer = self.transport.send(Operation::Token, again, deadline).await?;
            let location = answer.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            let is_redirect = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            match next.filter(|next| is_redirect && next.origin() == url.origin()) {
                Some(next) => request.url = next,
                None => return Ok(answer),
            }
            answer.discard().await;
        }
        Err(Fault::protocol("the token endpoint redirects in a circle"))
    }

    /// # Errors
    /// `CredentialRejected`, `Denied`, `RateLimited` and `ServerError` as the endpoint says;
    /// `ForbiddenAddress` if it redirects; `Protocol` for any other answer without a token.
    async fn read(&self, key: &TokenKey, mut answer: HttpResponse) -> TokenResult {
        let identity = &key.identity;
        let status = answer.status().as_u16();
        let fault = |kind, reason| Err(Fault::new(kind, Symptom::Answered, reason));
        match status {
            200 | 201 => {
                let body = answer.whole(TOKEN_ANSWER_MAX).await?;
                parse(&body, &self.clock)
                    .ok_or_else(|| Fault::protocol("the token endpoint sent no token"))
            }
            401 if identity.login.is_some() => Err(login_rejected(identity, answer).await),
            // Some say it of a repository that is private or missing, with a good credential too
            // (GHCR, GAR; UP-9).
            401 | 403 => {
                fault(ErrorKind::Denied, "the token endpoint gives no token for this repository")
            }
            429 => Err(self.throttle.pause(&key.throttle_key(), answer.headers())),
            // The request holds the login, which goes to the realm that was checked and no further.
            300..=399 => fault(
                ErrorKind::ForbiddenAddress,
                "the token endpoint redirects to another origin, which is not followed",
            ),
            500.. => Err(server_error(status)),
            _ => Err(Fault::protocol(format!("the token endpoint answered {status}"))),
        }
    }
}

/// The endpoint does not take the login; in its own words, if it has any.
async fn login_rejected(identity: &UpstreamIdentity, mut answer: HttpResponse) -> Fault {
    let text = answer.whole(TOKEN_ANSWER_MAX).await.unwrap_or_default();
    let reason = "the token endpoint rejects the credential";
    Fault::new(identity.rejection(), Symptom::Answered, reason).saying(message_of_document(&text))
}

fn server_error(status: u16) -> Fault {
    let reason = format!("the token endpoint answered {status}");
    Fault::new(ErrorKind::ServerError(status), Symptom::Status(status), reason)
}

/// The label of the metric.
fn outcome(result: &TokenResult) -> &'static str {
    let Err(fault) = result else { return "issued" };
    match (&fault.kind, fault.kind.class()) {
        (ErrorKind::RateLimited { .. }, _) => "rate_limited",
        (_, FailureClass::Refused) => "denied",
        (_, FailureClass::Credential | FailureClass::Withdrawn) => "rejected",
        (
            _,
            FailureClass::Absent
            | FailureClass::Passing
            | FailureClass::Untrue
            | FailureClass::Ours,
        ) => "failed",
    }
}

fn get(key: &TokenKey) -> HttpRequest {
    let mut url = key.realm.clone();
    let service = key.service.iter().map(|service| ("service", service.as_str()));
    let scopes = key.scope.split(' ').filter(|scope| !scope.is_empty());
    let scopes = scopes.map(|scope| ("scope", scope));
    // One parameter for each scope, where POST has them all in one (PROTOCOL §2.1).
    url.query_pairs_mut().extend_pairs(service).extend_pairs(scopes);
    let headers = key.identity.login.iter().map(|login| (AUTHORIZATION, login.header())).collect();
    HttpRequest { method: Method::GET, url, headers, body: RequestBody::Empty }
}

/// The password grant of OAuth 2 (RFC 6749 §4.3), which takes all scopes in one parameter.
fn post(key: &TokenKey, login: &BasicLogin) -> HttpRequest {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", "password")
        .append_pair("username", login.username())
        .append_pair("password", login.password())
        .append_pair("client_id", "roadstead")
        .extend_pairs(key.service.iter().map(|service| ("service", service.as_str())))
        .append_pair("scope", &key.scope);
    let (url, headers) = (key.realm.clone(), HeaderMap::new());
    HttpRequest { method: Method::POST, url, headers, body: RequestBody::Form(form.finish()) }
}

#[derive(serde::Deserialize)]
struct TokenResponse {
    token: Option<String>,
    access_token: Option<String>,
    /// A whole number by the specification; whatever else it is counts as absent.
    expires_in: Option<serde_json::Value>,
}

/// Reads the answer of a token endpoint; `None` if there is no token in it that could be sent.
fn parse(body: &[u8], clock: &Clock) -> Option<BearerToken> {
    let answer: TokenResponse = serde_json::from_slice(body).ok()?;
    let mut tokens = [answer.token, answer.access_token].into_iter().flatten();
    let token = tokens.find(|token| !token.is_empty())?;
    let seconds = answer.expires_in.and_then(|value| value.as_u64()).filter(|told| *told > 0);
    // Quay tells no `expires_in`, although its tokens live an hour. A token that is a JWT tells
    // itself.
    let life = seconds
        .map(Duration::from_secs)
        .or_else(|| jwt_life(&token, clock.now()))
        .unwrap_or(DEFAULT_LIFE)
        .min(LONGEST_LIFE);
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    let now = clock.moment();
    Some(BearerToken { header, renew: now.plus(life * 4 / 5), expires: now.plus(life) })
}

/// What is left until the `exp` of a token that is a JWT. Its signature is the upstream's business:
/// a wrong life costs one refused request.
fn jwt_life(token: &str, now: Timestamp) -> Option<Duration> {
    #[derive(serde::Deserialize)]
    struct JwtExpiry {
        exp: u64,
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let claims: JwtExpiry = serde_json::from_slice(&claims).ok()?;
    let left = Timestamp::from_unix(Duration::from_secs(claims.exp)).since(now);
    (!left.is_zero()).then_some(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock() -> Clock {
        Clock::manual(Duration::ZERO)
    }

    fn life(body: &str) -> Option<u64> {
        parse(body.as_bytes(), &clock())
            .map(|token| token.expires.since(clock().moment()).as_secs())
    }

    #[test]
    fn either_name_of_the_token_will_do() {
        let header = |body: &str| {
            parse(body.as_bytes(), &clock())
                .map(|token| token.header.to_str().map(ToOwned::to_owned))
        };
        assert_eq!(header(r#"{"token":"a"}"#).expect("token").as_deref().ok(), Some("Bearer a"));
        assert_eq!(
            header(r#"{"access_token":"b","x":1}"#).expect("token").as_deref().ok(),
            Some("Bearer b")
        );
        assert_eq!(
            header(r#"{"token":"","access_token":"b"}"#).expect("token").as_deref().ok(),
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
        let token = parse(br#"{"token":"a","expires_in":100}"#, &clock()).expect("token");
        assert_eq!(token.renew.since(clock().moment()), Duration::from_secs(80));
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = parse(br#"{"token":"hush"}"#, &clock()).expect("token");
        assert!(!format!("{token:?}").contains("hush"));
    }
}
