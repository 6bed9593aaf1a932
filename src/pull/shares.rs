//! A bounded number of something, shared fairly among those who ask for it: places for downloads,
//! and questions to an upstream (SHARE-1).
//!
//! Whoever holds least comes first: of the askers, then of an asker's images, then whoever came
//! first. That is a round robin which also counts what somebody holds for long.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::oci::{CanonicalName, UpstreamName};

/// Who may wait for a share at once. Beyond, the newest of whoever has most of them waiting is
/// turned away.
const WAITING_MAX: usize = 1024;

/// Between two looks of a holder whether its share is of more use to others.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// For whom something is asked upstream: an identity, or the address of somebody anonymous. A hash
/// of it: two askers who have the same one share what is theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Asker(u64);

impl Asker {
    pub fn new(who: impl Hash) -> Self {
        Self(hash_of(who))
    }
}

/// Asker and image.
type Claim = (Asker, u64);

/// Clones share the shares.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    table: Arc<Mutex<ShareTable>>,
    /// Told when somebody begins to wait.
    queued: watch::Sender<()>,
}

#[derive(Debug)]
struct ShareTable {
    total: usize,
    free: usize,
    askers: HashMap<Asker, usize>,
    claims: HashMap<Claim, usize>,
    /// Oldest first.
    waiting: Vec<WaitingClaim>,
    /// Shares whose holders are about to give them back because of those who wait.
    yielding: usize,
}

#[derive(Debug)]
struct WaitingClaim {
    claim: Claim,
    precedence: Precedence,
    granted: oneshot::Sender<()>,
}

/// Who comes before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Precedence {
    Wanted,
    /// It has given its share back because nobody needed what it did, and waits until nobody else
    /// does.
    Yielded,
}

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
    granted: oneshot::Receiver<()>,
}

impl Shares {
    pub(super) fn new(total: usize) -> Self {
        let (askers, claims) = (HashMap::new(), HashMap::new());
        let table =
            ShareTable { total, free: total, askers, claims, waiting: Vec::new(), yielding: 0 };
        Self { table: Arc::new(Mutex::new(table)), queued: watch::Sender::new(()) }
    }

    /// Waits for a share; `None` if too many wait. The caller sets the deadline.
    pub(super) async fn get(
        &self,
        asker: Asker,
        name: &CanonicalName,
        precedence: Precedence,
    ) -> Option<Share> {
        let claim = (asker, hash_of(&name.repository));
        let mut queued = {
            let (send, granted) = oneshot::channel();
            let mut table = self.lock();
            table.waiting.push(WaitingClaim { claim, precedence, granted: send });
            table.grant();
            table.turn_away();
            Queued { shares: self.clone(), claim, granted }
        };
        self.queued.send_replace(());
        (&mut queued.granted).await.ok()?;
        Some(Share { shares: self.clone(), claim, is_yielding: false })
    }

    fn lock(&self) -> MutexGuard<'_, ShareTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ShareTable {
    fn grant(&mut self) {
        while self.free > 0
            && let Some(next) = self.next()
        {
            let WaitingClaim { claim, granted, .. } = self.waiting.remove(next);
            // Whoever has left is passed over.
            if granted.send(()).is_ok() {
                self.free -= 1;
                *self.askers.entry(claim.0).or_default() += 1;
                *self.claims.entry(claim).or_default() += 1;
            }
        }
    }

    fn next(&self) -> Option<usize> {
        let order = |(at, waiting): &(usize, &WaitingClaim)| {
            (waiting.precedence, self.held(waiting.claim.0), self.of_claim(waiting.claim), *at)
        };
        self.waiting.iter().enumerate().min_by_key(order).map(|(at, _)| at)
    }

    fn held(&self, asker: Asker) -> usize {
        self.askers.get(&asker).copied().unwrap_or_default()
    }

    fn of_claim(&self, claim: Claim) -> usize {
        self.claims.get(&claim).copied().unwrap_or_default()
    }

    fn turn_away(&mut self) {
        if self.waiting.len() <= WAITING_MAX {
            return;
        }
        self.waiting.retain(|waiting| !waiting.granted.is_closed());
        let mut counts: HashMap<Claim, usize> = HashMap::new();
        for waiting in &self.waiting {
            *counts.entry(waiting.claim).or_default() += 1;
        }
        if self.waiting.len() > WAITING_MAX
            && let Some(most) = counts.into_iter().max_by_key(|(_, count)| *count)
            && let Some(newest) = self.waiting.iter().rposition(|waiting| waiting.claim == most.0)
        {
            self.waiting.remove(newest);
        }
    }

    fn release(&mut self, claim: Claim) {
        take_one(&mut self.askers, &claim.0);
        take_one(&mut self.claims, &claim);
        self.free += 1;
        self.grant();
    }

    /// How many wait who would have a share of this asker: all of them, if it is `unneeded`; else
    /// those who hold less, while the asker has more than half.
    fn wanting(&self, asker: Asker, unneeded: bool) -> usize {
        let held = self.held(asker);
        let wants = |waiting: &&WaitingClaim| {
            let is_less = held * 2 > self.total && self.held(waiting.claim.0) + 1 < held;
            waiting.precedence == Precedence::Wanted
                && !waiting.granted.is_closed()
                && (unneeded || (waiting.claim.0 != asker && is_less))
        };
        self.waiting.iter().filter(wants).count()
    }
}

impl Share {
    /// Resolves once the share should be given back: somebody waits, and what it is used for is
    /// `unneeded`, or its asker has more than half of all while others have less.
    pub(super) async fn yielded(&mut self, mut unneeded: impl FnMut() -> bool) {
        while tokio::time::timeout(LOOK_INTERVAL, self.yields(unneeded())).await.is_err() {}
    }

    /// As [`Share::yielded`], with what is known of the use now.
    pub(super) async fn yields(&mut self, unneeded: bool) {
        let mut queued = self.shares.queued.subscribe();
        while !self.begin_yield(unneeded) {
            // The sender is a part of the share itself.
            drop(queued.changed().await);
        }
    }

    fn begin_yield(&mut self, unneeded: bool) -> bool {
        let mut table = self.shares.lock();
        // One for each who waits.
        if !self.is_yielding && table.wanting(self.claim.0, unneeded) > table.yielding {
            table.yielding += 1;
            self.is_yielding = true;
        }
        self.is_yielding
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut table = self.shares.lock();
        table.yielding -= usize::from(self.is_yielding);
        table.release(self.claim);
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.granted.close();
        // Granted, and not taken: whoever waited has left in that moment. After it was taken, this
        // finds nothing.
        if self.granted.try_recv().is_ok() {
            self.shares.lock().release(self.claim);
        }
    }
}

/// As many shares for each upstream, so that a slow one takes nothing from the others.
#[derive(Debug)]
pub(super) struct SharesByUpstream {
    /// Made on first use: upstreams come and go with the configuration. An entry is never removed.
    by_upstream: Mutex<HashMap<UpstreamName, Shares>>,
    each: usize,
}

impl SharesByUpstream {
    pub(super) fn new(each: usize) -> Self {
        Self { by_upstream: Mutex::default(), each }
    }

    /// Those of an upstream, which the caller knows to be configured.
    pub(super) fn of(&self, upstream: &UpstreamName) -> Shares {
        let mut by_upstream = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        let shares = by_upstream.entry(upstream.clone());
        shares.or_insert_with(|| Shares::new(self.each)).clone()
    }
}

fn take_one<K: Eq + Hash>(counts: &mut HashMap<K, usize>, of: &K) {
    if let Some(count) = counts.get_mut(of) {
        *count -= 1;
        if *count == 0 {
            counts.remove(of);
        }
    }
}

fn hash_of(what: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn name(repository: &str) -> CanonicalName {
        CanonicalName {
            upstream: UpstreamName::parse("acme.test").expect("valid"),
            repository: crate::oci::Repository::parse(repository).expect("valid"),
        }
    }

    #[test]
    fn whoever_holds_least_comes_first_and_who_has_left_is_passed_over() {
        let (shares, name) = (Shares::new(2), name("a/b"));
        let get = |who: u8| Box::pin(shares.get(Asker::new(who), &name, Precedence::Wanted));
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

    #[test]
    fn a_share_is_yielded_once_for_each_who_waits() {
        let (shares, name) = (Shares::new(4), name("a/b"));
        let get = |who: u8, how| Box::pin(shares.get(Asker::new(who), &name, how));
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

    #[test]
    fn of_too_many_who_wait_the_newest_of_the_many_is_turned_away() {
        let shares = Shares::new(0);
        let (many, one) = (name("a/b"), name("c/d"));
        let get = |name| Box::pin(shares.get(Asker::default(), name, Precedence::Wanted));
        let mut queue: Vec<_> = (0..WAITING_MAX).map(|_| get(&many)).collect();
        assert!(queue.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        assert!(get(&many).now_or_never().is_some_and(|share| share.is_none()));
        let mut one = get(&one);
        assert!((&mut one).now_or_never().is_none(), "it waits");
        assert!(queue.pop().and_then(FutureExt::now_or_never).is_some(), "turned away");
    }
}
