//! The requests of one HTTP/2 connection. hyper runs each as a task, and polls no body while its
//! client keeps the flow control window shut; so the task is watched from outside, and dropped if
//! its bytes get nowhere: h2 then resets that stream alone.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::sync::watch;
use tokio::time::Instant;

use super::delivery::{Delivery, Outbound};

#[derive(Clone, Debug)]
pub(in crate::server) struct Streams {
    /// How long bytes may wait for their client.
    patience: Duration,
    open: Arc<watch::Sender<usize>>,
    /// Of the request that hyper has just handed over and will run next, which it does in the same
    /// turn.
    next: Arc<Mutex<Option<Arc<Delivery>>>>,
}

impl Streams {
    pub(in crate::server) fn new(patience: Duration) -> Self {
        Self { patience, open: Arc::new(watch::Sender::new(0)), next: Arc::default() }
    }

    /// What hyper runs next answers by `outbound`.
    pub(in crate::server) fn expect(&self, outbound: &Outbound) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Arc::clone(outbound.delivery()));
    }

    /// Resolves once there has been no stream for this long, from now on.
    pub(in crate::server) async fn quiet(&self, long: Duration) {
        let mut open = self.open.subscribe();
        loop {
            let busy = *open.borrow_and_update() > 0;
            // The sender lives in `self`, so what comes is a change.
            if busy {
                let _ = open.changed().await;
            } else if tokio::time::timeout(long, open.changed()).await.is_err() {
                return;
            }
        }
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let delivery =
            self.next.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        let (open, patience) = (Open::one(&self.open), self.patience);
        tokio::spawn(async move {
            let _open = open;
            to_its_end(stream, &delivery, patience).await;
        });
    }
}

/// One stream, until it ends or its bytes have waited for `patience`.
async fn to_its_end(stream: impl Future<Output = ()>, delivery: &Delivery, patience: Duration) {
    let mut stream = pin!(stream);
    let next_look = || delivery.overdue_at(patience).unwrap_or_else(|| Instant::now() + patience);
    loop {
        tokio::select! {
            () = &mut stream => return,
            () = tokio::time::sleep_until(next_look()) => {}
        }
        if delivery.overdue_at(patience).is_some_and(|at| at <= Instant::now()) {
            delivery.give_up();
            return;
        }
    }
}

/// Counts for as long as it lives.
#[derive(Debug)]
struct Open(Arc<watch::Sender<usize>>);

impl Open {
    fn one(open: &Arc<watch::Sender<usize>>) -> Self {
        open.send_modify(|open| *open += 1);
        Self(Arc::clone(open))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}
