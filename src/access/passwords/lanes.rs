//! Which attempt is hashed next, and when. Pure.
//!
//! Attempts from calm addresses go first. What failures took is a debt that is paid by resting; suspects wait until all of
//! it is paid, the calm only for what goes beyond an allowance. So failures cost a quarter of a core in the long run,
//! however many there are, and somebody new rarely waits for the rest that others have earned.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::Key;

/// Attempts waiting in each lane (ACCESS §5.3).
const LENGTH: usize = 8;
/// Rest for a failure, in multiples of what it took.
const REST: u32 = 3;
/// Rest that may be owed while the calm are still served: a second of failures.
const ALLOWANCE: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Calm,
    Suspect,
}

#[derive(Debug)]
pub(super) struct Lanes {
    calm: VecDeque<Key>,
    suspect: VecDeque<Key>,
    /// When all failures will have been rested for.
    rested: Instant,
}

/// What the thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Hash(Key),
    /// At most so long, unless somebody comes.
    Rest(Duration),
    /// Nobody waits.
    Idle,
}

impl Lanes {
    pub(super) fn new(now: Instant) -> Self {
        Self { calm: VecDeque::new(), suspect: VecDeque::new(), rested: now }
    }

    /// Whether there was room.
    pub(super) fn enter(&mut self, lane: Lane, key: Key) -> bool {
        let lane = match lane {
            Lane::Calm => &mut self.calm,
            Lane::Suspect => &mut self.suspect,
        };
        let room = lane.len() < LENGTH;
        if room {
            lane.push_back(key);
        }
        room
    }

    pub(super) fn turn(&mut self, now: Instant) -> Turn {
        let debt = self.rested.saturating_duration_since(now);
        let (lane, wait) = if self.calm.is_empty() {
            (&mut self.suspect, debt)
        } else {
            (&mut self.calm, debt.saturating_sub(ALLOWANCE))
        };
        if !wait.is_zero() && !lane.is_empty() {
            return Turn::Rest(wait);
        }
        lane.pop_front().map_or(Turn::Idle, Turn::Hash)
    }

    /// A hash that was for nothing has `taken` so long, and ended `now`. Its own time was no rest.
    pub(super) fn failed(&mut self, now: Instant, taken: Duration) {
        self.rested = now.max(self.rested + taken) + taken * REST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: Duration = Duration::from_millis(200);

    fn key(number: u8) -> Key {
        [number; 32]
    }

    /// Lanes, and a moment from which everything is counted.
    fn lanes() -> (Lanes, Instant) {
        let now = Instant::now();
        (Lanes::new(now), now)
    }

    #[test]
    fn suspects_wait_behind_the_calm_and_neither_lane_grows() {
        let (mut lanes, now) = lanes();
        for number in 0..8 {
            assert!(lanes.enter(Lane::Suspect, key(number)));
            assert!(lanes.enter(Lane::Calm, key(number + 10)));
        }
        assert!(!lanes.enter(Lane::Suspect, key(8)) && !lanes.enter(Lane::Calm, key(18)));
        for number in (10..18).chain(0..8) {
            assert_eq!(lanes.turn(now), Turn::Hash(key(number)));
        }
        assert_eq!(lanes.turn(now), Turn::Idle);
    }

    #[test]
    fn suspects_wait_until_failures_are_rested_for_and_the_calm_do_not() {
        let (mut lanes, start) = lanes();
        let now = start + HASH;
        lanes.failed(now, HASH);
        assert!(lanes.enter(Lane::Suspect, key(1)));
        assert_eq!(lanes.turn(now), Turn::Rest(HASH * 3));
        assert!(lanes.enter(Lane::Calm, key(2)));
        assert_eq!(lanes.turn(now), Turn::Hash(key(2)));
        assert_eq!(lanes.turn(now + HASH), Turn::Rest(HASH * 2));
        assert_eq!(lanes.turn(now + HASH * 3), Turn::Hash(key(1)));
    }

    #[test]
    fn even_the_calm_wait_for_what_is_owed_beyond_the_allowance() {
        let (mut lanes, start) = lanes();
        let excess = Duration::from_millis(300);
        let taken = (ALLOWANCE + excess) / REST;
        let now = start + taken;
        lanes.failed(now, taken);
        assert!(lanes.enter(Lane::Calm, key(1)));
        assert_eq!(lanes.turn(now), Turn::Rest(excess));
        assert_eq!(lanes.turn(now + excess), Turn::Hash(key(1)));
    }

    /// Half a minute of twenty wrong logins a second, each in the lane that `lane` has for its number; the share of it that
    /// is spent hashing.
    fn half_a_minute(lane: impl Fn(u32) -> Lane) -> f64 {
        let (mut lanes, start) = lanes();
        let (mut now, mut next, mut came, mut hashed) = (start, start, 0, Duration::ZERO);
        while now < start + Duration::from_secs(30) {
            while next <= now {
                lanes.enter(lane(came), key(u8::try_from(came % 250).expect("small")));
                (came, next) = (came + 1, next + Duration::from_millis(50));
            }
            match lanes.turn(now) {
                Turn::Hash(_) => {
                    now += HASH;
                    hashed += HASH;
                    lanes.failed(now, HASH);
                }
                Turn::Rest(wait) => now = next.min(now + wait),
                Turn::Idle => now = next,
            }
        }
        hashed.as_secs_f64() / 30.0
    }

    #[test]
    fn failures_cost_less_than_three_tenths_of_a_core_from_wherever_they_come() {
        for (from, share) in [
            ("one address", half_a_minute(|_| Lane::Suspect)),
            ("many, each once", half_a_minute(|_| Lane::Calm)),
            ("a hundred", half_a_minute(|came| if came < 100 { Lane::Calm } else { Lane::Suspect })),
        ] {
            assert!((0.2..=0.3).contains(&share), "{from}: {share}");
        }
    }
}
