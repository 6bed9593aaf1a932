//! The breaker: when somebody who does not answer is left alone, and when they are asked again
//! (DESIGN §14.4). Pure.
//!
//! An answer of any status closes it. The third failure in a row to connect opens it, since that
//! does not depend on what was asked for. Silence may: some registries choke on one manifest, and
//! whoever asks for that must not take everything else from all others. So after three silences a
//! ping decides. A ping also finds out, when the pause is over, whether it goes on.

use std::time::Duration;

use crate::clock::Moment;
use crate::upstream::error::Unanswered;

/// What stays unanswered in a row before it counts.
pub(super) const UNANSWERED_MAX: u32 = 3;
/// How long nobody is asked at first; doubles with each ping that fails.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// Whether a request may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Granted,
    /// If a ping is answered, which the caller sends. Everybody else is refused meanwhile.
    AfterPing,
    Refused,
}

/// What has to be done about an answer that did not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    Nothing,
    /// A ping has to decide.
    Ping,
    /// From now on nothing is sent.
    LeftAlone,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Breaker {
    Closed {
        /// In a row.
        unanswered: u32,
    },
    /// Requests pass. A ping is under way, because the last ones were met with silence.
    Doubted,
    Open {
        until: Moment,
        pause: Duration,
    },
    /// A ping is under way, because the pause is over; `pause` is how long it was.
    Probing {
        pause: Duration,
    },
}

impl Breaker {
    pub(super) const CLOSED: Self = Self::Closed { unanswered: 0 };

    pub(super) fn admit(&mut self, now: Moment) -> Admission {
        match *self {
            Self::Closed { .. } | Self::Doubted => Admission::Granted,
            Self::Open { until, pause } if until <= now => {
                *self = Self::Probing { pause };
                Admission::AfterPing
            }
            Self::Open { .. } | Self::Probing { .. } => Admission::Refused,
        }
    }

    /// There was an answer, to a request or a ping. Whether nothing was sent until now.
    pub(super) fn answered(&mut self) -> bool {
        std::mem::replace(self, Self::CLOSED).is_open()
    }

    pub(super) fn unanswered(&mut self, how: Unanswered, now: Moment) -> Consequence {
        match *self {
            Self::Closed { unanswered } if unanswered + 1 < UNANSWERED_MAX => {
                *self = Self::Closed { unanswered: unanswered + 1 };
                Consequence::Nothing
            }
            Self::Closed { .. } if how == Unanswered::NoAnswer => {
                *self = Self::Doubted;
                Consequence::Ping
            }
            Self::Closed { .. } => self.open(now, FIRST_PAUSE),
            // The ping that is under way will tell. Requests that were under way when the breaker
            // opened add nothing: a hundred pulls that fail together are one outage, not a reason
            // for a longer pause.
            Self::Doubted | Self::Open { .. } | Self::Probing { .. } => Consequence::Nothing,
        }
    }

    /// The ping was not answered.
    pub(super) fn ping_unanswered(&mut self, now: Moment) -> Consequence {
        match *self {
            Self::Doubted => self.open(now, FIRST_PAUSE),
            Self::Probing { pause } => {
                self.open(now, (pause * 2).min(LONGEST_PAUSE));
                Consequence::Nothing
            }
            // An answer to some request came first, and perhaps more since.
            Self::Closed { .. } | Self::Open { .. } => Consequence::Nothing,
        }
    }

    /// The ping could not be sent, for reasons of our own, which says nothing about anybody else.
    pub(super) fn ping_given_up(&mut self, now: Moment) {
        match *self {
            Self::Doubted => *self = Self::Closed { unanswered: UNANSWERED_MAX - 1 },
            Self::Probing { pause } => *self = Self::Open { until: now, pause },
            Self::Closed { .. } | Self::Open { .. } => {}
        }
    }

    /// Whether nothing is sent but pings.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::Probing { .. })
    }

    /// Whether a request now would be refused.
    pub(super) fn is_shut(&self, now: Moment) -> bool {
        match *self {
            Self::Closed { .. } | Self::Doubted => false,
            Self::Open { until, .. } => now < until,
            Self::Probing { .. } => true,
        }
    }

    fn open(&mut self, now: Moment, pause: Duration) -> Consequence {
        *self = Self::Open { until: now.plus(pause), pause };
        Consequence::LeftAlone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn at(seconds: u64) -> Moment {
        Clock::manual(Duration::ZERO).moment().plus(Duration::from_secs(seconds))
    }

    fn after(unanswered: &[Unanswered]) -> (Breaker, Consequence) {
        let mut breaker = Breaker::CLOSED;
        let consequences = unanswered.iter().map(|how| breaker.unanswered(*how, at(0)));
        let last = consequences.last().unwrap_or(Consequence::Nothing);
        (breaker, last)
    }

    const NO_CONNECTION: [Unanswered; 3] = [Unanswered::NoConnection; 3];
    const NO_ANSWER: [Unanswered; 3] = [Unanswered::NoAnswer; 3];

    #[test]
    fn three_failures_to_connect_in_a_row_open_it_for_ten_seconds() {
        let (mut breaker, _) = after(&NO_CONNECTION[1..]);
        assert!(!breaker.answered());
        for _ in 0..2 {
            let consequence = breaker.unanswered(Unanswered::NoConnection, at(0));
            assert_eq!(consequence, Consequence::Nothing);
        }
        assert_eq!(breaker.admit(at(0)), Admission::Granted);
        let third = breaker.unanswered(Unanswered::NoConnection, at(0));
        assert_eq!(third, Consequence::LeftAlone);
        assert_eq!(breaker.admit(at(9)), Admission::Refused);
        assert_eq!(breaker.admit(at(10)), Admission::AfterPing);
    }

    #[test]
    fn three_silences_in_a_row_shut_out_nobody_before_a_ping_has_decided() {
        let (mut breaker, consequence) = after(&NO_ANSWER);
        assert_eq!(consequence, Consequence::Ping);
        assert_eq!(breaker.admit(at(0)), Admission::Granted);
        let more = breaker.unanswered(Unanswered::NoAnswer, at(1));
        assert_eq!(more, Consequence::Nothing, "one ping at a time");
        assert!(!breaker.answered(), "the ping, or another request");
        assert_eq!(breaker, Breaker::CLOSED);

        let (mut breaker, _) = after(&NO_ANSWER);
        assert_eq!(breaker.ping_unanswered(at(5)), Consequence::LeftAlone);
        assert_eq!(breaker.admit(at(14)), Admission::Refused);
        assert_eq!(breaker.admit(at(15)), Admission::AfterPing);
    }

    #[test]
    fn exactly_one_ping_is_sent_and_its_failure_doubles_the_pause_up_to_a_minute() {
        let (mut breaker, _) = after(&NO_CONNECTION);
        let mut now = 10;
        for pause in [20, 40, 60, 60] {
            assert_eq!(breaker.admit(at(now)), Admission::AfterPing);
            assert_eq!(breaker.admit(at(now)), Admission::Refused);
            let consequence = breaker.ping_unanswered(at(now));
            assert_eq!(consequence, Consequence::Nothing, "it was left alone before");
            assert_eq!(breaker.admit(at(now + pause - 1)), Admission::Refused);
            now += pause;
        }
        assert_eq!(breaker.admit(at(now)), Admission::AfterPing);
        assert!(breaker.answered(), "it is back");
        assert_eq!(breaker, Breaker::CLOSED);
    }

    #[test]
    fn a_ping_that_could_not_be_sent_is_sent_by_the_next_request() {
        let (mut breaker, _) = after(&NO_CONNECTION);
        assert_eq!(breaker.admit(at(10)), Admission::AfterPing);
        breaker.ping_given_up(at(11));
        assert_eq!(breaker.admit(at(11)), Admission::AfterPing);

        let (mut breaker, _) = after(&NO_ANSWER);
        breaker.ping_given_up(at(1));
        assert_eq!(breaker.unanswered(Unanswered::NoAnswer, at(2)), Consequence::Ping);
    }

    #[test]
    fn late_failures_of_older_requests_change_nothing() {
        let (mut breaker, _) = after(&NO_CONNECTION);
        assert_eq!(breaker.unanswered(Unanswered::NoConnection, at(5)), Consequence::Nothing);
        assert_eq!(breaker.admit(at(10)), Admission::AfterPing);
        assert_eq!(breaker.unanswered(Unanswered::NoAnswer, at(10)), Consequence::Nothing);
        assert_eq!(breaker, Breaker::Probing { pause: FIRST_PAUSE });
    }

    #[test]
    fn a_late_ping_does_not_open_what_an_answer_has_closed() {
        let (mut breaker, _) = after(&NO_ANSWER);
        breaker.answered();
        assert_eq!(breaker.ping_unanswered(at(5)), Consequence::Nothing);
        assert_eq!(breaker, Breaker::CLOSED);
    }
}
