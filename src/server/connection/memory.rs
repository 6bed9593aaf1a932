//! How much memory clients take: answers that wait for them, and bodies that they send.
//!
//! hyper asks the body of an HTTP/2 stream for a piece before it knows whether the client's window
//! takes it, and a client has a hundred streams. So a body asks here first, and gets pieces that
//! grow with what its client has really taken, as long as there is room on its connection, and in
//! all. Where room runs short, every connection gets a share of what is left, so that those who
//! come later find some (dynamic thresholds, as of buffers in switches).
//!
//! Nobody who reads waits for somebody who does not: a stream with nothing in its way gets a small
//! piece however much its connection holds, and one of each connection a small piece however much
//! all hold. Those who hold and take nothing are ended by `Limits::send_idle`.
//!
//! A body that is read as a whole counts as it comes: what a client announces takes nothing but its
//! turn on its own connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::store::READ_MAX;

/// The smallest piece that a body is asked for, in bytes: one frame of HTTP/2.
pub(in crate::server) const SMALL_PIECE: usize = 16 * 1024;

/// Of what all may still hold, one connection may hold this part.
const SHARE: usize = 16;

/// Bytes of one permit, the unit that is counted in.
const PERMIT: usize = 1024;

/// What a client may send ahead on one HTTP/2 connection, and on each stream of it: the latter is
/// less, so that one body that is not being read leaves room for the others. Without any room it is
/// what HTTP/2 begins with.
const WINDOW_MAX: usize = 1 << 20;
const STREAM_WINDOW_MAX: usize = 256 * 1024;
const WINDOW_MIN: usize = 65_535;

/// Of all connections, what is more than `WINDOW_MIN`.
const WINDOWS: usize = 128 << 20;

/// What all clients hold together.
#[derive(Clone, Debug)]
pub(crate) struct ClientMemory {
    free: Arc<Semaphore>,
    windows: Arc<Semaphore>,
    body_max: usize,
    connection_max: usize,
    metrics: Arc<Metrics>,
}

/// What the answers of one connection hold.
#[derive(Debug)]
pub(in crate::server) struct ConnectionMemory {
    all: ClientMemory,
    /// One small piece that a connection may hold when all together hold what they may.
    own: Arc<Semaphore>,
    /// Bodies that are read as a whole, one after the other where they are large.
    bodies: Arc<Semaphore>,
    held: AtomicUsize,
}

/// How far the answer has come that asks.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct Taken {
    /// Bytes that its client has taken.
    pub(in crate::server) bytes: u64,
    /// Nothing of it waits for its client.
    pub(in crate::server) is_all: bool,
}

/// What a client may send ahead on one HTTP/2 connection.
#[derive(Debug)]
pub(in crate::server) struct ReceiveWindow {
    pub(in crate::server) connection: u32,
    pub(in crate::server) stream: u32,
    _promised: Option<OwnedSemaphorePermit>,
}

/// Memory of a body that is read as a whole, for as long as it is used.
#[derive(Debug)]
pub(in crate::server) struct BodyMemory {
    len: usize,
    permit: Option<OwnedSemaphorePermit>,
    connection: Arc<ConnectionMemory>,
    _turn: OwnedSemaphorePermit,
}

/// Memory of one piece, given back when this is dropped.
#[derive(Debug)]
pub(in crate::server) struct HeldMemory {
    len: usize,
    permit: OwnedSemaphorePermit,
    connection: Arc<ConnectionMemory>,
}

impl ClientMemory {
    pub(crate) fn new(limits: &Limits, metrics: &Arc<Metrics>) -> Self {
        let free = Arc::new(Semaphore::new(permits(limits.answers) as usize));
        let windows = Arc::new(Semaphore::new(permits(WINDOWS) as usize));
        let (body_max, connection_max) = (limits.manifest, limits.connection_answers);
        Self { free, windows, body_max, connection_max, metrics: Arc::clone(metrics) }
    }

    fn count(&self, more: usize, less: usize) {
        let difference = more.cast_signed() - less.cast_signed();
        self.metrics.http.waiting_bytes.add(difference as i64);
    }

    pub(in crate::server) fn connection(&self) -> Arc<ConnectionMemory> {
        let own = Arc::new(Semaphore::new(permits(SMALL_PIECE) as usize));
        let bodies = Arc::new(Semaphore::new(permits(self.body_max) as usize));
        Arc::new(ConnectionMemory { all: self.clone(), own, bodies, held: AtomicUsize::new(0) })
    }
}

impl ConnectionMemory {
    /// How large the next piece may be; `None` if it has to wait until the ones before are taken.
    pub(in crate::server) fn piece_max(&self, taken: Taken) -> Option<usize> {
        let grown = usize::try_from(taken.bytes).unwrap_or(READ_MAX).clamp(SMALL_PIECE, READ_MAX);
        let left = self.all.free.available_permits() * PERMIT;
        let share = (left / SHARE).min(self.all.connection_max);
        // A quarter of the room each, so that the first streams of a connection leave some.
        let room = share.saturating_sub(self.held.load(Ordering::Relaxed)) / 4;
        if room >= SMALL_PIECE {
            Some(grown.min(room))
        } else {
            taken.is_all.then_some(SMALL_PIECE)
        }
    }

    /// Memory for a piece of at most `len` bytes, if all together hold little enough.
    pub(in crate::server) fn try_hold(self: &Arc<Self>, len: usize) -> Option<HeldMemory> {
        let permit = Arc::clone(&self.all.free).try_acquire_many_owned(permits(len)).ok()?;
        Some(self.held(len, permit))
    }

    /// Memory for a small piece, as soon as there is any: of all, or the connection's own.
    pub(in crate::server) async fn hold(self: Arc<Self>) -> HeldMemory {
        let (all, own) = (Arc::clone(&self.all.free), Arc::clone(&self.own));
        let permit = tokio::select! {
            permit = all.acquire_many_owned(permits(SMALL_PIECE)) => permit,
            permit = own.acquire_many_owned(permits(SMALL_PIECE)) => permit,
        };
        match permit {
            Ok(permit) => self.held(SMALL_PIECE, permit),
            // Unreachable: neither is ever closed. Without memory nothing is sent.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits until the other bodies of the connection leave room for one of at most `len` bytes.
    pub(in crate::server) async fn body(self: Arc<Self>, len: usize) -> BodyMemory {
        let len = permits(len.min(self.all.body_max));
        match Arc::clone(&self.bodies).acquire_many_owned(len).await {
            Ok(turn) => BodyMemory { len: 0, permit: None, connection: self, _turn: turn },
            // Unreachable, as above.
            Err(_) => std::future::pending().await,
        }
    }

    /// What the connection's client may send ahead over HTTP/2, until the result is dropped: a
    /// share of what others have left.
    pub(in crate::server) fn receive_window(&self) -> ReceiveWindow {
        let windows = &self.all.windows;
        let share = (windows.available_permits() * PERMIT / SHARE).min(WINDOW_MAX);
        let promised = if share > WINDOW_MIN {
            Arc::clone(windows).try_acquire_many_owned(permits(share)).ok()
        } else {
            None
        };
        let connection = if promised.is_some() { share } else { WINDOW_MIN };
        let [connection, stream] = [connection, connection.min(STREAM_WINDOW_MAX)]
            .map(|window| u32::try_from(window).unwrap_or(u32::MAX));
        ReceiveWindow { connection, stream, _promised: promised }
    }

    fn held(self: &Arc<Self>, len: usize, permit: OwnedSemaphorePermit) -> HeldMemory {
        self.count(len, 0);
        HeldMemory { len, permit, connection: Arc::clone(self) }
    }

    fn count(&self, more: usize, less: usize) {
        self.held.fetch_add(more, Ordering::Relaxed);
        self.held.fetch_sub(less, Ordering::Relaxed);
        self.all.count(more, less);
    }
}

impl BodyMemory {
    /// `more` bytes have come. False: there is no memory for them.
    pub(in crate::server) fn add(&mut self, more: usize) -> bool {
        let had = self.permit.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let wanted = permits(self.len + more).saturating_sub(permits(had * PERMIT));
        let all = &self.connection.all;
        let Ok(permit) = Arc::clone(&all.free).try_acquire_many_owned(wanted) else { return false };
        match &mut self.permit {
            Some(before) => before.merge(permit),
            none @ None => *none = Some(permit),
        }
        self.len += more;
        all.count(more, 0);
        true
    }
}

impl Drop for BodyMemory {
    fn drop(&mut self) {
        self.connection.all.count(0, self.len);
    }
}

impl HeldMemory {
    pub(in crate::server) fn len(&self) -> usize {
        self.len
    }

    /// Counts a piece as what it has turned out to be. It may be larger than was asked for: what is
    /// passed through comes in the pieces of its upstream, and a list in one. Then it is there
    /// already, and counts as far as there is room to count.
    pub(in crate::server) fn resize(&mut self, len: usize) {
        let (old, new) = (self.permit.num_permits(), permits(len) as usize);
        if new < old {
            drop(self.permit.split(old - new));
        } else if new > old {
            let all = Arc::clone(&self.connection.all.free);
            let more =
                u32::try_from(new - old).ok().and_then(|n| all.try_acquire_many_owned(n).ok());
            // Not where it is the connection's own that is held.
            if let Some(more) = more
                && Arc::ptr_eq(more.semaphore(), self.permit.semaphore())
            {
                self.permit.merge(more);
            }
        }
        self.connection.count(len, self.len);
        self.len = len;
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.connection.count(0, self.len);
    }
}

fn permits(len: usize) -> u32 {
    u32::try_from(len.div_ceil(PERMIT)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: Taken = Taken { bytes: 0, is_all: true };
    const UNREAD: Taken = Taken { bytes: 0, is_all: false };
    const FAST: Taken = Taken { bytes: 1 << 30, is_all: false };

    fn memory(answers: usize) -> ClientMemory {
        ClientMemory::new(&Limits { answers, ..Limits::default() }, &Arc::default())
    }

    /// As many pieces as the answers of a connection get, if each takes two and nothing leaves.
    fn fill(connection: &Arc<ConnectionMemory>, streams: usize, second: Taken) -> Vec<HeldMemory> {
        let asked = (0..streams).flat_map(|_| [NEW, second]);
        asked.filter_map(|taken| connection.try_hold(connection.piece_max(taken)?)).collect()
    }

    #[test]
    fn pieces_grow_with_what_the_client_takes() {
        let connection = memory(256 << 20).connection();
        let max = |bytes| connection.piece_max(Taken { bytes, is_all: true }).expect("room");
        assert_eq!([0, 40_000, 1 << 30].map(max), [SMALL_PIECE, 40_000, READ_MAX]);
    }

    #[test]
    fn streams_that_nobody_reads_leave_a_piece_to_one_that_is_read() {
        let connection = memory(256 << 20).connection();
        let held = fill(&connection, 99, FAST);
        let total: usize = held.iter().map(HeldMemory::len).sum();
        assert!(total <= (2 << 20) + 99 * SMALL_PIECE, "{total}");
        assert_eq!(connection.piece_max(UNREAD), None);
        assert_eq!(connection.piece_max(NEW), Some(SMALL_PIECE));
        drop(held);
        assert_eq!(connection.piece_max(FAST), Some(READ_MAX));
    }

    #[tokio::test]
    async fn all_together_hold_their_bound_and_each_connection_one_piece() {
        let all = memory(4 << 20);
        let connections: Vec<_> = (0..40).map(|_| all.connection()).collect();
        let held: Vec<_> = connections.iter().map(|one| fill(one, 100, FAST)).collect();
        let total: usize = held.iter().flatten().map(HeldMemory::len).sum();
        assert!(total <= 4 << 20, "{total}");
        let late = all.connection();
        assert!(late.try_hold(SMALL_PIECE).is_none());
        let own = Arc::clone(&late).hold().await;
        let mut waits = std::pin::pin!(Arc::clone(&late).hold());
        assert!(futures_util::poll!(waits.as_mut()).is_pending());
        drop(own);
        waits.await;
        let mut waits = std::pin::pin!(Arc::clone(&connections[0]).hold());
        let _own = waits.as_mut().await;
        drop(held);
        assert!(late.try_hold(READ_MAX).is_some());
    }

    #[tokio::test]
    async fn large_bodies_of_a_connection_come_one_after_the_other_and_count_as_they_come() {
        let all = memory(1 << 20);
        let connection = all.connection();
        let mut first = Arc::clone(&connection).body(4 << 20).await;
        let mut second = std::pin::pin!(Arc::clone(&connection).body(1000));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        assert!(all.connection().try_hold(1 << 20).is_some(), "what is announced takes nothing");
        assert!(first.add(100) && first.add(1 << 19) && !first.add(1 << 19));
        assert_eq!(all.metrics.http.waiting_bytes.get(), 100 + (1 << 19));
        drop(first);
        assert!(second.await.add(1000));
        assert_eq!(all.metrics.http.waiting_bytes.get(), 0);
    }

    #[test]
    fn windows_shrink_to_the_least_as_connections_come() {
        let all = memory(0);
        let windows: Vec<_> = (0..4096).map(|_| all.connection().receive_window()).collect();
        assert_eq!([windows[0].connection, windows[0].stream], [1 << 20, 1 << 18]);
        assert_eq!([windows[4095].connection, windows[4095].stream], [65_535, 65_535]);
        let total: u64 = windows.iter().map(|window| u64::from(window.connection)).sum();
        assert!(total <= 384 << 20, "{total}");
        drop(windows);
        assert_eq!(all.connection().receive_window().connection, 1 << 20);
    }
}
