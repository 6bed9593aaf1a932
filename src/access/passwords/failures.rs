//! Failed logins of the last minute. After five of them a user is locked out at one address. The
//! address counts as failing from the first one on, and the name is guessed at: their attempts
//! wait behind others (`lanes`). Bounded; the oldest are forgotten.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::clock::{Clock, Timestamp};
use crate::expiring::ExpiringCache;

/// Failures of one user from one address in [`FAILURE_WINDOW`] (ACCESS §5.3).
const FAILURES_MAX: u32 = 5;
const FAILURE_WINDOW: Duration = Duration::from_mins(1);
/// How long an address counts as failing whose attempt was crowded out: long enough to recognise one
/// that keeps coming, short enough for one that came in somebody else's flood.
const CROWDED_OUT_FAILING_FOR: Duration = Duration::from_secs(10);
/// Addresses, names, and pairs of them that are remembered.
const REMEMBERED_MAX: u64 = 65_536;

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

#[derive(Debug)]
pub(super) struct Failures {
    clock: Clock,
    /// Names are kept as hashes under a secret of the process: they come from strangers and may be
    /// long, and nobody can make two collide.
    names: RandomState,
    counts: Cache<(SourceNetwork, NameHash), Count>,
    /// Addresses that have failed, or were turned away for want of room.
    failing: ExpiringCache<SourceNetwork, ()>,
    /// Names that somebody guesses at.
    guessed: ExpiringCache<NameHash, ()>,
    /// Pairs that have logged in. They stay, so that guesses never make a user a stranger at an
    /// address of their own.
    familiar: Cache<(SourceNetwork, NameHash), ()>,
}

type NameHash = u64;

#[derive(Clone, Copy, Debug)]
struct Count {
    since: Timestamp,
    failures: u32,
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
            familiar: Cache::new(REMEMBERED_MAX),
        }
    }

    /// How long this user is locked out at this address; none: not at all.
    pub(super) fn locked_out(&self, source: SourceNetwork, user: &str) -> Option<Duration> {
        let count = self.counts.get(&(source, self.name(user)))?;
        let passed = self.clock.now().since(count.since);
        (count.failures >= FAILURES_MAX && passed < FAILURE_WINDOW)
            .then(|| FAILURE_WINDOW.saturating_sub(passed))
    }

    /// Whether this user has logged in from there before, and not failed there within a minute.
    pub(super) fn is_familiar(&self, source: SourceNetwork, user: &str) -> bool {
        let pair = (source, self.name(user));
        let failed = |count: Count| self.clock.now().since(count.since) < FAILURE_WINDOW;
        self.familiar.contains_key(&pair) && !self.counts.get(&pair).is_some_and(failed)
    }

    pub(super) fn is_guessed(&self, user: &str) -> bool {
        self.guessed.contains(&self.name(user))
    }

    pub(super) fn is_failing(&self, source: SourceNetwork) -> bool {
        self.failing.contains(&source)
    }

    /// Notes a right password.
    pub(super) fn remember(&self, source: SourceNetwork, user: &str) {
        self.familiar.insert((source, self.name(user)), ());
    }

    /// Notes a wrong password.
    pub(super) fn count(&self, source: SourceNetwork, user: &str) {
        let (now, name) = (self.clock.now(), self.name(user));
        self.failing.extend(source, (), FAILURE_WINDOW);
        self.guessed.insert(name, (), FAILURE_WINDOW);
        self.counts.entry((source, name)).and_upsert_with(|entry| match entry {
            Some(entry) if now.since(entry.value().since) < FAILURE_WINDOW => {
                Count { failures: entry.value().failures.saturating_add(1), ..*entry.value() }
            }
            Some(_) | None => Count { since: now, failures: 1 },
        });
    }

    /// Notes an attempt that there was no room for.
    pub(super) fn crowded_out(&self, source: SourceNetwork) {
        self.failing.extend(source, (), CROWDED_OUT_FAILING_FOR);
    }

    fn name(&self, user: &str) -> NameHash {
        self.names.hash_one(user)
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
    fn five_failures_lock_out_until_a_minute_after_the_first() {
        let ((failures, clock), here) = (failures(), source("192.0.2.1"));
        for _ in 0..4 {
            failures.count(here, "ci");
            clock.advance(Duration::from_secs(5));
        }
        assert_eq!(failures.locked_out(here, "ci"), None);
        failures.count(here, "ci");
        assert_eq!(failures.locked_out(here, "ci"), Some(Duration::from_secs(40)));
        assert_eq!(failures.locked_out(here, "eve"), None, "another user");
        assert_eq!(failures.locked_out(source("192.0.2.2"), "ci"), None, "another address");
        clock.advance(Duration::from_secs(40));
        assert_eq!(failures.locked_out(here, "ci"), None);
        failures.count(here, "ci");
        assert_eq!(failures.locked_out(here, "ci"), None, "a new minute");
    }

    #[test]
    fn a_name_is_guessed_at_for_a_minute_and_bad_luck_is_no_guess() {
        let ((failures, clock), here) = (failures(), source("192.0.2.1"));
        failures.crowded_out(here);
        assert!(!failures.is_guessed("ci"));
        failures.count(here, "ci");
        assert!(failures.is_guessed("ci") && !failures.is_guessed("eve"));
        clock.advance(FAILURE_WINDOW);
        assert!(!failures.is_guessed("ci"));
    }

    #[test]
    fn a_failure_makes_a_familiar_pair_strange_for_a_minute() {
        let ((failures, clock), here) = (failures(), source("192.0.2.1"));
        failures.remember(here, "ci");
        assert!(failures.is_familiar(here, "ci"));
        assert!(
            !failures.is_familiar(here, "eve") && !failures.is_familiar(source("192.0.2.2"), "ci")
        );
        failures.count(here, "ci");
        assert!(!failures.is_familiar(here, "ci"));
        clock.advance(FAILURE_WINDOW);
        assert!(failures.is_familiar(here, "ci"));
    }

    #[test]
    fn an_address_is_failing_for_a_minute_after_a_failure_and_for_seconds_after_bad_luck() {
        let ((failures, clock), unlucky, guilty) =
            (failures(), source("192.0.2.1"), source("192.0.2.2"));
        failures.crowded_out(unlucky);
        failures.count(guilty, "ci");
        failures.crowded_out(guilty);
        assert!(failures.is_failing(unlucky) && failures.is_failing(guilty));
        clock.advance(CROWDED_OUT_FAILING_FOR);
        assert!(!failures.is_failing(unlucky) && failures.is_failing(guilty));
        clock.advance(FAILURE_WINDOW);
        assert!(!failures.is_failing(guilty));
    }
}
