//! What the socket of a connection and the answers on it tell each other.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::Slice;

/// What is being sent on a connection; shared by its socket and the answers on it.
#[derive(Clone, Debug)]
pub(in crate::server) struct Sending(Arc<SendingState>);

/// Something that ends when it is dropped: an answer that is written to the log then.
type Held = Arc<dyn Any + Send + Sync>;

struct SendingState {
    /// TLS reads what it sends, so bodies must be bytes in user space: no slices of a mapping, which
    /// only the kernel may read (DESIGN §14.11).
    tls: bool,
    /// Bytes that the kernel has taken, heads and framing included.
    sent: AtomicU64,
    /// Slices that hyper has been given and has not written yet, oldest first. Each keeps its
    /// mapping in place, so that no other memory can have its addresses.
    slices: Mutex<VecDeque<Slice>>,
    /// Answers that TLS has taken the last bytes of, and the kernel perhaps not yet; none once the
    /// connection is gone.
    unflushed: Mutex<Option<Vec<Held>>>,
}

impl fmt::Debug for SendingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendingState").field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl Sending {
    pub(in crate::server) fn new(tls: bool) -> Self {
        let unflushed = Mutex::new(tls.then(Vec::new));
        Self(Arc::new(SendingState {
            tls,
            sent: AtomicU64::new(0),
            slices: Mutex::default(),
            unflushed,
        }))
    }

    /// The way out for one more answer.
    pub(in crate::server) fn answer(&self) -> Outbound {
        Outbound { sending: self.clone(), delivery: Arc::default() }
    }

    pub(in crate::server) fn add_sent(&self, count: usize) {
        self.0.sent.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// The kernel has taken everything so far.
    pub(in crate::server) fn flushed(&self) {
        let sent = self.unflushed().as_mut().map(std::mem::take);
        drop(sent);
    }

    /// Nothing more will be sent.
    pub(in crate::server) fn close(&self) {
        let left = self.unflushed().take();
        drop(left);
    }

    fn unflushed(&self) -> MutexGuard<'_, Option<Vec<Held>>> {
        self.0.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `bytes` are a part of a slice that is to be written.
    pub(in crate::server) fn knows(&self, bytes: &[u8]) -> bool {
        self.slices().iter().any(|slice| slice.position(bytes).is_some())
    }

    /// The slice that `bytes` are a part of, and where. Slices before it have been written.
    pub(in crate::server) fn recognise(&self, bytes: &[u8]) -> Option<(Slice, usize)> {
        let mut slices = self.slices();
        let (index, position) = slices
            .iter()
            .enumerate()
            .find_map(|(index, slice)| Some((index, slice.position(bytes)?)))?;
        slices.drain(..index);
        Some((slices.front()?.clone(), position))
    }

    fn slices(&self) -> MutexGuard<'_, VecDeque<Slice>> {
        self.0.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One answer on its way out.
#[derive(Clone, Debug)]
pub(in crate::server) struct Outbound {
    sending: Sending,
    delivery: Arc<Delivery>,
}

impl Outbound {
    /// Bytes that the whole connection has sent.
    pub(in crate::server) fn sent(&self) -> u64 {
        self.sending.0.sent.load(Ordering::Relaxed)
    }

    /// Whether bodies have to be bytes in user space, and not slices of a mapping.
    pub(in crate::server) fn tls(&self) -> bool {
        self.sending.0.tls
    }

    pub(in crate::server) fn delivery(&self) -> &Arc<Delivery> {
        &self.delivery
    }

    /// Keeps an answer from ending until the kernel has what TLS took of it.
    pub(in crate::server) fn hold_until_flushed(&self, answer: Held) {
        if let Some(unflushed) = self.sending.unflushed().as_mut() {
            unflushed.push(answer);
        }
    }

    /// Notes that the bytes of `slice` will come to be written.
    pub(in crate::server) fn expect(&self, slice: Slice) {
        self.sending.slices().push_back(slice);
    }

    /// Forgets the slices of a body that has ended.
    pub(in crate::server) fn expect_nothing(&self) {
        self.sending.slices().clear();
    }
}

/// How far the body of one answer has got.
#[derive(Debug, Default)]
pub(in crate::server) struct Delivery(Mutex<DeliveryState>);

#[derive(Debug, Default)]
struct DeliveryState {
    /// Bytes that hyper was given.
    given: u64,
    /// Bytes of these that it has written.
    written: u64,
    /// When bytes began to wait, or the last of them went on.
    moved: Option<Instant>,
    /// Waits until everything is written.
    waker: Option<Waker>,
    given_up: bool,
}

impl Delivery {
    pub(in crate::server) fn give(&self, count: usize) {
        let mut progress = self.progress();
        if progress.is_even() {
            progress.moved = Some(Instant::now());
        }
        progress.given += count as u64;
    }

    pub(in crate::server) fn write(&self, count: usize) {
        let mut progress = self.progress();
        progress.written += count as u64;
        progress.moved = Some(Instant::now());
        let waker = if progress.is_even() { progress.waker.take() } else { None };
        drop(progress);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(in crate::server) fn written(&self) -> u64 {
        self.progress().written
    }

    /// Whether everything that was given is written.
    pub(in crate::server) fn is_even(&self) -> bool {
        self.progress().is_even()
    }

    pub(in crate::server) fn poll_even(&self, cx: &Context<'_>) -> Poll<()> {
        let mut progress = self.progress();
        if progress.is_even() {
            return Poll::Ready(());
        }
        progress.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// When bytes that wait will have done so for `patience`; none if none do.
    pub(in crate::server) fn overdue_at(&self, patience: Duration) -> Option<Instant> {
        let progress = self.progress();
        progress.moved.filter(|_| !progress.is_even()).map(|moved| moved + patience)
    }

    /// Says why the answer ends here.
    pub(in crate::server) fn give_up(&self) {
        self.progress().given_up = true;
    }

    pub(in crate::server) fn is_given_up(&self) -> bool {
        self.progress().given_up
    }

    fn progress(&self) -> MutexGuard<'_, DeliveryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeliveryState {
    fn is_even(&self) -> bool {
        self.given == self.written
    }
}
