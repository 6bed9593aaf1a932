//! Work that belongs to no request: it goes on when whoever started it leaves, and ends with the
//! process.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Clones share the tasks.
#[derive(Clone, Debug, Default)]
pub(super) struct Tasks {
    running: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Runs `work`; the handle gives `None` if the process ended first.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        self.running.spawn(self.stop.clone().run_until_cancelled_owned(work))
    }

    /// Cancels all work and waits until it is gone, so that nothing uses the store afterwards.
    pub(super) async fn stop(&self) {
        self.stop.cancel();
        self.running.close();
        self.running.wait().await;
    }
}
