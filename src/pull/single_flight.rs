//! One run of a piece of work for all callers who need it at the same time.
//!
//! The work is a task of its own: a caller that leaves, even the first, changes nothing for the
//! others. When all have left it is cancelled, unless it is of use without them (SHARE-1). What it
//! needs is asked for by all who wait for it.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::Shared;

use super::interest::{Behalf, Interest};
use super::tasks::Tasks;

type Run<T> = Shared<Pin<Box<dyn Future<Output = Option<T>> + Send>>>;

type Runs<K, T> = Mutex<HashMap<K, OpenRun<T>>>;

/// A run that can be joined.
struct OpenRun<T> {
    serial: u64,
    run: Run<T>,
    interest: Interest,
    unwanted: Unwanted,
}

/// Runs for those who ask.
pub(super) struct SingleFlight<K, T> {
    runs: Arc<Runs<K, T>>,
    serial: AtomicU64,
    tasks: Tasks,
}

/// What becomes of a run for which nobody waits any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwanted {
    Cancelled,
    /// What it finds out is of use to whoever comes next.
    Finished,
}

impl<K, T> SingleFlight<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(super) fn new(tasks: Tasks) -> Self {
        Self { runs: Arc::default(), serial: AtomicU64::new(0), tasks }
    }

    /// Joins the run for `key`, or starts `work`. `None` if the work panicked or the process is
    /// ending.
    pub(super) async fn run<W>(
        &self,
        key: K,
        behalf: &Behalf,
        unwanted: Unwanted,
        work: impl FnOnce(Interest) -> W,
    ) -> Option<T>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let asker = behalf.asker();
        let (run, interest, waiter) = {
            let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(open) = runs.get(&key).filter(|open| open.can_be_joined()) {
                (open.run.clone(), open.interest.clone(), open.interest.join(asker))
            } else {
                // Started under the lock: a run that ends at once waits for it before it takes
                // itself off the table, so that it cannot do so before it is entered.
                let serial = self.serial.fetch_add(1, Ordering::Relaxed);
                let (interest, waiter) = Interest::begin(asker);
                let run = self.start((serial, key.clone()), &interest, unwanted, work);
                let open =
                    OpenRun { serial, run: run.clone(), interest: interest.clone(), unwanted };
                runs.insert(key, open);
                (run, interest, waiter)
            }
        };
        let Behalf::All(larger) = behalf else { return run.await };
        let joined = interest.join_all(larger);
        drop(waiter);
        joined.during(run).await
    }

    fn start<W>(
        &self,
        (serial, key): (u64, K),
        interest: &Interest,
        unwanted: Unwanted,
        work: impl FnOnce(Interest) -> W,
    ) -> Run<T>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let entry = RunEntry { key, serial, runs: Arc::clone(&self.runs) };
        let (work, interest) = (work(interest.clone()), interest.clone());
        let task = self.tasks.spawn(async move {
            let _entry = entry; // dropped with the task, also if that panics or is cancelled
            tokio::select! {
                done = work => Some(done),
                () = interest.unwanted_for_long(), if unwanted == Unwanted::Cancelled => None,
            }
        });
        async move { task.await.ok().flatten().flatten() }.boxed().shared()
    }
}

impl<T> OpenRun<T> {
    /// One that is about to be cancelled may end by the deadline of those who have left.
    fn can_be_joined(&self) -> bool {
        self.unwanted == Unwanted::Finished || !self.interest.is_unwanted()
    }
}

/// A run's place on the table. Dropping it takes the run off, so that nobody joins one that has
/// ended.
struct RunEntry<K: Eq + Hash, T> {
    key: K,
    serial: u64,
    runs: Arc<Runs<K, T>>,
}

impl<K: Eq + Hash, T> Drop for RunEntry<K, T> {
    fn drop(&mut self) {
        let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was cancelled may have been followed by another.
        if runs.get(&self.key).is_some_and(|open| open.serial == self.serial) {
            runs.remove(&self.key);
        }
    }
}

impl<K, T> fmt::Debug for SingleFlight<K, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::sync::Semaphore;

    use super::super::asker::Asker;
    use super::*;

    fn somebody() -> Behalf {
        Behalf::One(Asker::default())
    }

    #[tokio::test]
    async fn everyone_gets_the_one_result_although_the_first_caller_leaves() {
        let who = somebody();
        let flights = Arc::new(SingleFlight::<u8, usize>::new(Tasks::default()));
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let work = |_| {
            let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
            async move {
                let run = runs.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.expect("open").forget();
                run
            }
        };
        assert!(
            flights.run(1, &who, Unwanted::Finished, work).now_or_never().is_none(),
            "the first caller leaves while it waits"
        );
        let waiting = futures_util::future::join(
            flights.run(1, &who, Unwanted::Finished, work),
            flights.run(1, &who, Unwanted::Finished, work),
        );
        gate.add_permits(1);
        assert_eq!(waiting.await, (Some(0), Some(0)));
        gate.add_permits(1);
        assert_eq!(
            flights.run(1, &who, Unwanted::Finished, work).await,
            Some(1),
            "a run that has ended is not joined"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_is_cancelled_and_begun_anew() {
        let who = somebody();
        let flights = SingleFlight::<u8, usize>::new(Tasks::default());
        let running = Arc::new(());
        let endless = |_| {
            let running = Arc::clone(&running);
            async move {
                std::future::pending::<()>().await;
                drop(running);
                0
            }
        };
        assert!(flights.run(1, &who, Unwanted::Cancelled, endless).now_or_never().is_none());
        assert_eq!(flights.run(1, &who, Unwanted::Cancelled, |_| async { 7 }).await, Some(7));
        while Arc::strong_count(&running) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_panic_reaches_nobody_and_leaves_nothing_behind() {
        let who = somebody();
        let flights = SingleFlight::<u8, usize>::new(Tasks::default());
        assert_eq!(
            flights.run(1, &who, Unwanted::Cancelled, |_| async { panic!("on purpose") }).await,
            None
        );
        assert_eq!(flights.run(1, &who, Unwanted::Cancelled, |_| async { 7 }).await, Some(7));
    }
}
