//! The I/O pool: the only threads that block on the disk.
//!
//! Disk work gets threads of its own, so that a slow disk never takes them from name resolution,
//! nor the other way round.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio_util::task::TaskTracker;

use super::Error;

/// Threads that may block on the disk at once (DESIGN §14.12).
const THREADS: usize = 8;

/// Runs blocking jobs in the order they come. Callers hold at most one job each, which bounds the
/// queue.
#[derive(Debug)]
pub(super) struct IoPool {
    runtime: Option<Runtime>,
    jobs: TaskTracker,
}

impl IoPool {
    pub(super) fn new() -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .max_blocking_threads(THREADS)
            .thread_name("roadstead-io")
            .build()?;
        Ok(Self { runtime: Some(runtime), jobs: TaskTracker::new() })
    }

    /// Starts `job` at once; the future only waits for it.
    ///
    /// # Errors
    /// Those of the job, or [`Error::Closed`] if the pool went away first.
    pub(super) fn run<T, F>(
        &self,
        job: F,
    ) -> impl Future<Output = Result<T, Error>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, Error> + Send + 'static,
    {
        let counted = self.jobs.token();
        let job = move || {
            let result = job();
            drop(counted);
            result
        };
        let started = self.runtime.as_ref().map(|runtime| runtime.spawn_blocking(job));
        async move {
            match started {
                Some(handle) => handle.await.unwrap_or(Err(Error::Closed)),
                None => Err(Error::Closed),
            }
        }
    }

    /// Waits until no job is left.
    pub(super) async fn close(&self) {
        self.jobs.close();
        self.jobs.wait().await;
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
