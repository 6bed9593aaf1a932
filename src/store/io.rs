//! The I/O pool: the only threads that block on the disk.
//!
//! Disk work gets threads of its own, so that a slow disk never takes them from name resolution,
//! nor the other way round.
//!
//! Every failure is counted here, once: as the answer of its job, or by [`IoPool::count`] where a
//! job goes on without what failed. Callers only decide what a failure means to them.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use super::{Error, StageError};
use crate::metrics::Metrics;

/// Threads that may block on the disk at once (DESIGN §14.12).
const IO_THREADS: usize = 8;

/// Runs blocking jobs in the order they come. Callers hold at most one job each, which bounds the
/// queue.
#[derive(Debug)]
pub(super) struct IoPool {
    runtime: Option<Runtime>,
    jobs: TaskTracker,
    metrics: Arc<Metrics>,
    /// Set in a test that decides in which order everything happens: each job runs where it is
    /// started, after a call of this.
    #[cfg(test)]
    step: std::sync::OnceLock<fn()>,
}

/// A job that has been started, or was not.
enum Started<T> {
    Thread(JoinHandle<T>),
    #[cfg(test)]
    Done(T),
    Closed,
}

impl IoPool {
    pub(super) fn new(metrics: Arc<Metrics>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(IO_THREADS)
            .thread_name("roadstead-io")
            .build()?;
        Ok(Self {
            runtime: Some(runtime),
            jobs: TaskTracker::new(),
            metrics,
            #[cfg(test)]
            step: std::sync::OnceLock::new(),
        })
    }

    /// Starts `job` at once; the future only waits for it.
    ///
    /// # Errors
    /// Those of the job, or [`Error::Closed`] if the pool went away first.
    pub(super) fn run<T, E, F>(
        &self,
        job: F,
    ) -> impl Future<Output = Result<T, E>> + Send + use<T, E, F>
    where
        T: Send + 'static,
        E: JobError,
        F: FnOnce() -> Result<T, E> + Send + 'static,
    {
        let (token, metrics) = (self.jobs.token(), Arc::clone(&self.metrics));
        // Counted in the job and not in the future: a client that leaves drops the future, but the
        // disk has failed all the same.
        let job = move || {
            let result = job();
            if let Some(error) = result.as_ref().err().and_then(E::failure) {
                count(&metrics, error);
            }
            drop(token);
            result
        };
        let started = self.start(job);
        async move {
            match started {
                Started::Thread(handle) => handle.await.unwrap_or(Err(Error::Closed.into())),
                #[cfg(test)]
                Started::Done(result) => result,
                Started::Closed => Err(Error::Closed.into()),
            }
        }
    }

    fn start<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Started<T> {
        #[cfg(test)]
        if let Some(step) = self.step.get() {
            step();
            return Started::Done(job());
        }
        let started = self.runtime.as_ref().map(|runtime| runtime.spawn_blocking(job));
        started.map_or(Started::Closed, Started::Thread)
    }

    /// Counts a failure that a job does not answer with.
    pub(super) fn count(&self, error: &Error) {
        count(&self.metrics, error);
    }

    /// Waits until no job is left.
    pub(super) async fn close(&self) {
        self.jobs.close();
        self.jobs.wait().await;
    }
}

fn count(metrics: &Metrics, error: &Error) {
    metrics.store.errors.with_label_values(&[error.operation()]).inc();
}

/// What a job may answer with instead of its result.
pub(super) trait JobError: From<Error> + Send + 'static {
    /// The failed operation; `None` if the answer is no failure of the disk.
    fn failure(&self) -> Option<&Error>;
}

impl JobError for Error {
    fn failure(&self) -> Option<&Error> {
        Some(self)
    }
}

impl JobError for StageError {
    fn failure(&self) -> Option<&Error> {
        match self {
            Self::Failed(error) => Some(error),
            Self::NoRoom => None,
        }
    }
}

#[cfg(test)]
impl IoPool {
    pub(super) fn run_jobs_after(&self, step: fn()) {
        self.step.get_or_init(|| step);
    }
}

impl Drop for IoPool {
    fn drop(&mut self) {
        // A runtime must not be waited for inside another; jobs under way end by themselves.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, CanonicalName, Digest, Repository, UpstreamName};
    use crate::store::{BlobStore, EvictionClass, Use};

    fn errors(store: &BlobStore, operation: &str) -> u64 {
        store.0.metrics.store.errors.with_label_values(&[operation]).get()
    }

    /// Tables that are gone, so that every query fails.
    fn break_records(store: &BlobStore) {
        let connection = rusqlite::Connection::open(store.0.layout.database()).expect("tables");
        connection.execute_batch("DROP TABLE blobs; DROP TABLE members;").expect("dropped");
    }

    #[tokio::test]
    async fn a_failed_answer_is_counted_once_and_a_lack_of_room_is_none() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = BlobStore::in_test(directory.path());
        let failed = || Error::file("write", directory.path())(io::ErrorKind::NotFound.into());
        let error = failed();
        store.0.pool.run(move || Err::<(), _>(error)).await.expect_err("as the job said");
        assert_eq!(errors(&store, "write"), 1);
        let error = failed();
        let job = store.0.pool.run(move || Err::<(), _>(StageError::Failed(error)));
        job.await.expect_err("as the job said");
        assert_eq!(errors(&store, "write"), 2);
        let job = store.0.pool.run(|| Err::<(), _>(StageError::NoRoom));
        job.await.expect_err("as the job said");
        assert_eq!(errors(&store, "write"), 2);
    }

    #[tokio::test]
    async fn nobody_has_to_wait_for_a_failure_to_be_counted() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = BlobStore::in_test(directory.path());
        let error = Error::file("write", directory.path())(io::ErrorKind::NotFound.into());
        drop(store.0.pool.run(move || Err::<(), _>(error)));
        store.close().await;
        assert_eq!(errors(&store, "write"), 1);
    }

    #[tokio::test]
    async fn a_failure_of_the_records_is_counted_once_whether_answered_or_gone_on_without() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = BlobStore::in_test(directory.path());
        let name = CanonicalName {
            upstream: UpstreamName::parse("docker.io").expect("a name"),
            repository: Repository::parse("a/b").expect("a name"),
        };
        let digest = Digest::of(Algorithm::Sha256, b"stored");
        std::fs::create_dir_all(store.0.layout.shelf(&digest)).expect("the directory is ours");
        std::fs::write(store.0.layout.blob(&digest), b"stored").expect("the directory is ours");
        store.0.index().insert(&digest, 6, EvictionClass::Blob, 0);
        break_records(&store);
        store.records().member(&name, &digest).await.expect_err("there is no such table");
        assert_eq!(errors(&store, "read"), 1);
        // The stamp cannot be read; the content is hashed and served, and not recorded.
        assert!(store.open(&digest, Use::Whole).await.expect("it can be opened").is_some());
        assert_eq!((errors(&store, "read"), errors(&store, "write")), (2, 1));
    }
}
