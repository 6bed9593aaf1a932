//! How fast a transfer is just now, to tell whether what a reader wants comes soon.

use std::time::Duration;

use tokio::time::Instant;

/// What is measured over: long enough that one stalled packet is no slow transfer, short enough
/// that a transfer which has become slow is seen as such.
const WINDOW: Duration = Duration::from_secs(1);

/// A reader waits for a transfer if what it wants comes within this time (DESIGN §13).
const SOON: Duration = Duration::from_secs(2);

/// How much there was, and when.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    written: u64,
}

/// The pace of a transfer: where it was one to two windows ago.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    earlier: Mark,
    later: Mark,
}

impl Pace {
    /// Of a transfer that begins at `at`.
    pub(crate) fn new(at: Instant) -> Self {
        let start = Mark { at, written: 0 };
        Self { earlier: start, later: start }
    }

    /// There are `written` bytes by now.
    pub(crate) fn note(&mut self, now: Instant, written: u64) {
        if now.duration_since(self.later.at) >= WINDOW {
            self.earlier = self.later;
            self.later = Mark { at: now, written };
        }
    }

    /// Whether a transfer that has `written` bytes now will be at `offset` soon. While nothing is
    /// known of its pace, it is taken for fast.
    pub(crate) fn reaches_soon(&self, now: Instant, written: u64, offset: u64) -> bool {
        let (time, bytes) =
            (now.duration_since(self.earlier.at), written.saturating_sub(self.earlier.written));
        let distance = offset.saturating_sub(written);
        // distance / (bytes / time) <= SOON, without dividing by a pace that may be zero.
        time < WINDOW
            || u128::from(distance) * time.as_millis() <= u128::from(bytes) * SOON.as_millis()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_present_pace_decides_what_is_far() {
        const MB: u64 = 1_000_000;
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut pace = Pace::new(start);
        assert!(pace.reaches_soon(at(900), 0, 1 << 40), "nothing is known yet");
        for second in 1..=10 {
            pace.note(at(second * 1000), second * 10 * MB);
        }
        let soon = |pace: &Pace, millis, mb| pace.reaches_soon(at(millis), 100 * MB, mb * MB);
        assert!(soon(&pace, 10_000, 119), "at 10 MB/s");
        assert!(!soon(&pace, 10_000, 121));
        assert!(soon(&pace, 11_000, 109), "half as fast, because nothing has come for a second");
        assert!(!soon(&pace, 11_000, 111));
        assert!(!soon(&pace, 60_000, 101), "it hangs");
        assert!(soon(&pace, 60_000, 99), "there already");
    }
}
