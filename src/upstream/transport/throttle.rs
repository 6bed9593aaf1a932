//! The throttle: after a 429 nothing of that kind is sent until the upstream's pause is over
//! (DESIGN §14.4).
//!
//! It stands below authentication, since token requests are limited as well as operations.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::clock::{Clock, Timestamp};
use crate::oci::parse_retry_after;
use crate::upstream::error::{ErrorKind, Fault, Operation, Symptom};

/// After a 429 that does not say how long to wait.
const DEFAULT_PAUSE: Duration = Duration::from_secs(10);

/// Which of an upstream's configured credentials is used; `None` is anonymous. Registries count
/// requests by account, so one credential's 429 says nothing about the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) struct CredentialIndex(pub(in crate::upstream) Option<usize>);

/// What registries count separately: Docker Hub limits pulls of manifests and lets blobs flow
/// (PROTOCOL §3.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum RateClass {
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
            | Operation::Delete => Self::Manifests,
            Operation::BlobHead
            | Operation::BlobGet
            | Operation::UploadBegin
            | Operation::UploadSend
            | Operation::UploadStatus
            | Operation::UploadCancel => Self::Blobs,
            Operation::Token => Self::Token,
        }
    }
}

/// The pauses that one upstream has asked for.
#[derive(Debug)]
pub(in crate::upstream) struct Throttle {
    clock: Clock,
    /// When each pause ends; at most as many entries as credentials times classes.
    paused_until: Mutex<HashMap<(CredentialIndex, RateClass), Timestamp>>,
}

impl Throttle {
    pub(in crate::upstream) fn new(clock: Clock) -> Self {
        Self { clock, paused_until: Mutex::default() }
    }

    /// Fails with `RateLimited` while the pause for this credential and kind of operation lasts.
    pub(in crate::upstream) fn check(
        &self,
        credential: CredentialIndex,
        operation: Operation,
    ) -> Result<(), Fault> {
        let until = self.pauses().get(&(credential, RateClass::of(operation))).copied();
        let left = until.map_or(Duration::ZERO, |until| until.since(self.clock.now()));
        if left.is_zero() { Ok(()) } else { Err(rate_limited(left, Symptom::Local)) }
    }

    /// Takes note of a 429 with these headers, and returns the fault that it is.
    pub(in crate::upstream) fn pause(
        &self,
        credential: CredentialIndex,
        operation: Operation,
        headers: &HeaderMap,
    ) -> Fault {
        let now = self.clock.now();
        let value = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let pause = value.and_then(|value| parse_retry_after(value, now.unix()));
        let pause = pause.unwrap_or(DEFAULT_PAUSE);
        // The newest answer counts, even if it asks for less: the upstream knows.
        self.pauses().insert((credential, RateClass::of(operation)), now.plus(pause));
        rate_limited(pause, Symptom::Status(429))
    }

    fn pauses(&self) -> MutexGuard<'_, HashMap<(CredentialIndex, RateClass), Timestamp>> {
        self.paused_until.lock().expect("nothing panics while it holds the throttle")
    }
}

fn rate_limited(retry_after: Duration, symptom: Symptom) -> Fault {
    let reason = "the upstream limits the rate of requests";
    Fault::new(ErrorKind::RateLimited { retry_after }, symptom, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_429_stops_its_own_class_and_credential_until_the_pause_is_over() {
        let clock = Clock::manual(Duration::from_secs(1));
        let throttle = Throttle::new(clock.clone());
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "30".parse().expect("valid"));
        let anonymous = CredentialIndex(None);
        throttle.pause(anonymous, Operation::ManifestGet, &headers);
        clock.advance(Duration::from_secs(10));
        let fault = throttle.check(anonymous, Operation::ManifestHead).expect_err("paused");
        assert_eq!(fault.kind, ErrorKind::RateLimited { retry_after: Duration::from_secs(20) });
        assert!(throttle.check(anonymous, Operation::BlobGet).is_ok());
        assert!(throttle.check(CredentialIndex(Some(0)), Operation::ManifestGet).is_ok());
        clock.advance(Duration::from_secs(20));
        assert!(throttle.check(anonymous, Operation::ManifestGet).is_ok());
    }
}
