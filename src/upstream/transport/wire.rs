//! A connection as hyper's client takes it, whatever it was made of. It is cut when its upstream is
//! sealed, whether it is in use or waits for the next request (SEAL-2).

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::upstream::seal::IsSealed;

/// A socket, TLS over one, a tunnel through a proxy, TLS over that.
pub(super) trait IoStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> IoStream for T {}

pub(super) type BoxStream = Box<dyn IoStream>;

/// What requests are sent over.
pub(super) struct Wire {
    io: TokioIo<BoxStream>,
    /// Resolves when it is cut.
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// At its other end is a proxy that is told whole URLs.
    is_forwarded: bool,
}

impl Wire {
    pub(super) fn new(stream: BoxStream, cut: CancellationToken) -> Self {
        let cut = Box::pin(cut.cancelled_owned());
        Self { io: TokioIo::new(stream), cut, is_forwarded: false }
    }

    pub(super) fn forwarded(stream: BoxStream, cut: CancellationToken) -> Self {
        Self { is_forwarded: true, ..Self::new(stream, cut) }
    }

    /// Every connection is read from as long as it is open, so that a read sees the cut at once.
    fn poll_cut(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::Error::other(IsSealed)),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_forwarded)
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_cut(context)?;
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }
}
