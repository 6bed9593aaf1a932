//! The breaker: after three failures in a row nothing is dialled for a while, then one probe is
//! (DESIGN §14.4).
//!
//! [`Breaker`] is the state machine, pure; [`Reachability`] shares it, and a [`Permit`] reports
//! what became of one operation. A permit that is dropped without a report, because its caller
//! left, gives the probe slot back.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::metrics::Gauge;
use crate::upstream::error::Symptom;

/// Failures in a row that open it.
const FAILURES_TO_OPEN: u32 = 3;
/// How long it is open at first; doubles with each probe that fails.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// How an operation may go ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Ordinary,
    Probe,
}

#[derive(Debug, PartialEq, Eq)]
enum Breaker {
    Closed {
        /// In a row.
        failures: u32,
    },
    Open {
        until: Timestamp,
        pause: Duration,
    },
    /// One operation is under way to find out; `pause` is the last one.
    Probing {
        pause: Duration,
    },
}

impl Breaker {
    /// `None` while nothing may be dialled.
    fn admit(&mut self, now: Timestamp) -> Option<Pass> {
        match *self {
            Self::Closed { .. } => Some(Pass::Ordinary),
            Self::Open { until, pause } if until <= now => {
                *self = Self::Probing { pause };
                Some(Pass::Probe)
            }
            Self::Open { .. } | Self::Probing { .. } => None,
        }
    }

    /// Whether nothing may be dialled now.
    fn is_shut(&self, now: Timestamp) -> bool {
        match *self {
            Self::Closed { .. } => false,
            Self::Open { until, .. } => now < until,
            Self::Probing { .. } => true,
        }
    }

    /// The upstream answered; whatever it said, it is there.
    fn reached(&mut self) {
        *self = Self::Closed { failures: 0 };
    }

    fn failed(&mut self, pass: Pass, now: Timestamp) {
        *self = match (&*self, pass) {
            (Self::Closed { failures }, Pass::Ordinary | Pass::Probe)
                if failures + 1 < FAILURES_TO_OPEN =>
            {
                Self::Closed { failures: failures + 1 }
            }
            (Self::Closed { .. }, Pass::Ordinary | Pass::Probe) => open(now, FIRST_PAUSE),
            (Self::Probing { pause }, Pass::Probe) => open(now, (*pause * 2).min(LONGEST_PAUSE)),
            // Operations that were under way when the breaker opened add nothing: a hundred pulls
            // that time out together are one outage, not a reason to double the pause.
            (Self::Open { .. }, Pass::Ordinary | Pass::Probe)
            | (Self::Probing { .. }, Pass::Ordinary) => return,
        };
    }

    /// The operation ended without saying anything about the upstream.
    fn released(&mut self, pass: Pass, now: Timestamp) {
        if let (Self::Probing { pause }, Pass::Probe) = (&*self, pass) {
            *self = Self::Open { until: now, pause: *pause };
        }
    }

    fn is_open(&self) -> bool {
        matches!(self, Self::Open { .. } | Self::Probing { .. })
    }
}

fn open(now: Timestamp, pause: Duration) -> Breaker {
    Breaker::Open { until: now.plus(pause), pause }
}

/// The breaker of one upstream, shared by its operations.
#[derive(Debug)]
pub(in crate::upstream) struct Reachability {
    breaker: Mutex<Breaker>,
    clock: Clock,
    gauge: Gauge,
}

impl Reachability {
    pub(in crate::upstream) fn new(clock: Clock, gauge: Gauge) -> Self {
        gauge.set(0);
        Self { breaker: Mutex::new(Breaker::Closed { failures: 0 }), clock, gauge }
    }

    /// Leave to dial, or `None` while the upstream is taken to be unreachable.
    pub(in crate::upstream) fn admit(&self) -> Option<Permit<'_>> {
        let pass = self.breaker().admit(self.clock.now())?;
        Some(Permit { reachability: self, pass })
    }

    /// Whether there would be no permit; unlike asking for one, this takes no probe.
    pub(in crate::upstream) fn is_shut(&self) -> bool {
        self.breaker().is_shut(self.clock.now())
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().expect("nothing panics while it holds the breaker")
    }
}

/// One operation's leave to dial.
#[derive(Debug)]
pub(in crate::upstream) struct Permit<'a> {
    reachability: &'a Reachability,
    pass: Pass,
}

impl Permit<'_> {
    /// The operation succeeded.
    pub(in crate::upstream) fn reached(self) {
        self.reachability.breaker().reached();
    }

    /// The operation ran out of time.
    pub(in crate::upstream) fn timed_out(self) {
        self.reachability.breaker().failed(self.pass, self.reachability.clock.now());
    }

    /// The operation failed; what was observed decides whether that counts.
    pub(in crate::upstream) fn failed(self, symptom: Symptom) {
        match symptom {
            Symptom::Connect | Symptom::Silence | Symptom::Reset | Symptom::Status(500..) => {
                self.timed_out();
            }
            Symptom::Status(_) | Symptom::Answered => self.reached(),
            // A body that broke off came from an upstream that had answered, or from storage behind
            // it; what we refused ourselves says nothing at all.
            Symptom::Cut | Symptom::Local => drop(self),
        }
    }
}

impl Drop for Permit<'_> {
    /// Gives the probe back if no report has moved the breaker on: its caller has left, and without
    /// this the breaker would wait for that probe for ever. Shows the state in the metric.
    fn drop(&mut self) {
        let mut breaker = self.reachability.breaker();
        breaker.released(self.pass, self.reachability.clock.now());
        self.reachability.gauge.set(i64::from(breaker.is_open()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(Duration::from_secs(seconds))
    }

    fn opened(now: u64) -> Breaker {
        let mut breaker = Breaker::Closed { failures: 0 };
        for _ in 0..FAILURES_TO_OPEN {
            breaker.failed(Pass::Ordinary, at(now));
        }
        breaker
    }

    #[test]
    fn three_failures_in_a_row_open_it_for_ten_seconds() {
        let mut breaker = Breaker::Closed { failures: 0 };
        breaker.failed(Pass::Ordinary, at(0));
        breaker.failed(Pass::Ordinary, at(0));
        breaker.reached();
        breaker.failed(Pass::Ordinary, at(0));
        breaker.failed(Pass::Ordinary, at(0));
        assert_eq!(breaker.admit(at(0)), Some(Pass::Ordinary));
        breaker.failed(Pass::Ordinary, at(0));
        assert_eq!(breaker.admit(at(9)), None);
        assert_eq!(breaker.admit(at(10)), Some(Pass::Probe));
    }

    #[test]
    fn exactly_one_probe_passes_and_its_failure_doubles_the_pause_up_to_a_minute() {
        let mut breaker = opened(0);
        let mut now = 10;
        for pause in [20, 40, 60, 60] {
            assert_eq!(breaker.admit(at(now)), Some(Pass::Probe));
            assert_eq!(breaker.admit(at(now)), None);
            breaker.failed(Pass::Probe, at(now));
            assert_eq!(breaker.admit(at(now + pause - 1)), None);
            now += pause;
        }
        assert_eq!(breaker.admit(at(now)), Some(Pass::Probe));
        breaker.reached();
        assert_eq!(breaker, Breaker::Closed { failures: 0 });
    }

    #[test]
    fn a_probe_that_is_given_up_lets_the_next_one_pass() {
        let gauge = Gauge::new("open", "test").expect("valid");
        let clock = Clock::manual(Duration::from_secs(1));
        let gate = Reachability::new(clock.clone(), gauge.clone());
        for _ in 0..FAILURES_TO_OPEN {
            gate.admit().expect("closed").failed(Symptom::Connect);
        }
        assert!(gate.admit().is_none());
        assert_eq!(gauge.get(), 1);
        clock.advance(FIRST_PAUSE);
        let probe = gate.admit().expect("probe");
        assert!(gate.admit().is_none());
        drop(probe);
        gate.admit().expect("next probe").failed(Symptom::Status(404));
        assert_eq!(gauge.get(), 0);
    }

    #[test]
    fn late_failures_of_older_operations_change_nothing() {
        let mut breaker = opened(0);
        breaker.failed(Pass::Ordinary, at(5));
        assert_eq!(breaker.admit(at(10)), Some(Pass::Probe));
        breaker.failed(Pass::Ordinary, at(10));
        assert_eq!(breaker, Breaker::Probing { pause: FIRST_PAUSE });
    }

    #[test]
    fn a_cut_body_counts_for_neither() {
        let gate = Reachability::new(Clock::system(), Gauge::new("open", "test").expect("valid"));
        for _ in 0..FAILURES_TO_OPEN * 2 {
            gate.admit().expect("closed").failed(Symptom::Cut);
        }
        gate.admit().expect("closed").failed(Symptom::Connect);
        gate.admit().expect("closed").failed(Symptom::Cut);
        assert_eq!(*gate.breaker(), Breaker::Closed { failures: 1 });
    }
}
