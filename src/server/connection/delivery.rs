//! What the socket of a connection and the responses on it tell each other.
//!
//! ```text
//! Body --frames--> hyper --> (TLS) --> ClientSocket --> kernel
//!   |  queued, written: Delivery                |
//!   `-------------- ConnectionOutput -----------'  slices, bytes sent, flushed
//! ```
//!
//! hyper knows neither `sendfile` nor when bytes have really left, so the two ends of the line
//! share this state past it (DESIGN §14.11).

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::memory::{ConnectionMemory, HeldMemory, Taken};
use super::patience::Waiting;
use super::places::{Activity, Busy};
use crate::store::Slice;

/// What one connection sends. Its socket and all responses on it share this state.
#[derive(Clone, Debug)]
pub(in crate::server) struct ConnectionOutput(Arc<OutputState>);

/// A response that is kept alive, since it counts as finished, and is logged, when it is dropped.
type UnflushedResponse = Arc<dyn Any + Send + Sync>;

/// What TLS has taken of a response, and the kernel perhaps not yet.
struct Unflushed {
    _response: UnflushedResponse,
    /// Encrypted, it takes the memory that it took before.
    _memory: Option<HeldMemory>,
    /// The kernel has it once the connection has sent this many bytes.
    leaves_by: u64,
}

/// Bytes that rustls encrypts ahead of the socket: two of the 256 KiB pieces that stored bodies are
/// read in. rustls's own bound is 64 KiB, a quarter of one piece.
pub(super) const TLS_BUFFER_MAX: usize = 512 * 1024;

/// What TLS may hold beyond that: the frames of its records.
const TLS_FRAMES_MAX: usize = TLS_BUFFER_MAX / 16;

struct OutputState {
    /// TLS reads what it sends, so bodies must be bytes in user space: no slices of a mapping,
    /// which only the kernel may read (DESIGN §14.11).
    tls: bool,
    /// Bytes that the kernel has taken, heads, framing and encryption included.
    bytes_sent: AtomicU64,
    memory: Arc<ConnectionMemory>,
    activity: Arc<Activity>,
    /// Slices that hyper has and has not written yet, oldest first. Each keeps its mapping in
    /// place: were it unmapped, other memory could get its addresses and be taken for the slice.
    slices: Mutex<VecDeque<Slice>>,
    /// Somebody has changed a file while it was sent; the connection ends short of the answer.
    changed: AtomicBool,
    /// Responses whose last bytes TLS has taken, and the kernel perhaps not yet. `None` on plain
    /// connections, where the kernel takes them directly, and once the connection is closed.
    unflushed: Mutex<Option<VecDeque<Unflushed>>>,
}

impl fmt::Debug for OutputState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutputState").field("tls", &self.tls).finish_non_exhaustive()
    }
}

impl ConnectionOutput {
    pub(in crate::server) fn new(
        tls: bool,
        memory: Arc<ConnectionMemory>,
        activity: Arc<Activity>,
    ) -> Self {
        let unflushed = Mutex::new(tls.then(VecDeque::new));
        Self(Arc::new(OutputState {
            tls,
            bytes_sent: AtomicU64::new(0),
            memory,
            activity,
            slices: Mutex::default(),
            changed: AtomicBool::new(false),
            unflushed,
        }))
    }

    /// The output of one more response on this connection.
    pub(in crate::server) fn response(&self) -> ResponseOutput {
        let delivery = Delivery { state: Mutex::default(), _busy: Some(self.0.activity.begin()) };
        ResponseOutput { connection: self.clone(), delivery: Arc::new(delivery) }
    }

    /// What its client takes.
    pub(in crate::server) fn memory(&self) -> &Arc<ConnectionMemory> {
        &self.0.memory
    }

    pub(in crate::server) fn add_bytes_sent(&self, count: usize) {
        let sent = self.0.bytes_sent.fetch_add(count as u64, Ordering::Relaxed) + count as u64;
        if self.0.tls {
            self.release_sent(sent);
        }
    }

    /// Lets go of what has left although TLS has more: over HTTP/1.1 it is given more bytes before
    /// it is empty, and is flushed only once a client has caught up.
    fn release_sent(&self, sent: u64) {
        let mut gone = Vec::new();
        if let Some(unflushed) = self.unflushed().as_mut() {
            let still = unflushed.iter().position(|one| one.leaves_by > sent);
            gone.extend(unflushed.drain(..still.unwrap_or(unflushed.len())));
        }
        // Dropped after the lock: a response that ends writes its log line.
        drop(gone);
    }

    /// The kernel has taken everything so far: responses that waited for this may end.
    pub(in crate::server) fn release_unflushed(&self) {
        // Dropped after the lock: a response that ends writes its log line.
        let flushed = self.unflushed().as_mut().map(std::mem::take);
        drop(flushed);
    }

    /// The socket is gone. Responses that still waited end now, and later ones do not wait.
    pub(in crate::server) fn close(&self) {
        let never_flushed = self.unflushed().take();
        drop(never_flushed);
    }

    fn unflushed(&self) -> MutexGuard<'_, Option<VecDeque<Unflushed>>> {
        self.0.unflushed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether `bytes` lie within a slice that hyper has still to write.
    pub(in crate::server) fn is_in_slice(&self, bytes: &[u8]) -> bool {
        self.slices().iter().any(|slice| slice.position(bytes).is_some())
    }

    /// The slice that `bytes` lie within, and at which offset. hyper writes in order, so the slices
    /// before it have been written, and are let go.
    pub(in crate::server) fn find_slice(&self, bytes: &[u8]) -> Option<(Slice, usize)> {
        let mut slices = self.slices();
        let (index, position) = slices
            .iter()
            .enumerate()
            .find_map(|(index, slice)| Some((index, slice.position(bytes)?)))?;
        slices.drain(..index);
        Some((slices.front()?.clone(), position))
    }

    pub(in crate::server) fn note_changed(&self) {
        self.0.changed.store(true, Ordering::Relaxed);
    }

    fn slices(&self) -> MutexGuard<'_, VecDeque<Slice>> {
        self.0.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one response sends: its own progress, and the connection that it leaves by.
#[derive(Clone, Debug)]
pub(in crate::server) struct ResponseOutput {
    connection: ConnectionOutput,
    delivery: Arc<Delivery>,
}

impl ResponseOutput {
    /// Bytes that the whole connection has sent, for all its responses.
    pub(in crate::server) fn connection_bytes_sent(&self) -> u64 {
        self.connection.0.bytes_sent.load(Ordering::Relaxed)
    }

    /// Whether bodies have to be bytes in user space, and not slices of a mapping.
    pub(in crate::server) fn tls(&self) -> bool {
        self.connection.0.tls
    }

    /// Whether the connection was cut because the file behind the answer has changed.
    pub(in crate::server) fn is_changed(&self) -> bool {
        self.connection.0.changed.load(Ordering::Relaxed)
    }

    pub(in crate::server) fn delivery(&self) -> &Arc<Delivery> {
        &self.delivery
    }

    pub(in crate::server) fn memory(&self) -> &Arc<ConnectionMemory> {
        self.connection.memory()
    }

    /// Keeps a response from ending until the kernel has what TLS took of it, and its memory from
    /// being given back. Plain connections need no such wait: hyper lets go of a frame when the
    /// kernel has it.
    pub(in crate::server) fn hold_until_flushed(
        &self,
        response: UnflushedResponse,
        memory: Option<HeldMemory>,
    ) {
        // TLS has all of it, and sends in order.
        let leaves_by = self.connection_bytes_sent() + (TLS_BUFFER_MAX + TLS_FRAMES_MAX) as u64;
        if let Some(unflushed) = self.connection.unflushed().as_mut() {
            unflushed.push_back(Unflushed { _response: response, _memory: memory, leaves_by });
        }
    }

    /// Tells the socket that hyper is about to write the bytes of `slice`.
    pub(in crate::server) fn queue_slice(&self, slice: Slice) {
        self.connection.slices().push_back(slice);
    }

    /// Forgets the slices of a response that has ended. HTTP/1.1 answers one request at a time, and
    /// HTTP/2 is always encrypted and has no slices, so what is queued belongs to this response. A
    /// slice of the next one that is forgotten too early is only copied.
    pub(in crate::server) fn clear_slices(&self) {
        self.connection.slices().clear();
    }
}

/// How much of one response's body has been handed to hyper, and how much of that is written.
///
/// Over HTTP/2 hyper takes frames that its client's flow control window does not let it send. The
/// difference between the two is what the client has not taken.
#[derive(Debug, Default)]
pub(in crate::server) struct Delivery {
    state: Mutex<DeliveryState>,
    /// The connection is busy until the response has ended.
    _busy: Option<Busy>,
}

#[derive(Debug, Default)]
struct DeliveryState {
    /// Body bytes handed to hyper.
    queued: u64,
    /// Bytes of these that hyper has written to the connection.
    written: u64,
    /// A client that has everything is not slow: its clock starts with new bytes.
    waiting: Waiting,
    /// The body, which waits until all that is queued is written.
    waker: Option<Waker>,
    /// The response was given up because its client took too little.
    stalled: bool,
}

impl Delivery {
    /// `count` more bytes are handed to hyper.
    pub(in crate::server) fn add_queued(&self, count: usize) {
        let mut state = self.state();
        state.queued += count as u64;
        state.mark_waiting();
    }

    /// hyper has written `count` more bytes.
    pub(in crate::server) fn add_written(&self, count: usize) {
        let mut state = self.state();
        state.written += count as u64;
        state.waiting.take(count);
        state.mark_waiting();
        let waker = if state.all_written() { state.waker.take() } else { None };
        // The task that wakes may run at once, on another thread, and needs the lock.
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// How far the response has come.
    pub(in crate::server) fn taken(&self) -> Taken {
        let state = self.state();
        Taken { bytes: state.written, is_all: state.all_written() }
    }

    /// Body bytes that hyper has written.
    pub(in crate::server) fn written(&self) -> u64 {
        self.state().written
    }

    /// Whether everything that was queued is written.
    pub(in crate::server) fn all_written(&self) -> bool {
        self.state().all_written()
    }

    /// Waits until everything that was queued is written.
    pub(in crate::server) fn poll_all_written(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.all_written() {
            return Poll::Ready(());
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// When bytes will have waited for the client for `send_idle`; none if none wait.
    pub(in crate::server) fn stalled_at(&self, send_idle: Duration) -> Option<Instant> {
        self.state().waiting.ends(send_idle)
    }

    /// Notes that the response ends short because its client takes too little, for its log line.
    pub(in crate::server) fn set_stalled(&self) {
        self.state().stalled = true;
    }

    pub(in crate::server) fn is_stalled(&self) -> bool {
        self.state().stalled
    }

    fn state(&self) -> MutexGuard<'_, DeliveryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DeliveryState {
    fn mark_waiting(&mut self) {
        if !self.all_written() {
            self.waiting.begin();
        }
    }

    fn all_written(&self) -> bool {
        self.queued == self.written
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::ClientMemory;
    use super::*;
    use crate::limits::Limits;

    fn output() -> ConnectionOutput {
        let memory = ClientMemory::new(&Limits::default(), &Arc::default()).connection();
        ConnectionOutput::new(true, memory, Arc::new(Activity::new(Instant::now())))
    }

    /// Over HTTP/1.1 a client that is always a little behind lets TLS never be flushed.
    #[test]
    fn what_has_left_is_let_go_although_tls_has_more() {
        let output = output();
        let (first, second) = (Arc::new(()), Arc::new(()));
        let held = |of: &Arc<()>| Arc::strong_count(of) > 1;
        output.response().hold_until_flushed(Arc::<()>::clone(&first), None);
        output.add_bytes_sent(1000);
        output.response().hold_until_flushed(Arc::<()>::clone(&second), None);
        output.add_bytes_sent(TLS_BUFFER_MAX - 1000);
        assert!(held(&first) && held(&second), "TLS may have both");
        output.add_bytes_sent(TLS_FRAMES_MAX);
        assert!(!held(&first) && held(&second), "the second came later");
        output.release_unflushed();
        assert!(!held(&second));
    }
}
