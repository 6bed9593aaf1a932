//! A bounded cache whose entries end by the [`Clock`], so that a test that moves the clock moves
//! them as well. The cache crate's own time to live runs on the system's time. And what an entry of
//! such a cache costs, where strangers choose how long it is.

use std::borrow::Borrow;
use std::fmt;
use std::hash::Hash;
use std::time::Duration;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::clock::{Clock, Moment};

/// Bytes that an entry costs beside its texts: its place in the table and in the order of use, and
/// what is of a fixed size.
const ENTRY_BYTES: usize = 400;

/// The weight in bytes of an entry that holds texts of this length in all.
pub(crate) fn weight(texts: usize) -> u32 {
    u32::try_from(texts + ENTRY_BYTES).unwrap_or(u32::MAX)
}

/// Values that are believed until a time of their own.
pub(crate) struct ExpiringCache<K, V> {
    entries: Cache<K, Expiring<V>>,
    clock: Clock,
}

#[derive(Clone, Debug)]
struct Expiring<V> {
    value: V,
    until: Moment,
}

impl<K, V> ExpiringCache<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// Holds at most about `capacity` entries; whatever was not used for longest makes room.
    pub(crate) fn new(capacity: u64, clock: Clock) -> Self {
        Self::weighing(capacity, |_| 1, clock)
    }

    /// Holds entries of at most about `capacity` bytes, as `weigh` says by their key.
    pub(crate) fn weighing(
        capacity: u64,
        weigh: impl Fn(&K) -> u32 + Send + Sync + 'static,
        clock: Clock,
    ) -> Self {
        // The crate's default would rather turn a new entry away than one that was asked for often,
        // although that one may have ended long ago.
        let lru = EvictionPolicy::lru();
        let entries = Cache::builder().max_capacity(capacity).eviction_policy(lru);
        Self { entries: entries.weigher(move |key, _| weigh(key)).build(), clock }
    }

    /// Enters or replaces what is believed for `life` from now on.
    pub(crate) fn insert(&self, key: K, value: V, life: Duration) {
        let until = self.clock.moment().plus(life);
        self.entries.insert(key, Expiring { value, until });
    }

    /// As [`ExpiringCache::insert`], but never shortens the life of what is there.
    pub(crate) fn extend(&self, key: K, value: V, life: Duration) {
        let until = self.clock.moment().plus(life);
        self.entries.entry(key).and_upsert_with(|known| {
            let until = known.map_or(until, |known| known.value().until.max(until));
            Expiring { value, until }
        });
    }

    /// The value, if it has not ended.
    pub(crate) fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let entry = self.entries.get(key)?;
        (self.clock.moment() < entry.until).then_some(entry.value)
    }

    /// Whether there is a value that has not ended.
    pub(crate) fn contains<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.get(key).is_some()
    }

    pub(crate) fn remove<Q>(&self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.entries.invalidate(key);
    }
}

impl<K, V> fmt::Debug for ExpiringCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.entries.entry_count();
        f.debug_struct("ExpiringCache").field("entries", &entries).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(10);

    fn cache(capacity: u64) -> (ExpiringCache<String, u32>, Clock) {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        (ExpiringCache::new(capacity, clock.clone()), clock)
    }

    #[test]
    fn an_entry_ends_by_the_clock_that_the_cache_was_given() {
        let (cache, clock) = cache(10);
        cache.insert("a".to_owned(), 1, LIFE);
        clock.advance(LIFE * 9 / 10);
        assert_eq!((cache.get("a"), cache.contains("b")), (Some(1), false));
        clock.advance(LIFE / 10);
        assert_eq!((cache.get("a"), cache.contains("a")), (None, false));
    }

    #[test]
    fn entering_again_begins_a_new_life_and_extending_never_shortens_one() {
        let (cache, clock) = cache(10);
        cache.insert("a".to_owned(), 1, LIFE);
        cache.insert("a".to_owned(), 2, LIFE / 2);
        cache.insert("b".to_owned(), 1, LIFE);
        cache.extend("b".to_owned(), 2, LIFE / 2);
        cache.extend("c".to_owned(), 3, LIFE);
        clock.advance(LIFE / 2);
        assert_eq!((cache.get("a"), cache.get("b"), cache.get("c")), (None, Some(2), Some(3)));
        cache.remove("b");
        assert_eq!(cache.get("b"), None);
    }

    #[test]
    fn entries_are_bounded_by_their_bytes() {
        let clock = Clock::manual(Duration::from_secs(1_000_000));
        let cache: ExpiringCache<String, u32> =
            ExpiringCache::weighing(100_000, |key: &String| weight(key.len()), clock);
        for n in 0..1000 {
            cache.insert(format!("{n:0600}"), n, LIFE);
            cache.entries.run_pending_tasks();
        }
        assert_eq!(cache.entries.entry_count(), 100);
        assert!(cache.contains(format!("{:0600}", 999).as_str()));
    }

    #[test]
    fn the_newest_entries_are_kept_although_older_ones_were_asked_for_often() {
        let (cache, clock) = cache(10);
        for n in 0..10 {
            cache.insert(format!("old {n}"), n, LIFE);
            for _ in 0..100 {
                cache.get(format!("old {n}").as_str());
            }
        }
        clock.advance(LIFE);
        for n in 0..10 {
            cache.insert(format!("new {n}"), n, LIFE);
            cache.entries.run_pending_tasks();
        }
        assert!((0..10).all(|n| cache.contains(format!("new {n}").as_str())));
        assert!(cache.entries.entry_count() <= 10);
    }
}
