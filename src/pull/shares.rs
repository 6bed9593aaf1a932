//! A bounded number of something, shared fairly among those who ask for it: places for downloads,
//! and questions to an upstream (SHARE-1).
//!
//! Whoever holds least comes first: of the askers, then of an asker's images, then whoever came
//! first. That is a round robin which also counts what somebody holds for long.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

pub use super::share_table::Asker;
use super::share_table::{Claim, ShareTable, Ticket};
pub(super) use super::share_table::{Precedence, Reserve};
use crate::oci::{CanonicalName, UpstreamName};

/// Between two looks of a holder whether its share is of more use to others.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// How long it takes to turn somebody away. Whoever asks again at once, thousands of times, would
/// otherwise take the processor from everybody else.
const TURNED_AWAY: Duration = Duration::from_secs(5);

/// Clones share the shares.
#[derive(Clone, Debug)]
pub(super) struct Shares(Arc<Mutex<ShareTable>>);

/// One share; dropping it lets the next one in.
#[derive(Debug)]
pub(super) struct Share {
    shares: Shares,
    claim: Claim,
    is_yielding: bool,
}

/// A place in the queue, which is left when it is dropped.
struct Queued {
    shares: Shares,
    claim: Claim,
    ticket: Ticket,
    granted: oneshot::Receiver<()>,
}

impl Shares {
    pub(super) fn new(total: usize, reserve: Reserve) -> Self {
        Self(Arc::new(Mutex::new(ShareTable::new(total, reserve))))
    }

    /// Waits for a share; `None` if there is none until then, or too many wait.
    pub(super) async fn get(
        &self,
        asker: Asker,
        name: &CanonicalName,
        precedence: Precedence,
        until: Instant,
    ) -> Option<Share> {
        let claim = asker.claim(name);
        let (ticket, granted) = self.lock().enter(claim, precedence);
        let mut queued = Queued { shares: self.clone(), claim, ticket, granted };
        match tokio::time::timeout_at(until, &mut queued.granted).await {
            Ok(Ok(())) => Some(Share { shares: self.clone(), claim, is_yielding: false }),
            Ok(Err(_)) => {
                tokio::time::sleep_until(until.min(Instant::now() + TURNED_AWAY)).await;
                None
            }
            Err(_) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, ShareTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Resolves once the share should be given back: somebody waits, and what it is used for is
    /// `unneeded`, or its asker has more than half of all while others have less.
    pub(super) async fn yielded(&mut self, mut unneeded: impl FnMut() -> bool) {
        while !self.begin_yield(unneeded()) {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// As [`Share::yielded`], now.
    pub(super) fn begin_yield(&mut self, unneeded: bool) -> bool {
        if !self.is_yielding {
            self.is_yielding = self.shares.lock().begin_yield(self.claim.0, unneeded);
        }
        self.is_yielding
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.lock().release(self.claim, self.is_yielding);
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut table = self.shares.lock();
        table.leave(self.claim, self.ticket);
        // Granted, and not taken: whoever waited has left in that moment. After it was taken, this
        // finds nothing.
        if self.granted.try_recv().is_ok() {
            table.release(self.claim, false);
        }
    }
}

/// As many shares for each upstream, so that a slow one takes nothing from the others.
#[derive(Debug)]
pub(super) struct SharesByUpstream {
    /// Made on first use: upstreams come and go with the configuration. An entry is never removed.
    by_upstream: Mutex<HashMap<UpstreamName, Shares>>,
    each: usize,
    reserve: Reserve,
}

impl SharesByUpstream {
    pub(super) fn new(each: usize, reserve: Reserve) -> Self {
        Self { by_upstream: Mutex::default(), each, reserve }
    }

    /// Those of an upstream, which the caller knows to be configured.
    pub(super) fn of(&self, upstream: &UpstreamName) -> Shares {
        let mut by_upstream = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        let shares = by_upstream.entry(upstream.clone());
        shares.or_insert_with(|| Shares::new(self.each, self.reserve)).clone()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::share_table::WAITING_MAX;
    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_hours(1)
    }

    fn name(repository: &str) -> CanonicalName {
        CanonicalName {
            upstream: UpstreamName::parse("acme.test").expect("valid"),
            repository: crate::oci::Repository::parse(repository).expect("valid"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_holds_least_comes_first_and_who_has_left_is_passed_over() {
        let (shares, name) = (Shares::new(2, Reserve::None), name("a/b"));
        let get =
            |who: u8| Box::pin(shares.get(Asker::new(who), &name, Precedence::Wanted, later()));
        let first = get(1).now_or_never().flatten().expect("free");
        let _second = get(1).now_or_never().flatten().expect("free");
        let (mut greedy, mut gone, mut other) = (get(1), get(2), get(3));
        assert!((&mut greedy).now_or_never().is_none() && (&mut gone).now_or_never().is_none());
        assert!((&mut other).now_or_never().is_none());
        drop(gone);
        drop(first);
        assert!((&mut greedy).now_or_never().is_none(), "it holds one");
        let other = other.now_or_never().flatten().expect("it holds none");
        drop(other);
        assert!(greedy.now_or_never().flatten().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_is_yielded_once_for_each_who_waits() {
        let (shares, name) = (Shares::new(4, Reserve::None), name("a/b"));
        let get = |who: u8, how| Box::pin(shares.get(Asker::new(who), &name, how, later()));
        let take = |who| get(who, Precedence::Wanted).now_or_never().flatten().expect("free");
        let mut held: Vec<_> = (0..4).map(|_| take(1)).collect();
        assert!(!held[0].begin_yield(true), "nobody waits");
        let mut yielded = get(1, Precedence::Yielded);
        assert!((&mut yielded).now_or_never().is_none());
        assert!(!held[0].begin_yield(true), "nobody who is wanted waits");
        let mut own = get(1, Precedence::Wanted);
        assert!((&mut own).now_or_never().is_none());
        assert!(!held[0].begin_yield(false), "only the asker itself waits");
        let mut others = get(2, Precedence::Wanted);
        assert!((&mut others).now_or_never().is_none());
        let yielding: Vec<_> = held.iter_mut().map(|share| share.begin_yield(false)).collect();
        assert_eq!(yielding, [true, false, false, false], "more than half, and one waits");
        held.remove(0);
        assert!((&mut own).now_or_never().is_none());
        let _others = others.now_or_never().flatten().expect("it holds least");
        held.remove(0);
        assert!((&mut yielded).now_or_never().is_none(), "whoever is wanted comes first");
        assert!(own.now_or_never().flatten().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_who_wait_the_newest_of_the_many_is_turned_away() {
        let shares = Shares::new(0, Reserve::None);
        let (many, one) = (name("a/b"), name("c/d"));
        let get = |name| Box::pin(shares.get(Asker::default(), name, Precedence::Wanted, later()));
        let mut queue: Vec<_> = (0..WAITING_MAX).map(|_| get(&many)).collect();
        assert!(queue.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        let before = Instant::now();
        assert!(get(&many).await.is_none());
        assert_eq!(before.elapsed(), TURNED_AWAY);
        let mut one = get(&one);
        assert!((&mut one).now_or_never().is_none(), "it waits");
        assert!(queue.pop().expect("the newest").await.is_none(), "turned away");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_reserved_is_as_much_as_any_asker_has() {
        let (shares, name) = (Shares::new(8, Reserve::AsMuch), name("a/b"));
        let take = |who: u8| {
            let get = shares.get(Asker::new(who), &name, Precedence::Wanted, later());
            Box::pin(get).now_or_never().flatten()
        };
        let mut held: Vec<_> = std::iter::from_fn(|| take(1)).collect();
        assert_eq!(held.len(), 4);
        held.extend(std::iter::from_fn(|| take(2)));
        assert_eq!(held.len(), 6);
        assert!(take(1).is_none());
        let ours = take(3).expect("something is left");
        held.truncate(2);
        drop(ours);
        assert!(take(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn of_an_asker_with_too_many_its_image_with_most_gives_way() {
        let shares = Shares::new(0, Reserve::None);
        let (many, one) = (name("a/b"), name("c/d"));
        let get = |name| Box::pin(shares.get(Asker::default(), name, Precedence::Wanted, later()));
        let mut first = get(&one);
        assert!((&mut first).now_or_never().is_none());
        let mut queue: Vec<_> = (1..WAITING_MAX).map(|_| get(&many)).collect();
        assert!(queue.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        let mut second = get(&one);
        assert!((&mut second).now_or_never().is_none());
        assert!(queue.pop().expect("the newest").await.is_none(), "turned away");
    }
}
