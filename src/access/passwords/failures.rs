//! Failed logins of the last minute. A password that was wrong is known to be wrong until that
//! minute is over: however often a machine sends an old one, it is hashed once and is one failure.
//! After five different ones a user is locked out at one address. The address counts as failing
//! from the first one on, and the name is guessed at: their attempts wait behind others (`lanes`).
//! Bounded; the oldest are forgotten.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use super::lanes::AttemptKey;
use crate::clock::{Clock, Moment};
use crate::expiring::ExpiringCache;

/// Different wrong passwords of one user from one address in [`FAILURE_WINDOW`] (ACCESS §5.3).
const FAILURES_MAX: usize = 5;
const FAILURE_WINDOW: Duration = Duration::from_mins(1);
/// What is kept of a wrong password's key. Two keys begin alike once in 2^64, and then one guess is
/// taken for another.
const BEGINNING_BYTES: usize = 8;
/// How long an address counts as failing whose attempt was crowded out: long enough to recognise
/// one that keeps coming, short enough for one that came in somebody else's flood.
const CROWDED_OUT_FAILING_FOR: Duration = Duration::from_secs(10);
/// Addresses, names, and pairs of them that are remembered.
pub(super) const REMEMBERED_MAX: u64 = 65_536;

/// What counts as one address: an IPv4 address, or the /64 that one customer of an IPv6 network
/// has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SourceNetwork(IpAddr);

impl From<IpAddr> for SourceNetwork {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)))
            }
        })
    }
}

/// A user at an address. Names are kept as hashes under a secret of the process: they come from
/// strangers and may be long, and nobody can make two collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LoginPair {
    pub(super) source: SourceNetwork,
    pub(super) name: NameHash,
}

#[derive(Debug)]
pub(super) struct Failures {
    clock: Clock,
    names: RandomState,
    counts: Cache<LoginPair, WrongPasswords>,
    /// Addresses that have failed, or were turned away for want of room.
    failing: ExpiringCache<SourceNetwork, ()>,
    /// Names that somebody guesses at.
    guessed: ExpiringCache<NameHash, ()>,
}

pub(super) type NameHash = u64;

/// The wrong passwords of a pair since the first of them.
#[derive(Clone, Copy, Debug)]
struct WrongPasswords {
    since: Moment,
    number: usize,
    /// The beginnings of their keys.
    beginnings: [[u8; BEGINNING_BYTES]; FAILURES_MAX],
}

impl WrongPasswords {
    fn new(since: Moment) -> Self {
        Self { since, number: 0, beginnings: [[0; BEGINNING_BYTES]; FAILURES_MAX] }
    }

    fn holds(&self, key: &AttemptKey) -> bool {
        self.beginnings.iter().take(self.number).any(|known| key.starts_with(known))
    }

    /// With this one too, if there is room. Without room the pair is locked out and nothing more
    /// is hashed.
    fn with(mut self, key: &AttemptKey) -> Self {
        if !self.holds(key)
            && let Some(next) = self.beginnings.get_mut(self.number)
        {
            next.copy_from_slice(&key[..BEGINNING_BYTES]);
            self.number += 1;
        }
        self
    }
}

impl Failures {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            names: RandomState::new(),
            failing: ExpiringCache::new(REMEMBERED_MAX, clock.clone()),
            guessed: ExpiringCache::new(REMEMBERED_MAX, clock.clone()),
            // The oldest goes first, as its window is over first. The default policy would rather
            // turn a new failure away than one that is counted often.
            counts: Cache::builder()
                .max_capacity(REMEMBERED_MAX)
                .eviction_policy(EvictionPolicy::lru())
                .build(),
            clock,
        }
    }

    pub(super) fn pair(&self, source: SourceNetwork, user: &str) -> LoginPair {
        LoginPair { source, name: self.names.hash_one(user) }
    }

    /// How long this pair is locked out; none: not at all.
    pub(super) fn locked_out(&self, pair: LoginPair) -> Option<Duration> {
        let wrong = self.wrong(pair)?;
        let passed = self.clock.moment().since(wrong.since);
        (wrong.number >= FAILURES_MAX).then(|| FAILURE_WINDOW.saturating_sub(passed))
    }

    /// Whether this attempt is known to fail.
    pub(super) fn is_wrong(&self, pair: LoginPair, key: &AttemptKey) -> bool {
        self.wrong(pair).is_some_and(|wrong| wrong.holds(key))
    }

    /// Whether this pair has failed within a minute.
    pub(super) fn has_failed(&self, pair: LoginPair) -> bool {
        self.wrong(pair).is_some()
    }

    pub(super) fn is_guessed(&self, name: NameHash) -> bool {
        self.guessed.contains(&name)
    }

    pub(super) fn is_failing(&self, source: SourceNetwork) -> bool {
        self.failing.contains(&source)
    }

    /// Notes a wrong password. The same one again is no other failure.
    pub(super) fn count(&self, pair: LoginPair, key: &AttemptKey) {
        let now = self.clock.moment();
        self.failing.extend(pair.source, (), FAILURE_WINDOW);
        self.guessed.insert(pair.name, (), FAILURE_WINDOW);
        self.counts.entry(pair).and_upsert_with(|entry| {
            let known = entry.map(|entry| *entry.value()).filter(|wrong| self.is_current(wrong));
            known.unwrap_or_else(|| WrongPasswords::new(now)).with(key)
        });
    }

    /// Notes an attempt that there was no room for.
    pub(super) fn crowded_out(&self, source: SourceNetwork) {
        self.failing.extend(source, (), CROWDED_OUT_FAILING_FOR);
    }

    fn wrong(&self, pair: LoginPair) -> Option<WrongPasswords> {
        self.counts.get(&pair).filter(|wrong| self.is_current(wrong))
    }

    fn is_current(&self, wrong: &WrongPasswords) -> bool {
        self.clock.moment().since(wrong.since) < FAILURE_WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures() -> (Failures, Clock) {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        (Failures::new(clock.clone()), clock)
    }

    fn source(address: &str) -> SourceNetwork {
        SourceNetwork::from(address.parse::<IpAddr>().expect("an address"))
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
    }

    #[test]
    fn five_wrong_passwords_lock_out_until_a_minute_after_the_first() {
        let ((failures, clock), here) = (failures(), source("192.0.2.1"));
        let ci = failures.pair(here, "ci");
        for number in 0..4 {
            failures.count(ci, &[number; 32]);
            clock.advance(Duration::from_secs(5));
        }
        assert_eq!(failures.locked_out(ci), None);
        failures.count(ci, &[4; 32]);
        assert_eq!(failures.locked_out(ci), Some(Duration::from_secs(40)));
        let others = [failures.pair(here, "eve"), failures.pair(source("192.0.2.2"), "ci")];
        assert_eq!(others.map(|pair| failures.locked_out(pair)), [None, None]);
        clock.advance(Duration::from_secs(40));
        assert_eq!(failures.locked_out(ci), None);
        failures.count(ci, &[5; 32]);
        assert_eq!(failures.locked_out(ci), None, "a new minute");
    }

    #[test]
    fn the_same_wrong_password_is_one_failure_and_known_to_be_wrong_for_a_minute() {
        let ((failures, clock), here) = (failures(), source("192.0.2.1"));
        let ci = failures.pair(here, "ci");
        for _ in 0..20 {
            failures.count(ci, &[1; 32]);
        }
        assert_eq!(failures.locked_out(ci), None);
        assert!(failures.is_wrong(ci, &[1; 32]) && !failures.is_wrong(ci, &[2; 32]));
        assert!(!failures.is_wrong(ci, &[0; 32]), "what no place holds is nobody's password");
        assert!(!failures.is_wrong(failures.pair(here, "eve"), &[1; 32]));
        assert!(!failures.is_wrong(failures.pair(source("192.0.2.2"), "ci"), &[1; 32]));
        assert!(failures.has_failed(ci) && !failures.has_failed(failures.pair(here, "eve")));
        clock.advance(FAILURE_WINDOW);
        assert!(!failures.is_wrong(ci, &[1; 32]) && !failures.has_failed(ci));
    }

    #[test]
    fn a_name_is_guessed_at_for_a_minute_and_bad_luck_is_no_guess() {
        let ((failures, clock), here) = (failures(), source("192.0.2.1"));
        let [ci, eve] = ["ci", "eve"].map(|user| failures.pair(here, user));
        failures.crowded_out(here);
        assert!(!failures.is_guessed(ci.name));
        failures.count(ci, &[1; 32]);
        assert!(failures.is_guessed(ci.name) && !failures.is_guessed(eve.name));
        clock.advance(FAILURE_WINDOW);
        assert!(!failures.is_guessed(ci.name));
    }

    #[test]
    fn an_address_is_failing_for_a_minute_after_a_failure_and_for_seconds_after_bad_luck() {
        let ((failures, clock), unlucky, guilty) =
            (failures(), source("192.0.2.1"), source("192.0.2.2"));
        failures.crowded_out(unlucky);
        failures.count(failures.pair(guilty, "ci"), &[1; 32]);
        failures.crowded_out(guilty);
        assert!(failures.is_failing(unlucky) && failures.is_failing(guilty));
        clock.advance(CROWDED_OUT_FAILING_FOR);
        assert!(!failures.is_failing(unlucky) && failures.is_failing(guilty));
        clock.advance(FAILURE_WINDOW);
        assert!(!failures.is_failing(guilty));
    }
}
