//! The throttle gate: after a 429 nothing of that kind is sent until the upstream's pause is over
//! (DESIGN §14.4).

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;

use crate::clock::{Clock, Timestamp};
use crate::upstream::auth::login::Holder;
use crate::upstream::error::{ErrorKind, Failure, Operation, Symptom};

const DEFAULT_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_hours(1);
/// From here on, a `Retry-After` in digits is a time instead of a wait (ERR-2).
const UNIX_TIME: u64 = 1_000_000_000;

/// What registries count separately.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Class {
    Manifests,
    Blobs,
    Token,
}

impl Class {
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

/// The throttle gates of one upstream.
#[derive(Debug)]
pub(in crate::upstream) struct Throttle {
    clock: Clock,
    /// When each closed gate opens again; as many entries as credentials times classes.
    until: Mutex<HashMap<(Holder, Class), Timestamp>>,
}

impl Throttle {
    pub(in crate::upstream) fn new(clock: Clock) -> Self {
        Self { clock, until: Mutex::default() }
    }

    /// Fails while the upstream's pause lasts.
    pub(in crate::upstream) fn check(
        &self,
        holder: Holder,
        operation: Operation,
    ) -> Result<(), Failure> {
        let gates = self.until.lock().expect("nothing panics while it holds the throttle");
        let until = gates.get(&(holder, Class::of(operation)));
        let left = until.map_or(Duration::ZERO, |until| until.since(self.clock.now()));
        if left.is_zero() { Ok(()) } else { Err(limited(left, Symptom::Local)) }
    }

    /// Takes note of a 429 and says how to report it.
    pub(in crate::upstream) fn close(
        &self,
        holder: Holder,
        operation: Operation,
        headers: &HeaderMap,
    ) -> Failure {
        let now = self.clock.now();
        let value = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let pause = value.and_then(|value| retry_after(value, now)).unwrap_or(DEFAULT_PAUSE);
        let mut gates = self.until.lock().expect("nothing panics while it holds the throttle");
        gates.insert((holder, Class::of(operation)), now.plus(pause));
        limited(pause, Symptom::Status(429))
    }
}

fn limited(retry_after: Duration, symptom: Symptom) -> Failure {
    Failure::new(
        ErrorKind::RateLimited { retry_after },
        symptom,
        "the upstream limits the rate of requests",
    )
}

/// Reads `Retry-After`: seconds, an HTTP date, or a Unix time; between a second and an hour from
/// now.
fn retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let ahead = |unix: Duration| Timestamp::from_unix(unix).since(now);
    let value = value.trim();
    let wait = match value.parse::<u64>() {
        Ok(unix) if unix >= UNIX_TIME => ahead(Duration::from_secs(unix)),
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => LONGEST_PAUSE,
        Err(_) => ahead(
            httpdate::parse_http_date(value).ok()?.duration_since(std::time::UNIX_EPOCH).ok()?,
        ),
    };
    Some(wait.clamp(Duration::from_secs(1), LONGEST_PAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_a_date_or_a_time_within_an_hour() {
        let now = Timestamp::from_unix(Duration::from_secs(784_111_777)); // Sun, 06 Nov 1994 08:49:37 GMT
        for (value, expected) in [
            ("30", Some(30)),
            (" 5 ", Some(5)),
            ("0", Some(1)),
            ("86400", Some(3600)),
            ("1700000000", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:07 GMT", Some(30)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(1)),
            ("-3", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(value, now), expected.map(Duration::from_secs), "{value:?}");
        }
        let later = Timestamp::from_unix(Duration::from_secs(1_700_000_000));
        assert_eq!(retry_after("1700000040", later), Some(Duration::from_secs(40)));
    }

    #[test]
    fn a_429_stops_its_own_class_and_credential_until_the_pause_is_over() {
        let clock = Clock::manual(Duration::from_secs(1));
        let throttle = Throttle::new(clock.clone());
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "30".parse().expect("valid"));
        let holder = Holder(None);
        throttle.close(holder, Operation::ManifestGet, &headers);
        clock.advance(Duration::from_secs(10));
        let failure = throttle.check(holder, Operation::ManifestHead).expect_err("closed");
        assert_eq!(failure.kind, ErrorKind::RateLimited { retry_after: Duration::from_secs(20) });
        assert!(throttle.check(holder, Operation::BlobGet).is_ok());
        assert!(throttle.check(Holder(Some(0)), Operation::ManifestGet).is_ok());
        clock.advance(Duration::from_secs(20));
        assert!(throttle.check(holder, Operation::ManifestGet).is_ok());
    }
}
