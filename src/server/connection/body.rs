//! Response bodies. Wherever the bytes come from, each frame holds the request's [`Exchange`] until
//! hyper lets go of it.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};

use super::memory::{HeldMemory, SMALL_PIECE};
use crate::pull::{ByteStream, PieceMax};
use crate::server::exchange::Exchange;
use crate::store::{self, Blob, Slice};

/// A response body, with the request that it answers.
///
/// hyper drops a body when its last frame is queued, which is before that is sent. So the frames
/// own the exchange as well: it ends, and is logged, when the last byte has left or the connection
/// is gone (DESIGN §14.11).
///
/// The body says that it is at its end only once all its bytes are written. If hyper believed an
/// HTTP/2 stream to be done, it would end the stream's task, and nobody could reset the stream when
/// its client stops taking the bytes that h2 still holds.
pub(in crate::server) struct Body {
    source: Source,
    exchange: Arc<Exchange>,
    /// For the next piece.
    memory: Option<HeldMemory>,
    /// Waits for memory, where all answers together hold what they may.
    waiting: Option<MemoryWait>,
}

type MemoryWait = Pin<Box<dyn Future<Output = HeldMemory> + Send>>;

/// Where the bytes of a body come from.
pub(in crate::server) enum Source {
    Empty,
    /// It has failed; the next poll says so.
    Failed,
    Full(Bytes),
    /// A stored blob, of which `left` is still to be sent: slices of its mapping, or copies where
    /// the connection is encrypted.
    Stored {
        blob: Blob,
        left: Range<u64>,
        /// The next piece, which the I/O pool is fetching from the disk.
        loading: Option<Loading>,
    },
    /// Bytes of a download in progress, or passed through; `left` is how many of the announced
    /// bytes are still to come, if a length was announced.
    Stream {
        stream: ByteStream,
        left: Option<u64>,
        /// How large the pieces may be of a stream that reads a file.
        piece_max: PieceMax,
    },
}

type Loading = Pin<Box<dyn Future<Output = Result<Piece, store::Error>> + Send>>;

/// What a source has next.
pub(in crate::server) enum Piece {
    Bytes(Bytes),
    Mapped(Slice),
}

/// Tells hyper that a body ends short. hyper closes the connection, or resets the HTTP/2 stream, so
/// that the client sees that bytes are missing.
#[derive(Debug, thiserror::Error)]
#[error("the body was cut short")]
pub(in crate::server) struct CutShort;

impl Body {
    pub(in crate::server) fn new(source: Source, exchange: Arc<Exchange>) -> Self {
        Self { source, exchange, memory: None, waiting: None }
    }

    /// Notes why the body ends short, and reports it to hyper on the next poll.
    ///
    /// Not on this one: when a body fails, hyper drops what it has buffered and not written yet.
    /// The head and the bytes before the failure are the client's; between two polls hyper writes
    /// them.
    fn fail_on_next_poll(
        &mut self,
        cx: &Context<'_>,
        error: &SourceError,
    ) -> Poll<Option<Result<Frame<BodyBytes>, CutShort>>> {
        self.exchange.fail(error.reason(), error);
        (self.source, self.memory) = (Source::Failed, None);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Hands a piece to hyper. The socket learns of a slice before hyper can write it.
    fn frame(&mut self, piece: Piece) -> Frame<BodyBytes> {
        let output = self.exchange.output();
        if let Piece::Mapped(slice) = &piece {
            output.queue_slice(slice.clone());
        }
        let len = piece.bytes().len();
        output.delivery().add_queued(len);
        let mut memory = self.memory.take();
        if let Some(memory) = &mut memory {
            memory.resize(len);
        }
        let exchange = Arc::clone(&self.exchange);
        Frame::data(BodyBytes { piece, written: 0, memory, exchange })
    }

    /// Waits until there is memory for the next piece: on the connection, then in all. What is
    /// shared, a mapping or a small body, takes none.
    fn poll_memory(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let output = self.exchange.output();
        if self.memory.is_some() || !self.source.takes_memory(output.tls()) {
            return Poll::Ready(());
        }
        if self.waiting.is_none() {
            let max = loop {
                match output.memory().piece_max(output.delivery().taken()) {
                    Some(max) => break max,
                    None => ready!(output.delivery().poll_all_written(cx)),
                }
            };
            self.memory = output.memory().try_hold(max);
            if self.memory.is_some() {
                return Poll::Ready(());
            }
        }
        let wait = || Box::pin(Arc::clone(output.memory()).hold());
        let waiting = self.waiting.get_or_insert_with(|| wait());
        self.memory = Some(ready!(waiting.as_mut().poll(cx)));
        self.waiting = None;
        Poll::Ready(())
    }
}

/// The bytes of one frame. hyper owns them until they are written, or dropped with the connection.
pub(in crate::server) struct BodyBytes {
    piece: Piece,
    /// How many of them hyper has written.
    written: usize,
    memory: Option<HeldMemory>,
    exchange: Arc<Exchange>,
}

impl Buf for BodyBytes {
    fn remaining(&self) -> usize {
        self.chunk().len()
    }

    fn chunk(&self) -> &[u8] {
        &self.piece.bytes()[self.written..]
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
        self.exchange.output().delivery().add_written(count);
    }
}

impl Drop for BodyBytes {
    fn drop(&mut self) {
        // hyper is done with the frame once TLS has copied it, which is before it is sent.
        let exchange = Arc::clone(&self.exchange);
        self.exchange.output().hold_until_flushed(exchange, self.memory.take());
    }
}

impl http_body::Body for Body {
    type Data = BodyBytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<BodyBytes>, CutShort>>> {
        ready!(self.poll_memory(cx));
        let max = self.memory.as_ref().map(HeldMemory::len);
        let Poll::Ready(next) = self.source.poll_piece(cx, max) else {
            // Whoever follows a slow download has nothing to hold memory for.
            if !self.source.is_reading() {
                self.memory = None;
            }
            return Poll::Pending;
        };
        match next {
            None => {
                (self.source, self.memory) = (Source::Empty, None);
                self.exchange.output().delivery().poll_all_written(cx).map(|()| None)
            }
            Some(Err(SourceError::HasFailed)) => Poll::Ready(Some(Err(CutShort))),
            Some(Err(error)) => self.fail_on_next_poll(cx, &error),
            Some(Ok(piece)) => Poll::Ready(Some(Ok(self.frame(piece)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        let nothing_left = match &self.source {
            Source::Empty => true,
            Source::Full(bytes) => bytes.is_empty(),
            Source::Stored { left, .. } => left.is_empty(),
            // Only the stream itself knows whether it has ended or is about to fail.
            Source::Stream { .. } | Source::Failed => false,
        };
        nothing_left && self.exchange.output().delivery().all_written()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Stored { left, .. } => SizeHint::with_exact(left.end - left.start),
            Source::Stream { left: Some(left), .. } => SizeHint::with_exact(*left),
            Source::Stream { left: None, .. } | Source::Failed => SizeHint::default(),
        }
    }
}

impl Source {
    /// Whether its next piece takes memory that nothing else holds.
    fn takes_memory(&self, tls: bool) -> bool {
        match self {
            Self::Empty | Self::Failed | Self::Full(_) => false,
            Self::Stored { left, .. } => tls && !left.is_empty(),
            Self::Stream { left, .. } => *left != Some(0),
        }
    }

    /// Whether the next piece, which is not there yet, takes memory already.
    fn is_reading(&self) -> bool {
        match self {
            Self::Empty | Self::Failed | Self::Full(_) => false,
            Self::Stored { loading, .. } => loading.is_some(),
            Self::Stream { piece_max, .. } => piece_max.is_being_read(),
        }
    }

    /// The next piece; where it takes memory, of at most `max` bytes.
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        max: Option<usize>,
    ) -> Poll<Option<Result<Piece, SourceError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Failed => Poll::Ready(Some(Err(SourceError::HasFailed))),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready(if bytes.is_empty() { None } else { Some(Ok(Piece::Bytes(bytes))) })
            }
            Self::Stored { left, .. } if left.is_empty() => Poll::Ready(None),
            Self::Stored { blob, left, loading } => {
                let piece = ready!(poll_stored(blob, left, loading, max, cx));
                let piece = piece.and_then(|piece| check_last(blob, left, piece));
                if let Ok(piece) = &piece {
                    left.start += piece.bytes().len() as u64;
                }
                *loading = None;
                Poll::Ready(Some(piece.map_err(SourceError::Store)))
            }
            Self::Stream { stream, left, piece_max } => {
                piece_max.set(max.unwrap_or(SMALL_PIECE));
                let next = ready!(stream.as_mut().poll_next(cx));
                if let (Some(Ok(bytes)), Some(left)) = (&next, left) {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                Poll::Ready(next.map(|bytes| bytes.map(Piece::Bytes).map_err(SourceError::Pull)))
            }
        }
    }
}

/// Why a source ends short.
#[derive(Debug, thiserror::Error)]
enum SourceError {
    /// The failure before has been noted already.
    #[error("the body was cut short")]
    HasFailed,
    #[error(transparent)]
    Pull(crate::pull::Error),
    #[error(transparent)]
    Store(store::Error),
}

impl SourceError {
    /// In one word, for log and metrics.
    fn reason(&self) -> &'static str {
        match self {
            Self::HasFailed => "cut",
            Self::Pull(error) => error.reason(),
            Self::Store(_) => "storage",
        }
    }
}

/// Bytes that were copied are what they were before this look at the file. Mapped ones are looked
/// at by the socket, since they can change until they leave.
fn check_last(blob: &Blob, left: &Range<u64>, piece: Piece) -> Result<Piece, store::Error> {
    if let Piece::Bytes(bytes) = &piece
        && left.start + bytes.len() as u64 >= left.end
    {
        blob.check_unchanged()?;
    }
    Ok(piece)
}

/// The next slice of the mapping or, where bytes are encrypted, a copy of at most `copy_max` bytes.
///
/// What is in memory is taken on the connection's own thread: fetched by the I/O pool, pieces
/// change cores and cost two wake-ups each (1.03 instead of 1.65 times nginx over TLS,
/// benches/README.md). The rest is left to the pool, so that the runtime never waits for the disk.
fn poll_stored(
    blob: &Blob,
    left: &Range<u64>,
    loading: &mut Option<Loading>,
    copy_max: Option<usize>,
    cx: &mut Context<'_>,
) -> Poll<Result<Piece, store::Error>> {
    let load = match (loading, copy_max) {
        (Some(load), _) => load,
        (loading @ None, Some(max)) => {
            let span = left.start..left.end.min(left.start.saturating_add(max as u64));
            if let Some(bytes) = blob.read_resident(&span) {
                return Poll::Ready(Ok(Piece::Bytes(bytes)));
            }
            let read = blob.read(&span);
            loading.insert(Box::pin(async { read.await.map(Piece::Bytes) }))
        }
        (loading @ None, None) => {
            if let Some(slice) = blob.resident(left) {
                return Poll::Ready(Ok(Piece::Mapped(slice)));
            }
            let load = blob.load(left);
            loading.insert(Box::pin(async { load.await.map(Piece::Mapped) }))
        }
    };
    load.as_mut().poll(cx)
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Mapped(slice) => slice.bytes(),
        }
    }
}
