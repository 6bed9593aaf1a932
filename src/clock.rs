//! The clocks as arguments. The wall clock says what others have to agree with, and what outlives
//! the process: ends of licences, ages of records. It may be set, back or ahead, at any time. So
//! everything that is waited for goes by the other one, which only ever goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// Seconds and fractions since the Unix epoch; what ages are computed from and records hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(Duration);

impl Timestamp {
    pub fn from_unix(since_epoch: Duration) -> Self {
        Self(since_epoch)
    }

    pub fn unix(self) -> Duration {
        self.0
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Whether `earlier` was less than `life` ago. What lies ahead was noted by a clock that has been
    /// set back since: nothing is known of its age, so it was not.
    pub fn is_within(self, life: Duration, earlier: Self) -> bool {
        self.0.checked_sub(earlier.0).is_some_and(|age| age < life)
    }

    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }
}

/// How long the clock has been running, whatever the wall clock is set to; what ends within this
/// process is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    #[must_use]
    pub fn plus(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }
}

/// The only way to the wall clock; tests hold one that they move by hand.
#[derive(Clone, Debug)]
pub struct Clock(ClockSource);

#[derive(Clone, Debug)]
enum ClockSource {
    System { start: Instant },
    Manual(Arc<ManualTime>),
}

/// Nanoseconds: since the Unix epoch, and since the clock was made.
#[derive(Debug)]
struct ManualTime {
    wall: AtomicU64,
    passed: AtomicU64,
}

impl Clock {
    pub fn system() -> Self {
        Self(ClockSource::System { start: Instant::now() })
    }

    /// A clock that stands still until [`Clock::advance`].
    pub fn manual(start: Duration) -> Self {
        let (wall, passed) = (AtomicU64::new(nanos(start)), AtomicU64::default());
        Self(ClockSource::Manual(Arc::new(ManualTime { wall, passed })))
    }

    pub fn now(&self) -> Timestamp {
        match &self.0 {
            ClockSource::System { .. } => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the one place that asks the system for the time"
                )]
                let now = SystemTime::now();
                Timestamp(now.duration_since(UNIX_EPOCH).unwrap_or_default())
            }
            ClockSource::Manual(time) => {
                Timestamp(Duration::from_nanos(time.wall.load(Ordering::SeqCst)))
            }
        }
    }

    pub fn moment(&self) -> Moment {
        Moment(match &self.0 {
            ClockSource::System { start } => start.elapsed(),
            ClockSource::Manual(time) => Duration::from_nanos(time.passed.load(Ordering::SeqCst)),
        })
    }

    /// Lets time pass on a manual clock; the system's clock stays as it is.
    pub fn advance(&self, step: Duration) {
        if let ClockSource::Manual(time) = &self.0 {
            time.wall.fetch_add(nanos(step), Ordering::SeqCst);
            time.passed.fetch_add(nanos(step), Ordering::SeqCst);
        }
    }

    /// Sets a manual wall clock, while no time passes.
    pub fn set(&self, to: Timestamp) {
        if let ClockSource::Manual(time) = &self.0 {
            time.wall.store(nanos(to.unix()), Ordering::SeqCst);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
