//! How often something is tried again, and when. Pure.

use std::time::Duration;

use crate::pull::Error;
use crate::upstream::FailureClass;

/// Failures in a row after which something is given up; over a minute and a half, so that a registry
/// can be restarted meanwhile. Each was tried several times already (DESIGN §14.4).
const FAILURES_MAX: u32 = 8;

/// A 404 that nobody vouches for (UP-10) may be a page of what stands before the registry. Those who
/// stand before many never say anything else.
const UNCONFIRMED_MAX: u32 = 2;

/// Before the second try; doubles up to the last. In units of `limits.retry_pause`.
const PAUSES: u32 = 10;
const PAUSES_MAX: u32 = 300;

/// How long one thing waits in all because an upstream asks for a pause, or clients come first.
const WAIT_MAX: Duration = Duration::from_hours(1);

/// What one thing has cost so far.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failures: u32,
    waited: Duration,
    /// Something else of the same upstream was given up before, and nothing has come since.
    pub(super) is_short: bool,
}

impl Patience {
    /// After which pause to try again; none if that would be of no use.
    pub(super) fn after(&mut self, error: &Error, retry_pause: Duration) -> Option<Duration> {
        let pause = retry_pause * PAUSES;
        if let Error::RateLimited { retry_after } = error {
            return self.wait(*retry_after + pause);
        }
        if matches!(error, Error::Sealed { .. }) {
            return None;
        }
        if matches!(error, Error::Overloaded | Error::Abandoned) {
            return self.wait(pause);
        }
        match error.class() {
            FailureClass::Absent
            | FailureClass::Refused
            | FailureClass::Credential
            | FailureClass::Withdrawn => None,
            FailureClass::Ours if !matches!(error, Error::Damaged(_)) => None,
            FailureClass::Ours | FailureClass::Passing | FailureClass::Untrue => {
                self.failures += 1;
                let is_unconfirmed = matches!(error, Error::Unconfirmed { .. });
                let max = if is_unconfirmed { UNCONFIRMED_MAX } else { FAILURES_MAX };
                let max = if self.is_short { 1 } else { max };
                let times = (PAUSES << (self.failures.min(FAILURES_MAX) - 1)).min(PAUSES_MAX);
                (self.failures < max).then_some(retry_pause * times)
            }
        }
    }

    fn wait(&mut self, pause: Duration) -> Option<Duration> {
        self.waited += pause;
        (self.waited <= WAIT_MAX).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Digest, UpstreamName};
    use crate::pull::Missing;

    const PAUSE: Duration = Duration::from_millis(100);

    fn pauses(error: &Error, times: usize) -> Vec<Option<u64>> {
        let mut patience = Patience::default();
        let secs = |_| patience.after(error, PAUSE).map(|pause| pause.as_secs());
        (0..times).map(secs).collect()
    }

    fn untrue() -> Error {
        let upstream = UpstreamName::parse("acme.test").expect("valid");
        Error::Untrue { upstream, reason: "nonsense".into() }
    }

    #[test]
    fn what_fails_is_tried_again_a_few_times_later_and_later() {
        let expected = [1, 2, 4, 8, 16, 30, 30].map(Some);
        let damaged = Error::Damaged(Digest::of(Algorithm::Sha256, b""));
        for error in [untrue(), damaged] {
            let told = pauses(&error, 8);
            assert_eq!((&told[..7], told[7]), (&expected[..], None));
        }
        let mut short = Patience { is_short: true, ..Patience::default() };
        assert_eq!(short.after(&untrue(), PAUSE), None);
    }

    #[test]
    fn what_is_absent_or_has_no_room_is_not() {
        let absent = Error::Absent { what: Missing::Blob, remembered: false };
        assert_eq!(pauses(&absent, 1), [None]);
        assert_eq!(pauses(&Error::NoRoom, 1), [None]);
        assert_eq!(pauses(&Error::Sealed { what: Missing::Blob }, 1), [None]);
    }

    #[test]
    fn a_pause_that_is_asked_for_is_kept_and_no_failure_within_an_hour() {
        let limited = |secs| Error::RateLimited { retry_after: Duration::from_secs(secs) };
        assert_eq!(pauses(&limited(20 * 60), 3), [Some(1201), Some(1201), None]);
        assert_eq!(pauses(&limited(6 * 3600), 1), [None]);
        let waits = pauses(&Error::Overloaded, 3601);
        assert!(waits[..3600].iter().all(|pause| *pause == Some(1)) && waits[3600].is_none());
    }
}
