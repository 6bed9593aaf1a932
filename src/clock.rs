//! The wall clock as an argument.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// The only way to the wall clock; tests hold one that they move by hand.
#[derive(Clone, Debug)]
pub struct Clock(ClockSource);

#[derive(Clone, Debug)]
enum ClockSource {
    System,
    Manual(Arc<AtomicU64>),
}

impl Clock {
    pub fn system() -> Self {
        Self(ClockSource::System)
    }

    /// A clock that stands still until [`Clock::advance`].
    pub fn manual(start: Duration) -> Self {
        let nanos = u64::try_from(start.as_nanos()).unwrap_or(u64::MAX);
        Self(ClockSource::Manual(Arc::new(AtomicU64::new(nanos))))
    }

    pub fn now(&self) -> Timestamp {
        match &self.0 {
            ClockSource::System => {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "the one place that asks the system for the time"
                )]
                let now = SystemTime::now();
                Timestamp(now.duration_since(UNIX_EPOCH).unwrap_or_default())
            }
            ClockSource::Manual(nanos) => {
                Timestamp(Duration::from_nanos(nanos.load(Ordering::SeqCst)))
            }
        }
    }

    /// Moves a manual clock forward; the system's clock stays as it is.
    pub fn advance(&self, step: Duration) {
        if let ClockSource::Manual(nanos) = &self.0 {
            nanos.fetch_add(u64::try_from(step.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    }
}
