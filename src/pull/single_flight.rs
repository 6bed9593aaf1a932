//! One run of a piece of work for all callers who need it at the same time.
//!
//! The work is a task of its own: a caller that leaves, even the first, changes nothing for the
//! others.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::Shared;

use super::tasks::Tasks;

type Run<T> = Shared<Pin<Box<dyn Future<Output = Option<T>> + Send>>>;

/// Runs in progress by what they are for.
pub(super) struct SingleFlight<K, T> {
    runs: Arc<Mutex<HashMap<K, Run<T>>>>,
    tasks: Tasks,
}

impl<K, T> SingleFlight<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(super) fn new(tasks: Tasks) -> Self {
        Self { runs: Arc::default(), tasks }
    }

    /// Joins the run for `key`, or starts `work`. `None` if the work panicked or the process is
    /// ending.
    pub(super) async fn run<W>(&self, key: K, work: impl FnOnce() -> W) -> Option<T>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let run = {
            let mut runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(run) = runs.get(&key) {
                run.clone()
            } else {
                // Started under the lock: a run that ends at once waits for it before it takes
                // itself off the table, so that it cannot do so before it is entered.
                let run = self.start(key.clone(), work());
                runs.insert(key, run.clone());
                run
            }
        };
        run.await
    }

    fn start(&self, key: K, work: impl Future<Output = T> + Send + 'static) -> Run<T> {
        let entry = RunEntry { key, runs: Arc::clone(&self.runs) };
        let task = self.tasks.spawn(async move {
            let _entry = entry; // dropped with the task, also if that panics or is cancelled
            work.await
        });
        task.map(|ended| ended.ok().flatten()).boxed().shared()
    }
}

/// A run's place on the table. Dropping it takes the run off, so that nobody joins one that has
/// ended.
struct RunEntry<K: Eq + Hash, T> {
    key: K,
    runs: Arc<Mutex<HashMap<K, Run<T>>>>,
}

impl<K: Eq + Hash, T> Drop for RunEntry<K, T> {
    fn drop(&mut self) {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
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

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn everyone_gets_the_one_result_although_the_first_caller_leaves() {
        let flights = Arc::new(SingleFlight::<u8, usize>::new(Tasks::default()));
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let work = || {
            let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
            async move {
                let run = runs.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.expect("open").forget();
                run
            }
        };
        assert!(
            flights.run(1, work).now_or_never().is_none(),
            "the first caller leaves while it waits"
        );
        let waiting = futures_util::future::join(flights.run(1, work), flights.run(1, work));
        gate.add_permits(1);
        assert_eq!(waiting.await, (Some(0), Some(0)));
        gate.add_permits(1);
        assert_eq!(flights.run(1, work).await, Some(1), "a run that has ended is not joined");
    }

    #[tokio::test]
    async fn a_panic_reaches_nobody_and_leaves_nothing_behind() {
        let flights = SingleFlight::<u8, usize>::new(Tasks::default());
        assert_eq!(flights.run(1, || async { panic!("on purpose") }).await, None);
        assert_eq!(flights.run(1, || async { 7 }).await, Some(7));
    }
}
