//! Which attempt is hashed next, and when. Pure.
//!
//! There are three lanes. An attempt of a later lane is hashed only while those before it are
//! empty.
//!
//! | lane | which attempts | whom it keeps out of the lanes before it |
//! |---|---|---|
//! | `Normal` | address and name have not failed, or have logged in together | |
//! | `Guessed` | the name has failed within a minute | many addresses that guess at one name |
//! | `Failing` | the address has failed or was crowded out | one address that guesses at many names |
//!
//! A second attempt of an address, or at a name, while the first one waits, is taken for a failure:
//! otherwise a flood would be over before the first failure is known.
//!
//! `Guessed` is a lane of its own because its right logins look the same: the user whose name is
//! guessed at, from a new address. In `Failing` that user would wait behind every guess of every
//! address that keeps guessing; in `Normal` the guesses would crowd out everybody else.
//!
//! Order alone does not save the processor, so each failure also adds to a debt of rest: three
//! times what its hash took. The thread pays by not hashing. The first two lanes wait only for debt
//! beyond an allowance, failing addresses until all of it is paid. So failures cost a quarter of a
//! core in the long run, however many there are, and a login by somebody new rarely waits for the
//! rest that others have caused.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Attempts that wait in each lane (ACCESS §5.3).
const LANE_LENGTH_MAX: usize = 8;
/// Rest for each failure, in multiples of what its hash took: hashing takes a quarter of the time.
const REST_PER_HASH: u32 = 3;
/// Debt up to which normal attempts are hashed all the same: what a second of failures adds.
const NORMAL_DEBT_MAX: Duration = Duration::from_secs(3);
/// Debt up to which guessed attempts are. Less, so that their failures alone never add so much that
/// normal ones have to wait.
const GUESSED_DEBT_MAX: Duration = Duration::from_millis(1500);
/// Debt at which failing addresses begin to wait. Not at once, so that short hashes are done in a
/// row: each time the thread wakes, a request has to wait for its core.
const FAILING_DEBT_MAX: Duration = Duration::from_millis(500);

/// Which attempt it is: user, stored hash and password, under a key that lives as long as the
/// process. Equal attempts have equal keys.
pub(super) type AttemptKey = [u8; 32];

/// In the order in which they are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    Normal,
    /// At a name that somebody has failed to log in by.
    Guessed,
    /// From an address that has failed.
    Failing,
}

#[derive(Debug)]
pub(super) struct Lanes {
    normal: VecDeque<AttemptKey>,
    guessed: VecDeque<AttemptKey>,
    failing: VecDeque<AttemptKey>,
    /// When the debt will be paid: what is left of it is the time until then.
    paid_at: Instant,
    /// What the last failure took.
    last_hash: Duration,
    /// The debt has reached [`FAILING_DEBT_MAX`] and is not paid yet; failing addresses wait for
    /// its end.
    pausing: bool,
}

/// What the thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Hash(AttemptKey),
    /// So long at most; sooner if another attempt enters.
    Rest(Duration),
    /// No attempt waits.
    Idle,
}

impl Lanes {
    pub(super) fn new(now: Instant) -> Self {
        let [normal, guessed, failing] = [const { VecDeque::new() }; 3];
        Self { normal, guessed, failing, paid_at: now, last_hash: Duration::ZERO, pausing: false }
    }

    /// Adds an attempt to a lane; gives the oldest of that lane if it had to make room.
    ///
    /// Last in, first out: in a flood the oldest have used up most of their waiting time and would
    /// be told to come back anyway. Whoever comes after the flood does not wait for it.
    pub(super) fn enter(&mut self, lane: Lane, key: AttemptKey) -> Option<AttemptKey> {
        let lane = match lane {
            Lane::Normal => &mut self.normal,
            Lane::Guessed => &mut self.guessed,
            Lane::Failing => &mut self.failing,
        };
        lane.push_back(key);
        if lane.len() > LANE_LENGTH_MAX { lane.pop_front() } else { None }
    }

    pub(super) fn turn(&mut self, now: Instant) -> Turn {
        let debt = self.paid_at.saturating_duration_since(now);
        self.pausing = debt > if self.pausing { Duration::ZERO } else { FAILING_DEBT_MAX };
        let (lane, wait) = if !self.normal.is_empty() {
            (&mut self.normal, debt.saturating_sub(NORMAL_DEBT_MAX))
        } else if !self.guessed.is_empty() {
            (&mut self.guessed, debt.saturating_sub(GUESSED_DEBT_MAX))
        } else {
            (&mut self.failing, if self.pausing { debt } else { Duration::ZERO })
        };
        if !wait.is_zero() && !lane.is_empty() {
            return Turn::Rest(wait);
        }
        lane.pop_back().map_or(Turn::Idle, Turn::Hash)
    }

    /// A hash that was for nothing has `taken` so long, and ended `now`. The time that it took paid
    /// nothing of the debt.
    pub(super) fn failed(&mut self, now: Instant, taken: Duration) {
        self.paid_at = now.max(self.paid_at + taken) + taken * REST_PER_HASH;
        self.last_hash = taken;
    }

    /// An attempt was answered without a hash. Others wait as if it had been hashed: otherwise the
    /// time that somebody else's login takes would tell that this name is nobody's. Many of them
    /// add no more debt than one, since they cost nothing. Before the first hash, `slowest` is what
    /// one is thought to take.
    pub(super) fn spared(&mut self, now: Instant, slowest: Duration) {
        let hash = self.last_hash.max(slowest);
        self.paid_at = self.paid_at.max(now + hash * (1 + REST_PER_HASH));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: Duration = Duration::from_millis(200);

    fn key(number: u8) -> AttemptKey {
        [number; 32]
    }

    /// Lanes, and a moment from which everything is counted.
    fn lanes() -> (Lanes, Instant) {
        let now = Instant::now();
        (Lanes::new(now), now)
    }

    #[test]
    fn normal_attempts_go_first_failing_addresses_last_and_the_newest_before_the_oldest() {
        let (mut lanes, now) = lanes();
        let all = [(Lane::Failing, 0), (Lane::Guessed, 20), (Lane::Normal, 10)];
        for number in 0..8 {
            assert!(
                all.iter().all(|(lane, first)| lanes.enter(*lane, key(first + number)).is_none())
            );
        }
        for (lane, first) in all {
            assert_eq!(lanes.enter(lane, key(first + 8)), Some(key(first)), "the oldest gives way");
        }
        for number in (11..19).rev().chain((21..29).rev()).chain((1..9).rev()) {
            assert_eq!(lanes.turn(now), Turn::Hash(key(number)));
        }
        assert_eq!(lanes.turn(now), Turn::Idle);
    }

    #[test]
    fn failing_addresses_wait_until_failures_are_rested_for_and_others_do_not() {
        for other in [Lane::Normal, Lane::Guessed] {
            let (mut lanes, start) = lanes();
            let now = start + HASH;
            lanes.failed(now, HASH);
            assert!(lanes.enter(Lane::Failing, key(1)).is_none());
            assert_eq!(lanes.turn(now), Turn::Rest(HASH * 3));
            assert!(lanes.enter(other, key(2)).is_none());
            assert_eq!(lanes.turn(now), Turn::Hash(key(2)));
            assert_eq!(lanes.turn(now + HASH), Turn::Rest(HASH * 2));
            assert_eq!(lanes.turn(now + HASH * 3), Turn::Hash(key(1)));
        }
    }

    #[test]
    fn short_hashes_of_failing_addresses_are_done_in_a_row_and_then_rested_for_as_a_whole() {
        let (mut lanes, mut now) = lanes();
        let short = Duration::from_millis(20);
        let mut done = 0;
        loop {
            assert!(lanes.enter(Lane::Failing, key(done)).is_none());
            match lanes.turn(now) {
                Turn::Hash(_) => {
                    done += 1;
                    now += short;
                    lanes.failed(now, short);
                }
                Turn::Rest(rest) => {
                    assert_eq!(rest, short * REST_PER_HASH * u32::from(done), "all of it");
                    assert_eq!(lanes.turn(now + rest / 2), Turn::Rest(rest / 2), "to the end");
                    assert!(matches!(lanes.turn(now + rest), Turn::Hash(_)));
                    break;
                }
                Turn::Idle => unreachable!("one has just entered"),
            }
        }
        assert!(done > 5, "{done}");
    }

    #[test]
    fn failing_addresses_wait_beyond_half_a_second_of_debt_and_until_it_is_paid() {
        let (most, ms) = (Duration::from_millis(167), Duration::from_millis);
        let (mut lanes, start) = lanes();
        let mut other = Lanes::new(start);
        let now = start + most;
        for lanes in [&mut lanes, &mut other] {
            lanes.failed(now, most);
            assert!(lanes.enter(Lane::Failing, key(1)).is_none());
        }
        assert_eq!(other.turn(now + ms(1)), Turn::Hash(key(1)), "half a second");
        assert_eq!(lanes.turn(now), Turn::Rest(ms(501)));
        let paid = now + ms(501);
        assert_eq!(lanes.turn(paid), Turn::Hash(key(1)));
        lanes.failed(paid + ms(20), ms(20));
        assert!(lanes.enter(Lane::Failing, key(2)).is_none());
        assert_eq!(lanes.turn(paid + ms(20)), Turn::Hash(key(2)), "a small debt is no pause");
    }

    #[test]
    fn what_is_not_hashed_is_rested_for_like_one_failure_however_often() {
        let (mut lanes, start) = lanes();
        lanes.failed(start + HASH, HASH);
        let later = start + HASH * 10;
        assert!(lanes.enter(Lane::Failing, key(1)).is_none());
        for _ in 0..100 {
            lanes.spared(later, Duration::ZERO);
        }
        assert_eq!(lanes.turn(later), Turn::Rest(HASH * 4), "as long as the hash and its rest");
        assert!(lanes.enter(Lane::Normal, key(2)).is_none());
        assert_eq!(lanes.turn(later), Turn::Hash(key(2)));
    }

    #[test]
    fn normal_attempts_wait_for_what_is_owed_beyond_an_allowance_and_the_guessed_have_less_of_it() {
        for (lane, allowance) in
            [(Lane::Normal, NORMAL_DEBT_MAX), (Lane::Guessed, GUESSED_DEBT_MAX)]
        {
            let (mut lanes, start) = lanes();
            let excess = Duration::from_millis(300);
            let taken = (allowance + excess) / REST_PER_HASH;
            let now = start + taken;
            lanes.failed(now, taken);
            assert!(lanes.enter(lane, key(1)).is_none());
            assert_eq!(lanes.turn(now), Turn::Rest(excess));
            assert_eq!(lanes.turn(now + excess), Turn::Hash(key(1)));
        }
    }

    /// Half a minute of twenty wrong logins a second, each in the lane that `lane` has for its
    /// number; the share of it that is spent hashing.
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
            ("one address", half_a_minute(|_| Lane::Failing)),
            ("many, each once", half_a_minute(|_| Lane::Normal)),
            ("many, at one name", half_a_minute(|_| Lane::Guessed)),
            (
                "a hundred",
                half_a_minute(|came| if came < 100 { Lane::Normal } else { Lane::Failing }),
            ),
        ] {
            assert!((0.2..=0.3).contains(&share), "{from}: {share}");
        }
    }

    /// What the thread does until then; whether it hashed the login that is not a guess.
    fn work(lanes: &mut Lanes, free: &mut Instant, until: Instant, hash: Duration) -> bool {
        while *free <= until {
            match lanes.turn(*free) {
                Turn::Hash(key) if key == [255; 32] => return true,
                Turn::Hash(_) => {
                    *free += hash;
                    lanes.failed(*free, hash);
                }
                Turn::Rest(wait) => *free += wait,
                Turn::Idle => *free = until + Duration::from_nanos(1),
            }
        }
        false
    }

    /// In how many of a thousand tries a first login by a guessed name is hashed within the 10 s
    /// that it waits, while strangers guess at that name from ever new addresses, so many times a
    /// second.
    fn first_logins_hashed(guesses: u32, hash: Duration) -> usize {
        let (every, start) = (Duration::from_secs(1) / guesses, Instant::now());
        let is_hashed = |attempt: &u32| {
            let (mut lanes, mut free) = (Lanes::new(start), start);
            // At another moment between two hashes each time.
            let asks = start + Duration::from_secs(20) + hash * 4 * *attempt / 1000;
            let mut asked = false;
            let last = 32 * guesses;
            // Not in step with the hashes.
            let guess_at = |n: u32| start + every * n + every * (n * 7919 % 1000) / 1000;
            (0..last).map(guess_at).any(|now| {
                let mut hashed = false;
                if now > asks && !asked {
                    asked = true;
                    hashed |= work(&mut lanes, &mut free, asks, hash);
                    lanes.enter(Lane::Guessed, [255; 32]);
                }
                hashed |= work(&mut lanes, &mut free, now, hash);
                lanes.enter(Lane::Guessed, [0; 32]);
                hashed && now <= asks + Duration::from_secs(10)
            })
        };
        (0..1000).filter(is_hashed).count()
    }

    #[test]
    fn a_first_login_by_a_guessed_name_is_one_of_many() {
        let found = [(1, 80), (10, 80), (50, 80), (10, 330), (50, 330)]
            .map(|(guesses, ms)| first_logins_hashed(guesses, Duration::from_millis(ms)));
        println!("of 1000 first logins: {found:?}");
        assert!(found[0] == 1000, "there is time for all: {found:?}");
        assert!(found[1] > found[2] && found[3] > found[4], "{found:?}");
        assert!(found[4] > 0, "{found:?}");
    }
}
