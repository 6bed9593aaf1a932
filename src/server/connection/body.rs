//! Response bodies. Whatever the bytes come from, each frame holds the request's [`Exchange`] until
//! hyper lets go of it.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};

use crate::pull::ByteStream;
use crate::server::exchange::Exchange;
use crate::store::{self, Blob, Slice};

/// A body and the request it answers.
///
/// hyper drops a body when its last frame is queued, which is before it is sent. So the frames own
/// the exchange as well: it ends, and is logged, when the last byte has left or the connection is
/// gone (DESIGN §14.11). And it is at its end only when everything has been written, since nobody
/// could reset an HTTP/2 stream that hyper thinks is done.
pub(in crate::server) struct Body {
    source: Source,
    exchange: Arc<Exchange>,
}

pub(in crate::server) enum Source {
    Empty,
    /// Has failed.
    Cut,
    Full(Bytes),
    /// Slices of a mapping, made resident by the I/O pool where they are not.
    Stored {
        blob: Blob,
        left: Range<u64>,
        loading: Option<Loading>,
    },
    /// Bytes of a download in progress, or passed through; `left` is the announced length.
    Stream {
        stream: ByteStream,
        left: Option<u64>,
    },
}

type Loading = Pin<Box<dyn Future<Output = Result<Piece, store::Error>> + Send>>;

/// What a source has next.
pub(in crate::server) enum Piece {
    Bytes(Bytes),
    Mapped(Slice),
}

/// Why a body ends short: hyper closes the connection, so that the client sees it.
#[derive(Debug, thiserror::Error)]
#[error("the body was cut short")]
pub(in crate::server) struct Cut;

impl Body {
    pub(in crate::server) fn new(source: Source, exchange: Arc<Exchange>) -> Self {
        Self { source, exchange }
    }

    /// Ends the body short, but in the next turn: hyper drops what it has not written yet when a
    /// body fails, and the head and the bytes before the failure are the client's.
    fn cut(
        &mut self,
        cx: &Context<'_>,
        error: &SourceError,
    ) -> Poll<Option<Result<Frame<Held>, Cut>>> {
        self.exchange.fail(error.reason(), error);
        self.source = Source::Cut;
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// A frame on its way to the socket.
pub(in crate::server) struct Held {
    piece: Piece,
    written: usize,
    exchange: Arc<Exchange>,
}

impl Buf for Held {
    fn remaining(&self) -> usize {
        self.chunk().len()
    }

    fn chunk(&self) -> &[u8] {
        &self.piece.bytes()[self.written..]
    }

    fn advance(&mut self, count: usize) {
        self.written += count;
        self.exchange.outbound().delivery().write(count);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.exchange.outbound().hold_until_flushed(Arc::clone(&self.exchange) as _);
    }
}

impl http_body::Body for Body {
    type Data = Held;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Held>, Cut>>> {
        let tls = self.exchange.outbound().tls();
        match ready!(self.source.poll_piece(cx, tls)) {
            None => {
                self.source = Source::Empty;
                self.exchange.outbound().delivery().poll_even(cx).map(|()| None)
            }
            Some(Err(SourceError::Cut)) => Poll::Ready(Some(Err(Cut))),
            Some(Err(error)) => self.cut(cx, &error),
            Some(Ok(piece)) => {
                if let Piece::Mapped(slice) = &piece {
                    self.exchange.outbound().expect(slice.clone());
                }
                self.exchange.outbound().delivery().give(piece.bytes().len());
                Poll::Ready(Some(Ok(Frame::data(Held {
                    piece,
                    written: 0,
                    exchange: Arc::clone(&self.exchange),
                }))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let at_its_end = match &self.source {
            Source::Empty => true,
            Source::Full(bytes) => bytes.is_empty(),
            Source::Stored { left, .. } => left.is_empty(),
            Source::Stream { .. } | Source::Cut => false,
        };
        at_its_end && self.exchange.outbound().delivery().is_even()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Empty => SizeHint::with_exact(0),
            Source::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Stored { left, .. } => SizeHint::with_exact(left.end - left.start),
            Source::Stream { left: Some(left), .. } => SizeHint::with_exact(*left),
            Source::Stream { left: None, .. } | Source::Cut => SizeHint::default(),
        }
    }
}

impl Source {
    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        tls: bool,
    ) -> Poll<Option<Result<Piece, SourceError>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Cut => Poll::Ready(Some(Err(SourceError::Cut))),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready(if bytes.is_empty() { None } else { Some(Ok(Piece::Bytes(bytes))) })
            }
            Self::Stored { left, .. } if left.is_empty() => Poll::Ready(None),
            Self::Stored { blob, left, loading } => {
                let piece = ready!(poll_stored(blob, left, loading, tls, cx));
                if let Ok(piece) = &piece {
                    left.start += piece.bytes().len() as u64;
                }
                *loading = None;
                Poll::Ready(Some(piece.map_err(SourceError::Store)))
            }
            Self::Stream { stream, left } => {
                let next = ready!(stream.as_mut().poll_next(cx));
                if let (Some(Ok(bytes)), Some(left)) = (&next, left) {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                Poll::Ready(next.map(|bytes| bytes.map(Piece::Bytes).map_err(SourceError::Pull)))
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum SourceError {
    #[error("the body was cut short")]
    Cut,
    #[error(transparent)]
    Pull(crate::pull::Error),
    #[error(transparent)]
    Store(store::Error),
}

impl SourceError {
    fn reason(&self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Pull(error) => error.reason(),
            Self::Store(_) => "storage",
        }
    }
}

/// The next slice of the mapping, made resident if it is not; or, where bytes are encrypted, a
/// copy.
fn poll_stored(
    blob: &Blob,
    left: &Range<u64>,
    loading: &mut Option<Loading>,
    tls: bool,
    cx: &mut Context<'_>,
) -> Poll<Result<Piece, store::Error>> {
    let load = match loading {
        Some(load) => load,
        None if tls => {
            if let Some(bytes) = blob.read_resident(left) {
                return Poll::Ready(Ok(Piece::Bytes(bytes)));
            }
            let read = blob.read(left);
            loading.insert(Box::pin(async { read.await.map(Piece::Bytes) }))
        }
        None => {
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
