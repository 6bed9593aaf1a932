//! The throttle: after a 429 nothing of that kind is sent until the upstream's pause is over, but
//! for one request a minute that asks whether it still holds (DESIGN §14.4).
//!
//! It stands below authentication, since token requests are limited as well as operations.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, StatusCode};
use url::Url;

use crate::clock::{Clock, Moment};
use crate::oci::{UpstreamName, parse_retry_after};
use crate::upstream::error::{Direction, ErrorKind, Fault, Operation, Symptom};

/// After a 429 that does not say how long to wait.
const DEFAULT_PAUSE: Duration = Duration::from_secs(10);
/// After so long one request asks again, whatever the upstream said: some send an hour to whoever
/// made one request too many.
const ASK_AGAIN_AFTER: Duration = Duration::from_mins(1);

/// Storages of one upstream whose pauses are remembered; beyond this number they are asked.
const STORAGES_MAX: usize = 64;

/// Which of an upstream's configured credentials is used; `None` is anonymous. Registries count
/// requests by account, so one credential's 429 says nothing about the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) struct CredentialIndex(pub(in crate::upstream) Option<usize>);

/// What registries count separately: Docker Hub limits pulls of manifests and lets blobs flow
/// (PROTOCOL §3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) enum RateClass {
    Manifests,
    Blobs,
    Token,
}

impl RateClass {
    fn of(operation: Operation) -> Self {
        match operation {
            Operation::ManifestHead
            | Operation::ManifestGet
            | Operation::Tags
            | Operation::Referrers
            | Operation::ManifestPut
            | Operation::Delete
            | Operation::Ping => Self::Manifests,
            Operation::BlobHead
            | Operation::BlobGet
            | Operation::UploadBegin
            | Operation::UploadSend
            | Operation::UploadStatus
            | Operation::UploadCancel => Self::Blobs,
            Operation::Token => Self::Token,
        }
    }

    /// The one string form, for logs.
    fn as_str(self) -> &'static str {
        match self {
            Self::Manifests => "manifests",
            Self::Blobs => "blobs",
            Self::Token => "tokens",
        }
    }
}

/// What a pause holds for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) enum ThrottleKey {
    /// Registries limit writes apart from reads, and a push that is refused is no reason to pull
    /// less.
    Account { credential: CredentialIndex, class: RateClass, direction: Direction },
    /// Storage that a registry redirects to, by its origin: it counts requests by itself, and
    /// another storage behind the same registry may have time.
    Storage(String),
}

impl ThrottleKey {
    pub(in crate::upstream) fn of(credential: CredentialIndex, operation: Operation) -> Self {
        let (class, direction) = (RateClass::of(operation), operation.direction());
        Self::Account { credential, class, direction }
    }

    /// Tokens that allow reading, or writing too.
    pub(in crate::upstream) fn of_tokens(
        credential: CredentialIndex,
        direction: Direction,
    ) -> Self {
        Self::Account { credential, class: RateClass::Token, direction }
    }

    pub(in crate::upstream) fn of_storage(url: &Url) -> Self {
        Self::Storage(url.origin().ascii_serialization())
    }

    /// Whose pause it is and what it is of, for logs.
    fn as_strs(&self) -> (&str, &str) {
        match self {
            Self::Account { class, direction, .. } => (direction.as_str(), class.as_str()),
            Self::Storage(origin) => ("storage", origin),
        }
    }
}

/// A pause that an upstream has asked for.
#[derive(Clone, Copy, Debug)]
struct Pause {
    /// The end, as the upstream said.
    until: Moment,
    /// From here on one request asks whether the pause still holds.
    ask_at: Moment,
    /// That request is under way.
    is_asked: bool,
}

/// The pauses that one upstream has asked for.
#[derive(Debug)]
pub(in crate::upstream) struct Throttle {
    upstream: UpstreamName,
    clock: Clock,
    /// At most as many as credentials times what a pause holds for, and `STORAGES_MAX`. One stays
    /// until something else than a 429 has been answered, so that an upstream which limits for
    /// hours is two log lines.
    pauses: Mutex<HashMap<ThrottleKey, Pause>>,
}

impl Throttle {
    pub(in crate::upstream) fn new(upstream: UpstreamName, clock: Clock) -> Self {
        Self { upstream, clock, pauses: Mutex::default() }
    }

    /// Leave to send, from the first request to the last answer.
    ///
    /// # Errors
    /// `RateLimited` while a pause of this kind lasts.
    pub(in crate::upstream) fn check(&self, key: ThrottleKey) -> Result<ThrottlePass<'_>, Fault> {
        let now = self.clock.moment();
        let mut pauses = self.pauses();
        let Some(pause) = pauses.get_mut(&key) else {
            return Ok(ThrottlePass { throttle: self, key, pause: None });
        };
        let left = pause.until.since(now);
        if !left.is_zero() {
            if pause.is_asked || now < pause.ask_at {
                return Err(rate_limited(left, Symptom::Local));
            }
            pause.is_asked = true;
        }
        Ok(ThrottlePass { throttle: self, key, pause: Some(*pause) })
    }

    /// Takes note of a 429 with these headers, and returns the fault that it is.
    pub(in crate::upstream) fn pause(&self, key: &ThrottleKey, headers: &HeaderMap) -> Fault {
        let now = self.clock.moment();
        let value = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let told = value.and_then(|value| parse_retry_after(value, self.clock.now().unix()));
        let told = told.unwrap_or(DEFAULT_PAUSE);
        let (until, ask_at) = (now.plus(told), now.plus(told.min(ASK_AGAIN_AFTER)));
        let mut pauses = self.pauses();
        if has_room(&mut pauses, key, now) {
            // The newest answer counts, even if it asks for less: the upstream knows.
            let before = pauses.insert(key.clone(), Pause { until, ask_at, is_asked: false });
            if before.is_none() {
                let (gate, of) = key.as_strs();
                tracing::warn!(upstream = %self.upstream, gate, of, retry_after_s = told.as_secs(),
                    "it limits the rate of requests, and gets none of this kind for now");
            }
        }
        rate_limited(told, Symptom::Status(429))
    }

    fn pauses(&self) -> MutexGuard<'_, HashMap<ThrottleKey, Pause>> {
        self.pauses.lock().expect("nothing panics while it holds the throttle")
    }
}

/// One operation's leave to send. Dropped, it lets the next one ask.
#[derive(Debug)]
pub(in crate::upstream) struct ThrottlePass<'a> {
    throttle: &'a Throttle,
    key: ThrottleKey,
    /// The pause that was there: this operation finds out whether it still holds.
    pause: Option<Pause>,
}

impl ThrottlePass<'_> {
    /// What the answer says about the rate: a 429 is a pause, all else ends one.
    ///
    /// # Errors
    /// `RateLimited` for a 429.
    pub(in crate::upstream) fn judge(
        self,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<(), Fault> {
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Err(self.throttle.pause(&self.key, headers));
        }
        self.answered();
        Ok(())
    }

    /// There was an answer, and not a 429.
    pub(in crate::upstream) fn answered(self) {
        let Some(pause) = self.pause else { return };
        let mut pauses = self.throttle.pauses();
        // A newer 429 counts more than an older answer.
        if pauses.get(&self.key).is_some_and(|now| now.ask_at == pause.ask_at) {
            pauses.remove(&self.key);
            let (gate, of) = self.key.as_strs();
            tracing::info!(upstream = %self.throttle.upstream, gate, of,
                "it answers requests of this kind again");
        }
    }
}

impl Drop for ThrottlePass<'_> {
    fn drop(&mut self) {
        if let Some(asked) = self.pause.filter(|pause| pause.is_asked)
            && let Some(pause) = self.throttle.pauses().get_mut(&self.key)
            && pause.ask_at == asked.ask_at
        {
            pause.is_asked = false;
        }
    }
}

/// Whether one more pause is remembered. A registry that leads to ever other storages would fill
/// the memory, so those that are over make room, and beyond the bound there is none.
fn has_room(pauses: &mut HashMap<ThrottleKey, Pause>, key: &ThrottleKey, now: Moment) -> bool {
    let is_storage = |key: &ThrottleKey| matches!(key, ThrottleKey::Storage(_));
    if !is_storage(key) || pauses.contains_key(key) {
        return true;
    }
    let storages =
        |pauses: &HashMap<ThrottleKey, Pause>| pauses.keys().filter(|key| is_storage(key)).count();
    if storages(pauses) >= STORAGES_MAX {
        pauses.retain(|key, pause| !is_storage(key) || now < pause.until);
    }
    storages(pauses) < STORAGES_MAX
}

fn rate_limited(retry_after: Duration, symptom: Symptom) -> Fault {
    let reason = "the upstream limits the rate of requests";
    Fault::new(ErrorKind::RateLimited { retry_after }, symptom, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANONYMOUS: CredentialIndex = CredentialIndex(None);

    fn throttle() -> (Throttle, Clock) {
        let clock = Clock::manual(Duration::from_secs(1));
        (Throttle::new(UpstreamName::parse("acme.test").expect("valid"), clock.clone()), clock)
    }

    fn limit(throttle: &Throttle, operation: Operation, seconds: &'static str) {
        let headers = HeaderMap::from_iter([(RETRY_AFTER, seconds.parse().expect("valid"))]);
        throttle.pause(&ThrottleKey::of(ANONYMOUS, operation), &headers);
    }

    fn check(throttle: &Throttle, operation: Operation) -> Result<ThrottlePass<'_>, Fault> {
        throttle.check(ThrottleKey::of(ANONYMOUS, operation))
    }

    fn left(throttle: &Throttle, operation: Operation) -> Option<u64> {
        match check(throttle, operation).map_err(|fault| fault.kind) {
            Err(ErrorKind::RateLimited { retry_after }) => Some(retry_after.as_secs()),
            other => other.map(|_| None).expect("no other failure"),
        }
    }

    #[test]
    fn a_429_stops_its_own_class_credential_and_direction_until_the_pause_is_over() {
        let (throttle, clock) = throttle();
        limit(&throttle, Operation::ManifestGet, "30");
        clock.advance(Duration::from_secs(10));
        assert_eq!(left(&throttle, Operation::ManifestHead), Some(20));
        assert_eq!(left(&throttle, Operation::BlobGet), None);
        assert_eq!(left(&throttle, Operation::ManifestPut), None);
        assert!(
            throttle
                .check(ThrottleKey::of(CredentialIndex(Some(0)), Operation::ManifestGet))
                .is_ok()
        );
        clock.advance(Duration::from_secs(20));
        assert_eq!(left(&throttle, Operation::ManifestGet), None);

        limit(&throttle, Operation::UploadBegin, "30");
        assert_eq!(left(&throttle, Operation::UploadSend), Some(30));
        assert_eq!(left(&throttle, Operation::BlobGet), None);
    }

    #[test]
    fn a_long_pause_is_asked_about_once_a_minute_by_one_request() {
        let (throttle, clock) = throttle();
        limit(&throttle, Operation::BlobGet, "3600");
        clock.advance(Duration::from_secs(59));
        assert_eq!(left(&throttle, Operation::BlobGet), Some(3541));
        clock.advance(Duration::from_secs(1));
        let probe = check(&throttle, Operation::BlobGet).expect("one asks");
        assert_eq!(left(&throttle, Operation::BlobGet), Some(3540), "and nobody else");
        drop(probe);
        let probe = check(&throttle, Operation::BlobGet).expect("the first one has left");
        limit(&throttle, Operation::BlobGet, "3540");
        drop(probe);
        assert_eq!(left(&throttle, Operation::BlobGet), Some(3540), "it still holds");
        clock.advance(Duration::from_mins(1));
        check(&throttle, Operation::BlobGet).expect("one asks").answered();
        assert_eq!(left(&throttle, Operation::BlobGet), None);
    }

    #[test]
    fn an_older_answer_does_not_end_a_newer_pause() {
        let (throttle, clock) = throttle();
        let before = check(&throttle, Operation::BlobGet).expect("no pause");
        limit(&throttle, Operation::BlobGet, "30");
        before.answered();
        assert_eq!(left(&throttle, Operation::BlobGet), Some(30));
        clock.advance(Duration::from_secs(30));
        let after = check(&throttle, Operation::BlobGet).expect("it is over");
        limit(&throttle, Operation::BlobGet, "30");
        after.answered();
        assert_eq!(left(&throttle, Operation::BlobGet), Some(30));
    }

    #[test]
    fn storages_are_paused_one_by_one_and_only_so_many_are_remembered() {
        let (throttle, clock) = throttle();
        let key = |number: usize| ThrottleKey::Storage(format!("https://{number}.cdn.test"));
        let headers = HeaderMap::from_iter([(RETRY_AFTER, "30".parse().expect("valid"))]);
        for number in 0..=STORAGES_MAX {
            throttle.pause(&key(number), &headers);
        }
        assert!(throttle.check(key(0)).is_err());
        assert!(throttle.check(key(STORAGES_MAX)).is_ok(), "one too many to remember");
        assert_eq!(left(&throttle, Operation::BlobGet), None);
        clock.advance(Duration::from_secs(30));
        throttle.pause(&key(STORAGES_MAX), &headers);
        assert!(throttle.check(key(STORAGES_MAX)).is_err(), "those that are over have made room");
    }
}
