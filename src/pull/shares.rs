//! A bounded number of something, shared fairly among those who ask for it: places for downloads,
//! and questions to an upstream (SHARE-1).
//!
//! Whoever holds least comes first: of the askers, then of an asker's images, then whoever came
//! first. That is a round robin which also counts what somebody holds for long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

use super::error::Error;
use super::interest::{Interest, Waiting};
use super::share_queues::Claim;
pub(super) use super::share_queues::Precedence;
pub(super) use super::share_table::{Reserve, ShareBounds};
use super::share_table::{ShareTable, Ticket};
use crate::oci::CanonicalName;

/// Between two looks of a holder whether its share is of more use to others, and of one who waits
/// at who has joined.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

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
    interest: Interest,
    is_yielding: bool,
}

/// A place in the queue, which is left when it is dropped.
struct Queued {
    shares: Shares,
    ticket: Ticket,
    granted: oneshot::Receiver<Claim>,
}

impl Shares {
    pub(super) fn new(bounds: ShareBounds) -> Self {
        Self(Arc::new(Mutex::new(ShareTable::new(bounds))))
    }

    /// Waits for a share, as one of those who have an interest in what it is for.
    ///
    /// # Errors
    /// `Overloaded` if there is none until then, or too many wait.
    pub(super) async fn get(
        &self,
        name: &CanonicalName,
        interest: &Interest,
        precedence: Precedence,
        until: Instant,
    ) -> Result<Share, Error> {
        loop {
            // From before it is filed, so that nobody who joins is missed.
            let mut changes = interest.changes();
            let known = changes.borrow_and_update().clone();
            let (ticket, granted) = self.lock().enter(name, interest, precedence);
            let mut queued = Queued { shares: self.clone(), ticket, granted };
            match timeout_at(until, queued.claim(&mut changes)).await {
                Ok(Ok(claim)) => {
                    let (shares, interest) = (self.clone(), interest.clone());
                    return Ok(Share { shares, claim, interest, is_yielding: false });
                }
                Ok(Err(_)) => {}
                Err(_) => return Err(Error::Overloaded),
            }
            // Turned away. Of those who come to wait for the same meanwhile, this says nothing.
            tokio::select! {
                biased;
                () = interest.grows_beyond(&known) => {}
                () = tokio::time::sleep_until(until.min(Instant::now() + TURNED_AWAY)) => {
                    return Err(Error::Overloaded);
                }
                () = interest.unwanted(Duration::ZERO) => return Err(Error::Overloaded),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, ShareTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queued {
    /// The share that was waited for; an error if it is not to be had.
    async fn claim(
        &mut self,
        changes: &mut watch::Receiver<Waiting>,
    ) -> Result<Claim, oneshot::error::RecvError> {
        loop {
            tokio::select! {
                biased;
                claim = &mut self.granted => return claim,
                // It cannot be closed: the interest holds its sender. Who has come may have what
                // the others may not.
                _ = changes.changed() => self.shares.lock().reconsider(&self.ticket),
            }
            // Thousands may come at once, and each look takes longer the more there are.
            tokio::select! {
                biased;
                claim = &mut self.granted => return claim,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }
}

impl Share {
    /// Resolves once the share should be given back, with whether that is because it `is_slow`:
    /// somebody waits, and it is slow, or nobody waits for what it is used for, or only the patient,
    /// or its asker has more than half of all while others have less.
    pub(super) async fn yielded(&mut self, mut is_slow: impl FnMut() -> bool) -> bool {
        loop {
            let is_slow = is_slow();
            if self.begin_yield(is_slow) {
                return is_slow;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    fn begin_yield(&mut self, is_slow: bool) -> bool {
        if !self.is_yielding {
            let unneeded = is_slow || self.interest.is_patient();
            self.is_yielding = self.shares.lock().begin_yield(&self.claim, unneeded);
        }
        self.is_yielding
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.lock().release(&self.claim, self.is_yielding);
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut table = self.shares.lock();
        table.leave(&self.ticket);
        // Granted, and not taken: whoever waited has left in that moment. After it was taken, this
        // finds nothing.
        if let Ok(claim) = self.granted.try_recv() {
            table.release(&claim, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use futures_util::future::BoxFuture;

    use super::super::asker::Asker;
    use super::super::interest::WaitingAsker;
    use super::super::share_queues::WAITING_MAX;
    use super::*;
    use crate::oci::{Repository, UpstreamName};

    fn name(repository: &str) -> CanonicalName {
        let (upstream, repository) = repository.split_once('/').expect("an upstream");
        CanonicalName {
            upstream: UpstreamName::parse(upstream).expect("valid"),
            repository: Repository::parse(repository).expect("valid"),
        }
    }

    /// Of one upstream.
    fn of_one(each: usize, reserve: Reserve) -> Shares {
        Shares::new(ShareBounds { all: None, each, reserve })
    }

    type Waits = BoxFuture<'static, Option<Share>>;

    fn wait(shares: &Shares, repository: &str, interest: &Interest, how: Precedence) -> Waits {
        let (shares, name, interest) = (shares.clone(), name(repository), interest.clone());
        let later = Instant::now() + Duration::from_hours(1);
        async move { shares.get(&name, &interest, how, later).await.ok() }.boxed()
    }

    fn get(shares: &Shares, repository: &str, who: u8) -> Waits {
        wait(shares, repository, &Interest::of(Asker::new(who)), Precedence::Wanted)
    }

    fn take(shares: &Shares, repository: &str, who: u8) -> Option<Share> {
        get(shares, repository, who).now_or_never().flatten()
    }

    fn has_come(waiting: &mut Waits) -> bool {
        waiting.now_or_never().is_some_and(|share| share.is_some())
    }

    fn begun(who: u8) -> (Interest, WaitingAsker) {
        Interest::begin(Asker::new(who))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_holds_least_comes_first_and_who_has_left_is_passed_over() {
        let shares = of_one(2, Reserve::None);
        let first = take(&shares, "acme.test/a", 1).expect("free");
        let _second = take(&shares, "acme.test/a", 1).expect("free");
        let [mut greedy, mut gone, mut other] =
            [1, 2, 3].map(|who| get(&shares, "acme.test/a", who));
        assert!(!has_come(&mut greedy) && !has_come(&mut gone) && !has_come(&mut other));
        drop(gone);
        drop(first);
        assert!(!has_come(&mut greedy), "it holds one");
        let other = other.now_or_never().flatten().expect("it holds none");
        drop(other);
        assert!(has_come(&mut greedy));
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_is_yielded_once_for_each_who_waits() {
        let shares = of_one(4, Reserve::None);
        let mut held: Vec<_> =
            (0..4).map(|_| take(&shares, "acme.test/a", 1).expect("free")).collect();
        assert!(!held[0].begin_yield(true), "nobody waits");
        let own = Interest::of(Asker::new(1_u8));
        let mut yielded = wait(&shares, "acme.test/a", &own, Precedence::Yielded);
        assert!(!has_come(&mut yielded));
        assert!(!held[0].begin_yield(true), "nobody who is wanted waits");
        let mut own = get(&shares, "acme.test/a", 1);
        assert!(!has_come(&mut own));
        assert!(!held[0].begin_yield(false), "only the asker itself waits");
        let mut others = get(&shares, "acme.test/a", 2);
        assert!(!has_come(&mut others));
        let yielding: Vec<_> = held.iter_mut().map(|share| share.begin_yield(false)).collect();
        assert_eq!(yielding, [true, false, false, false], "more than half, and one waits");
        held.remove(0);
        assert!(!has_come(&mut own));
        let _others = others.now_or_never().flatten().expect("it holds least");
        held.remove(0);
        assert!(!has_come(&mut yielded), "whoever is wanted comes first");
        assert!(has_come(&mut own));
    }

    #[tokio::test(start_paused = true)]
    async fn of_too_many_who_wait_the_newest_of_the_many_is_turned_away() {
        let shares = of_one(0, Reserve::None);
        let many = || get(&shares, "acme.test/many", 1);
        let mut queue: Vec<_> = (0..WAITING_MAX).map(|_| many()).collect();
        assert!(queue.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        let before = Instant::now();
        assert!(many().await.is_none());
        assert_eq!(before.elapsed(), TURNED_AWAY);
        let mut one = get(&shares, "acme.test/one", 1);
        assert!((&mut one).now_or_never().is_none(), "it waits");
        assert!(queue.pop().expect("the newest").await.is_none(), "turned away");
        assert!(!has_come(&mut get(&shares, "other.test/b", 1)), "of another upstream none waits");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_reserved_is_as_much_as_any_asker_has() {
        let shares = of_one(8, Reserve::AsMuch);
        let take = |who| take(&shares, "acme.test/a", who);
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
        let shares = of_one(0, Reserve::None);
        let mut first = get(&shares, "acme.test/one", 1);
        assert!((&mut first).now_or_never().is_none());
        let mut queue: Vec<_> =
            (1..WAITING_MAX).map(|_| get(&shares, "acme.test/many", 1)).collect();
        assert!(queue.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        let mut second = get(&shares, "acme.test/one", 1);
        assert!((&mut second).now_or_never().is_none());
        assert!(queue.pop().expect("the newest").await.is_none(), "turned away");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_followed_again_comes_before_what_nobody_follows() {
        let shares = of_one(1, Reserve::None);
        let held = take(&shares, "acme.test/a", 1).expect("free");
        let ((left, gone), (follows, first)) = (begun(2), begun(3));
        drop((gone, first));
        let mut left = wait(&shares, "acme.test/a", &left, Precedence::Wanted);
        let mut followed = wait(&shares, "acme.test/a", &follows, Precedence::Wanted);
        assert!(!has_come(&mut left) && !has_come(&mut followed));
        let _again = follows.join(Asker::new(4_u8));
        assert!(!has_come(&mut followed));
        drop(held);
        assert!(!has_come(&mut left), "nobody follows it, although it came first");
        assert!(has_come(&mut followed));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_waited_for_counts_for_everybody_who_waits_for_it() {
        let shares = of_one(2, Reserve::None);
        let [_kept, first] = [1, 1].map(|who| take(&shares, "acme.test/a", who).expect("free"));
        let ((flood, _floods), (popular, _asked)) = (begun(1), begun(1));
        let mut earlier = wait(&shares, "acme.test/a", &flood, Precedence::Wanted);
        let mut joined = wait(&shares, "acme.test/a", &popular, Precedence::Wanted);
        assert!(!has_come(&mut earlier) && !has_come(&mut joined));
        let _other = popular.join(Asker::new(2_u8));
        assert!(!has_come(&mut joined));
        drop(first);
        assert!(!has_come(&mut earlier));
        assert!(has_come(&mut joined), "the other has none");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_joins_may_have_what_the_first_may_not() {
        let shares = of_one(4, Reserve::AsMuch);
        let _held = [1, 1].map(|who| take(&shares, "acme.test/a", who).expect("free"));
        let (interest, _first) = begun(1);
        let mut waiting = wait(&shares, "acme.test/a", &interest, Precedence::Wanted);
        assert!(!has_come(&mut waiting), "half of them");
        let _other = interest.join(Asker::new(2_u8));
        assert!(has_come(&mut waiting));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_joins_what_was_turned_away_is_entered_again() {
        let shares = of_one(0, Reserve::None);
        let mut queue: Vec<_> = (0..WAITING_MAX).map(|_| get(&shares, "acme.test/a", 1)).collect();
        assert!(queue.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        let (interest, _first) = begun(1);
        let mut waiting = wait(&shares, "acme.test/a", &interest, Precedence::Wanted);
        assert!((&mut waiting).now_or_never().is_none());
        let _other = interest.join(Asker::new(2_u8));
        assert!(tokio::time::timeout(TURNED_AWAY * 2, &mut waiting).await.is_err(), "it waits");
        assert!(queue.pop().expect("the newest").await.is_none(), "turned away instead");
    }

    #[tokio::test(start_paused = true)]
    async fn the_patient_come_last_and_give_back_what_others_wait_for() {
        let shares = of_one(2, Reserve::None);
        let patient = |number: u8| Interest::of(Asker::patient(number));
        let wait = |of: &Interest| wait(&shares, "acme.test/a", of, Precedence::Wanted);
        let [mut first, mut second] =
            [1, 2].map(|who| wait(&patient(who)).now_or_never().flatten().expect("free"));
        let (joined, _warm) = Interest::begin(Asker::patient(3_u8));
        let [mut warm, mut popular] = [wait(&patient(3)), wait(&joined)];
        assert!(!has_come(&mut warm) && !has_come(&mut popular));
        assert!(!first.begin_yield(false), "only the patient wait");
        let mut client = get(&shares, "acme.test/a", 1);
        assert!(!has_come(&mut client));
        assert!(first.begin_yield(false) && !second.begin_yield(false), "one waits");
        let _client = joined.join(Asker::new(2_u8));
        assert!(!has_come(&mut popular));
        assert!(second.begin_yield(false), "what a client has joined is wanted");
        drop((first, second));
        let client = client.now_or_never().flatten().expect("it comes before the patient");
        let popular = popular.now_or_never().flatten().expect("a client waits for it");
        assert!(!has_come(&mut warm));
        drop((client, popular));
        assert!(has_come(&mut warm));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_holds_a_share_of_an_upstream_while_waiting_for_one_of_all() {
        let bounds = ShareBounds { all: Some(2), each: 1, reserve: Reserve::None };
        let shares = Shares::new(bounds);
        let a = take(&shares, "a.test/a", 1).expect("free");
        let b = take(&shares, "b.test/a", 1).expect("free");
        let mut waiting = get(&shares, "c.test/a", 1);
        let mut other = get(&shares, "a.test/a", 2);
        assert!(!has_come(&mut waiting) && !has_come(&mut other));
        drop(a);
        assert!(!has_come(&mut waiting), "it has some, and was first");
        let a = other.now_or_never().flatten().expect("it holds none");
        // What waits for all of them takes nothing of its upstream's.
        let mut third = get(&shares, "c.test/a", 3);
        assert!(!has_come(&mut third));
        drop(b);
        let waiting = waiting.now_or_never().flatten().expect("it holds none any more");
        assert!(!has_come(&mut third));
        drop((a, waiting));
        assert!(has_come(&mut third));
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_is_yielded_for_those_whom_it_helps() {
        let bounds = ShareBounds { all: Some(3), each: 2, reserve: Reserve::None };
        let shares = Shares::new(bounds);
        let mut a = take(&shares, "a.test/a", 1).expect("free");
        let _second = take(&shares, "a.test/a", 1).expect("free");
        let mut b = take(&shares, "b.test/a", 2).expect("free");
        let mut of_a = get(&shares, "a.test/a", 3);
        assert!(!has_come(&mut of_a));
        assert!(!b.begin_yield(true), "the upstream of whoever waits is full");
        assert!(a.begin_yield(true));
        let mut of_c = get(&shares, "c.test/a", 3);
        assert!(!has_come(&mut of_c));
        drop(a);
        let _of_a = of_a.now_or_never().flatten().expect("it came first");
        assert!(b.begin_yield(true), "the other waits for any");
    }
    #[tokio::test(start_paused = true)]
    async fn no_share_is_yielded_that_would_come_back_to_whoever_gave_it() {
        let bounds = ShareBounds { all: Some(4), each: 2, reserve: Reserve::None };
        let shares = Shares::new(bounds);
        let mut held: Vec<_> = ["a.test/a", "b.test/a", "c.test/a"]
            .iter()
            .map(|name| take(&shares, name, 1).expect("free"))
            .collect();
        let _half_of_d = take(&shares, "d.test/a", 2).expect("free");
        let mut own = get(&shares, "e.test/a", 1);
        let mut more_of_d = get(&shares, "d.test/a", 2);
        assert!(!has_come(&mut own) && !has_come(&mut more_of_d));
        assert!(!held[0].begin_yield(false), "the other has half of its upstream's, as much");
        let mut other = get(&shares, "e.test/a", 3);
        assert!(!has_come(&mut other));
        assert!(held[0].begin_yield(false));
        held.remove(0);
        assert!(!has_come(&mut own));
        assert!(has_come(&mut other), "it has none");
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_last_is_yielded_once_it_is_of_no_use_and_to_those_who_may_have_it() {
        let shares = of_one(3, Reserve::AsMuch);
        let mut many = [1, 1].map(|who| take(&shares, "acme.test/a", who).expect("free"));
        let mut few = take(&shares, "acme.test/a", 2).expect("free");
        let mut own = get(&shares, "acme.test/a", 1);
        assert!(!has_come(&mut own));
        assert!(!few.begin_yield(true), "the other has its part");
        let mut other = get(&shares, "acme.test/a", 4);
        assert!(!has_come(&mut other));
        assert!(!many[0].begin_yield(false), "it is needed");
        assert!(many[0].begin_yield(true));
    }

    #[tokio::test(start_paused = true)]
    async fn of_many_who_join_at_once_none_is_missed() {
        let shares = of_one(4, Reserve::AsMuch);
        let _held = [1, 1, 3].map(|who| take(&shares, "acme.test/a", who).expect("free"));
        let (interest, _first) = begun(1);
        let mut waiting = wait(&shares, "acme.test/a", &interest, Precedence::Wanted);
        assert!(!has_come(&mut waiting));
        let _third = interest.join(Asker::new(3_u8));
        assert!(!has_come(&mut waiting), "it has some");
        let _second = interest.join(Asker::new(2_u8));
        let before = Instant::now();
        assert!(waiting.await.is_some(), "the second has none");
        assert_eq!(before.elapsed(), LOOK_INTERVAL);
    }
}
