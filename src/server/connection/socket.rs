//! The socket, below TLS and hyper: sends mapped bytes without a copy, counts what is really sent,
//! and ends a connection whose peer takes nothing.
//!
//! hyper does not poll a body while its socket is blocked, and what TLS has encrypted ahead waits
//! below hyper, so only here can a stalled reader be noticed (DESIGN §14.11).
//!
//! A body notes each slice of a mapping that it hands to hyper. When hyper comes to write those
//! very bytes, they leave by `sendfile` from the page cache; whatever is not recognised is written
//! as it stands, so that recognition only ever saves a copy.

use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::delivery::Sending;

#[derive(Debug)]
pub(in crate::server) struct ClientSocket {
    socket: TcpStream,
    sending: Sending,
    patience: Patience,
}

impl ClientSocket {
    /// A peer that takes no byte for `patience` is cut off.
    pub(in crate::server) fn new(socket: TcpStream, sending: Sending, patience: Duration) -> Self {
        Self { socket, sending, patience: Patience { allowed: patience, stalled: None } }
    }

    /// Sends the first of `bufs` from the page cache; `None` if it is not from there.
    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Option<Poll<io::Result<usize>>> {
        let bytes = bufs.first()?;
        let (slice, position) = self.sending.recognise(bytes)?;
        Some(loop {
            match self.socket.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
            let transfer = || slice.send(self.socket.as_fd(), position, bytes.len());
            match self.socket.try_io(Interest::WRITABLE, transfer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => break Poll::Ready(sent),
            }
        })
    }

    /// How many of `bufs` come before the next mapped one.
    fn unmapped(&self, bufs: &[IoSlice<'_>]) -> usize {
        bufs.iter().take_while(|buf| !self.sending.knows(buf)).count()
    }

    fn progress(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = self.patience.apply(cx, written);
        if let Poll::Ready(Ok(count)) = &written {
            self.sending.add_sent(*count);
        }
        written
    }
}

/// How long writes may wait for the peer, one after the other.
#[derive(Debug)]
struct Patience {
    allowed: Duration,
    /// Runs while a write waits.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn apply<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled =
            self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(self.allowed)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes")))
    }
}

impl AsyncRead for ClientSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, buf)
    }
}

/// A socket's flush and shutdown do not wait for the peer; those of TLS do, by writing here.
impl AsyncWrite for ClientSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.progress(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = if let Some(sent) = self.poll_send(cx, bufs) {
            sent
        } else {
            let plain = self.unmapped(bufs);
            Pin::new(&mut self.socket).poll_write_vectored(cx, &bufs[..plain])
        };
        self.progress(cx, written)
    }

    /// Without this, hyper copies every frame into a buffer of its own.
    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// Asked for by TLS when it has nothing left to write.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.sending.flushed();
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        self.sending.close();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_cut_off_and_a_slow_one_is_not() {
        let allowed = Duration::from_mins(1);
        let mut patience = Patience { allowed, stalled: None };
        for _ in 0..3 {
            let mut slow = std::pin::pin!(tokio::time::sleep(allowed * 9 / 10));
            let written = poll_fn(|cx| {
                let written = slow.as_mut().poll(cx).map(Ok);
                patience.apply(cx, written)
            });
            written.await.expect("a slow reader is served");
        }
        let started = Instant::now();
        let written = poll_fn(|cx| patience.apply::<()>(cx, Poll::Pending));
        let error = written.await.expect_err("a stopped reader is not");
        assert_eq!((error.kind(), started.elapsed()), (io::ErrorKind::TimedOut, allowed));
    }
}
