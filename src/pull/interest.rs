//! Who waits for a piece of work that many may share: a download, a question. What it needs is
//! theirs, of all of them at once, and for as long as they wait (SHARE-1).

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::asker::Asker;

/// How long work goes on for which nobody waits, if it is of no use by itself. Whoever has just
/// given up may ask again at once, and a question may have the deadline of whoever asked, so that
/// its end tells something of the upstream.
const LONG_UNWANTED: Duration = Duration::from_secs(1);

/// Clones speak of the same work.
#[derive(Clone, Debug)]
pub(super) struct Interest {
    /// Whose it is while nobody waits.
    starter: Asker,
    waiting: Arc<watch::Sender<Waiting>>,
}

/// For whom something is done: for one, or for all who wait for a larger piece of work.
#[derive(Clone, Debug)]
pub(super) enum Behalf {
    One(Asker),
    All(Interest),
}

/// How often each waits.
pub(super) type Waiting = BTreeMap<Asker, usize>;

/// One who waits, until it is dropped.
#[derive(Debug)]
pub(super) struct WaitingAsker {
    interest: Interest,
    asker: Asker,
}

impl Behalf {
    /// Whose it is, or was begun by.
    pub(super) fn asker(&self) -> Asker {
        match self {
            Self::One(asker) => *asker,
            Self::All(interest) => interest.starter,
        }
    }

    /// In what ends when these leave.
    pub(super) fn interest(&self) -> Interest {
        match self {
            Self::One(asker) => Interest::of(*asker),
            Self::All(interest) => interest.clone(),
        }
    }
}

impl Interest {
    /// In what ends when this asker leaves.
    pub(super) fn of(asker: Asker) -> Self {
        let waiting = Arc::new(watch::Sender::new(Waiting::from([(asker, 1)])));
        Self { starter: asker, waiting }
    }

    /// In what goes on without this asker, who is the first to wait for it.
    pub(super) fn begin(asker: Asker) -> (Self, WaitingAsker) {
        let interest = Self::of(asker);
        (interest.clone(), WaitingAsker { interest, asker })
    }

    /// One more who waits.
    pub(super) fn join(&self, asker: Asker) -> WaitingAsker {
        self.waiting.send_if_modified(|waiting| {
            let count = waiting.entry(asker).or_default();
            *count += 1;
            *count == 1
        });
        WaitingAsker { interest: self.clone(), asker }
    }

    /// Lets whoever waits for `larger`, from now on and for as long as they do, wait for this too.
    pub(super) fn join_all(&self, larger: &Self) -> JoinedAskers {
        let (interest, larger) = (self.clone(), larger.clone());
        let changes = larger.changes();
        let mut joined = JoinedAskers { interest, larger, changes, waiting: BTreeMap::new() };
        joined.update();
        joined
    }

    pub(super) fn is_unwanted(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Whether nobody waits who would mind that others come first (WARM-2).
    pub(super) fn is_patient(&self) -> bool {
        self.waiting.borrow().keys().all(|asker| asker.is_patient())
    }

    /// Whether this holds for any who waits.
    pub(super) fn any(&self, holds: impl Fn(Asker) -> bool) -> bool {
        self.waiting.borrow().keys().any(|asker| holds(*asker))
    }

    /// Those who wait, sorted, or whoever began it if nobody does.
    pub(super) fn askers(&self) -> Vec<Asker> {
        let waiting = self.waiting.borrow();
        if waiting.is_empty() { vec![self.starter] } else { waiting.keys().copied().collect() }
    }

    /// Tells of every asker who comes or leaves.
    pub(super) fn changes(&self) -> watch::Receiver<Waiting> {
        self.waiting.subscribe()
    }

    /// Resolves once somebody waits who is not among `known`.
    pub(super) async fn grows_beyond(&self, known: &Waiting) {
        let is_new = |waiting: &Waiting| waiting.keys().any(|asker| !known.contains_key(asker));
        // It cannot be closed: this holds the sender.
        drop(self.changes().wait_for(is_new).await);
    }

    /// Resolves once nobody has waited for `patience`.
    pub(super) async fn unwanted(&self, patience: Duration) {
        let mut changes = self.changes();
        loop {
            drop(changes.wait_for(Waiting::is_empty).await);
            let wanted = timeout(patience, changes.wait_for(|waiting| !waiting.is_empty()));
            if wanted.await.is_err() {
                return;
            }
        }
    }

    /// Resolves once nobody has waited for so long that the work may be given up.
    pub(super) async fn unwanted_for_long(&self) {
        self.unwanted(LONG_UNWANTED).await;
    }
}

/// Those who wait for a piece of work that is a part of another, until it is dropped.
#[derive(Debug)]
pub(super) struct JoinedAskers {
    interest: Interest,
    larger: Interest,
    changes: watch::Receiver<Waiting>,
    waiting: BTreeMap<Asker, WaitingAsker>,
}

impl JoinedAskers {
    fn update(&mut self) {
        let now = self.larger.askers();
        for asker in &now {
            self.waiting.entry(*asker).or_insert_with(|| self.interest.join(*asker));
        }
        self.waiting.retain(|asker, _| now.binary_search(asker).is_ok());
    }

    /// The outcome of `work`, while they come and leave.
    pub(super) async fn during<T>(mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                // It cannot be closed: this holds the sender.
                _ = self.changes.changed() => self.update(),
            }
        }
    }
}

impl Drop for WaitingAsker {
    fn drop(&mut self) {
        self.interest.waiting.send_if_modified(|waiting| {
            let Some(count) = waiting.get_mut(&self.asker) else { return false };
            *count -= 1;
            let has_left = *count == 0;
            if has_left {
                waiting.remove(&self.asker);
            }
            has_left
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_is_unwanted_when_all_have_left_and_for_long_a_moment_later() {
        let (interest, first) = Interest::begin(Asker::new(1));
        let second = interest.join(Asker::new(2));
        drop(first);
        assert_eq!(interest.askers(), [Asker::new(2)]);
        assert!(
            tokio::time::timeout(LONG_UNWANTED * 2, interest.unwanted_for_long()).await.is_err()
        );
        drop(second);
        assert!(interest.is_unwanted() && interest.unwanted_for_long().now_or_never().is_none());
        assert_eq!(interest.askers(), [Asker::new(1)], "who began it");
        interest.unwanted_for_long().await;
    }

    #[tokio::test]
    async fn whoever_waits_for_the_whole_waits_for_its_part() {
        let (whole, first) = Interest::begin(Asker::new(1));
        let (part, own) = Interest::begin(Asker::new(1));
        let mut joined = Box::pin(part.join_all(&whole).during(std::future::pending::<()>()));
        drop(own);
        let _second = whole.join(Asker::new(2));
        assert!((&mut joined).now_or_never().is_none());
        assert!(part.any(|who| who == Asker::new(1)) && part.any(|who| who == Asker::new(2)));
        drop(first);
        assert!((&mut joined).now_or_never().is_none());
        assert_eq!(part.askers(), [Asker::new(2)]);
        drop(joined);
        assert!(part.is_unwanted());
    }

    #[tokio::test]
    async fn it_grows_by_others_and_not_by_those_who_wait() {
        let (interest, _first) = Interest::begin(Asker::new(1));
        let known = interest.changes().borrow().clone();
        let grows = interest.grows_beyond(&known);
        tokio::pin!(grows);
        assert!((&mut grows).now_or_never().is_none());
        let _same = interest.join(Asker::new(1));
        assert!((&mut grows).now_or_never().is_none());
        let _other = interest.join(Asker::new(2));
        assert!(grows.now_or_never().is_some());
    }
}
