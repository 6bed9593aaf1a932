//! Passwords that were right, so that they need not be hashed again: for some minutes from
//! anywhere, and from the address that they came from for as long as there is room.
//!
//! Only right logins are entered, so no stranger can push one out. They are kept under a keyed hash
//! of user, stored hash and password ([`AttemptKey`]): with a new stored hash, none of them is
//! found again.
//!
//! Whoever asks here learns whether a guess is right without having it hashed, and may hang up
//! before it is counted. So each address has an allowance of guesses at each user that are compared
//! in an hour. When it is used up, nothing is recognised there: a right password is hashed, or
//! locked out, as one that has never been seen.

use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::failures::{LoginPair, REMEMBERED_MAX};
use super::lanes::AttemptKey;
use crate::clock::{Clock, Moment};
use crate::expiring::ExpiringCache;

/// Right passwords that are recognised from anywhere, and for how long.
const VERIFIED_MAX: u64 = 1024;
pub(super) const VERIFIED_FOR: Duration = Duration::from_mins(5);
/// Guesses at one user from one address that are compared in [`COMPARISON_WINDOW`]: as many as are
/// hashed in that time at most, so that comparing never more than doubles what guessers get.
pub(super) const COMPARISONS_MAX: u32 = 300;
pub(super) const COMPARISON_WINDOW: Duration = Duration::from_hours(1);

#[derive(Debug)]
pub(super) struct RightPasswords {
    clock: Clock,
    /// From anywhere.
    verified: ExpiringCache<AttemptKey, ()>,
    /// What each pair has logged in with. They stay, so that guesses never make a user a stranger
    /// at an address of their own; the crate's default policy prefers those that are used often.
    familiar: Cache<LoginPair, AttemptKey>,
    /// Guesses that were compared for nothing; the oldest are forgotten.
    missed: Cache<LoginPair, Misses>,
}

#[derive(Clone, Copy, Debug)]
struct Misses {
    since: Moment,
    number: u32,
}

impl RightPasswords {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            verified: ExpiringCache::new(VERIFIED_MAX, clock.clone()),
            familiar: Cache::new(REMEMBERED_MAX),
            missed: Cache::builder()
                .max_capacity(REMEMBERED_MAX)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            clock,
        }
    }

    /// Whether this pair has logged in before, with any password.
    pub(super) fn is_familiar(&self, pair: LoginPair) -> bool {
        self.familiar.contains_key(&pair)
    }

    /// Whether this is known to be right. For a pair that is locked out only what has come from its
    /// own address counts: a guesser would otherwise learn of logins elsewhere.
    pub(super) fn recognises(&self, pair: LoginPair, key: &AttemptKey, locked_out: bool) -> bool {
        if self.misses(pair).is_some_and(|misses| misses.number >= COMPARISONS_MAX) {
            return false;
        }
        if self.familiar.get(&pair).is_some_and(|known| known == *key) {
            return true;
        }
        if !locked_out && self.verified.contains(key) {
            self.familiar.insert(pair, *key);
            return true;
        }
        self.miss(pair);
        false
    }

    /// Notes a password that was hashed and is right. Its pair begins anew: those who have asked
    /// for it while it was hashed were no guesses.
    pub(super) fn remember(&self, pair: LoginPair, key: AttemptKey) {
        self.verified.insert(key, (), VERIFIED_FOR);
        self.familiar.insert(pair, key);
        self.missed.invalidate(&pair);
    }

    fn misses(&self, pair: LoginPair) -> Option<Misses> {
        self.missed.get(&pair).filter(|misses| self.is_current(misses))
    }

    fn miss(&self, pair: LoginPair) {
        self.missed.entry(pair).and_upsert_with(|entry| match entry {
            Some(entry) if self.is_current(entry.value()) => {
                Misses { number: entry.value().number.saturating_add(1), ..*entry.value() }
            }
            Some(_) | None => Misses { since: self.clock.moment(), number: 1 },
        });
    }

    fn is_current(&self, misses: &Misses) -> bool {
        self.clock.moment().since(misses.since) < COMPARISON_WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::passwords::failures::Failures;

    const RIGHT: AttemptKey = [1; 32];

    struct Memory {
        right: RightPasswords,
        clock: Clock,
        here: LoginPair,
        there: LoginPair,
    }

    fn memory() -> Memory {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        let failures = Failures::new(clock.clone());
        let pair = |last| failures.pair(std::net::IpAddr::from([192, 0, 2, last]).into(), "ci");
        let right = RightPasswords::new(clock.clone());
        Memory { right, clock, here: pair(1), there: pair(2) }
    }

    fn guess(number: u32) -> AttemptKey {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn a_password_is_known_for_minutes_from_anywhere_and_for_good_where_it_was_used() {
        let Memory { right, clock, here, there } = memory();
        right.remember(here, RIGHT);
        assert!(right.recognises(here, &RIGHT, true), "also in a lockout");
        assert!(!right.recognises(there, &RIGHT, true), "but nothing from elsewhere");
        clock.advance(VERIFIED_FOR);
        assert!(!right.recognises(there, &RIGHT, false));
        assert!(right.recognises(here, &RIGHT, false) && right.recognises(here, &RIGHT, true));
        assert!(!right.recognises(here, &guess(7), false));
    }

    #[test]
    fn where_it_was_recognised_it_is_known_for_good() {
        let Memory { right, clock, here, there } = memory();
        right.remember(here, RIGHT);
        assert!(!right.is_familiar(there));
        assert!(right.recognises(there, &RIGHT, false));
        clock.advance(VERIFIED_FOR);
        assert!(right.is_familiar(there) && right.recognises(there, &RIGHT, true));
    }

    #[test]
    fn guesses_are_compared_so_many_times_an_hour() {
        for locked_out in [false, true] {
            let Memory { right, clock, here, there } = memory();
            right.remember(here, RIGHT);
            for number in 0..COMPARISONS_MAX {
                assert!(right.recognises(here, &RIGHT, locked_out), "hits use up nothing");
                assert!(!right.recognises(here, &guess(number), locked_out));
            }
            assert!(!right.recognises(here, &RIGHT, locked_out), "no answer any more");
            assert!(right.recognises(there, &RIGHT, false), "another address");
            clock.advance(COMPARISON_WINDOW);
            assert!(right.recognises(here, &RIGHT, locked_out));
        }
    }

    #[test]
    fn those_who_waited_for_the_first_hash_were_no_guesses() {
        let Memory { right, here, .. } = memory();
        for _ in 0..2 * COMPARISONS_MAX {
            assert!(!right.recognises(here, &RIGHT, false));
        }
        right.remember(here, RIGHT);
        assert!(right.recognises(here, &RIGHT, false));
    }
}
