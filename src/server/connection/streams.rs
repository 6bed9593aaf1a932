//! The streams of one HTTP/2 connection, one for each request.
//!
//! hyper runs each stream as a task on an executor. It polls no body while the client's flow
//! control window is shut, so a body cannot notice that its client takes nothing. The task is
//! watched from here instead, and dropped when its bytes have waited too long: h2 then resets that
//! stream alone, and the others on the connection go on.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::sync::watch;
use tokio::time::Instant;

use super::delivery::Delivery;

/// hyper's executor for the streams of one connection; clones share it.
#[derive(Clone, Debug)]
pub(in crate::server) struct StreamExecutor {
    /// How long bytes may wait for their client.
    send_idle: Duration,
    open_streams: Arc<watch::Sender<usize>>,
    /// The delivery of the stream that `execute` gets next.
    next_delivery: Arc<Mutex<Option<Arc<Delivery>>>>,
}

impl StreamExecutor {
    pub(in crate::server) fn new(send_idle: Duration) -> Self {
        let open_streams = Arc::new(watch::Sender::new(0));
        Self { send_idle, open_streams, next_delivery: Arc::default() }
    }

    /// Hands over the delivery of the next stream. hyper calls `execute` right after the service,
    /// in the same poll, and says nothing about which request the stream is for; no other request
    /// can come between the two.
    pub(in crate::server) fn set_next_delivery(&self, delivery: Arc<Delivery>) {
        *self.next_delivery.lock().unwrap_or_else(PoisonError::into_inner) = Some(delivery);
    }

    /// Resolves once no stream has been open for `idle` on end, counted from the call at the
    /// earliest.
    pub(in crate::server) async fn idle_for(&self, idle: Duration) {
        let mut open_streams = self.open_streams.subscribe();
        loop {
            let busy = *open_streams.borrow_and_update() > 0;
            if busy {
                // Never an error: the sender lives in `self`.
                let _ = open_streams.changed().await;
            } else if tokio::time::timeout(idle, open_streams.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let delivery = self
            .next_delivery
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .unwrap_or_default();
        let (open, send_idle) = (OpenStream::new(&self.open_streams), self.send_idle);
        tokio::spawn(async move {
            let _open = open;
            run_stream(stream, &delivery, send_idle).await;
        });
    }
}

/// Runs one stream until it ends, or until its bytes have waited for `send_idle`.
async fn run_stream(stream: impl Future<Output = ()>, delivery: &Delivery, send_idle: Duration) {
    let mut stream = pin!(stream);
    // With nothing waiting now, the next look may be late, but by no more than `send_idle`.
    let next_check =
        || delivery.stalled_at(send_idle).unwrap_or_else(|| Instant::now() + send_idle);
    loop {
        tokio::select! {
            () = &mut stream => return,
            () = tokio::time::sleep_until(next_check()) => {}
        }
        if delivery.stalled_at(send_idle).is_some_and(|at| at <= Instant::now()) {
            delivery.set_stalled();
            return;
        }
    }
}

/// Counts as an open stream for as long as it lives.
#[derive(Debug)]
struct OpenStream(Arc<watch::Sender<usize>>);

impl OpenStream {
    fn new(open_streams: &Arc<watch::Sender<usize>>) -> Self {
        open_streams.send_modify(|count| *count += 1);
        Self(Arc::clone(open_streams))
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
