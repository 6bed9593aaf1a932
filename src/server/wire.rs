//! The connection as hyper sees it: counts what is really sent, and ends a connection whose peer takes nothing.
//!
//! hyper does not poll a body while its socket is blocked, so only here can a stalled reader be noticed (DESIGN §14.11).

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Bytes that the kernel has taken for one connection, heads and framing included.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent(Arc<AtomicU64>);

impl Sent {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    sent: Sent,
    patience: Duration,
    /// Runs while a write waits for the peer.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Wire<S> {
    /// A peer that takes no byte for `patience` is cut off.
    pub(super) fn new(stream: S, patience: Duration) -> (Self, Sent) {
        let sent = Sent::default();
        (Self { stream, sent: sent.clone(), patience, stalled: None }, sent)
    }

    fn progress(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = written {
            self.stalled = None;
            if let Ok(count) = &result {
                self.sent.0.fetch_add(*count as u64, Ordering::Relaxed);
            }
            return Poll::Ready(result);
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.progress(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.progress(cx, written)
    }

    /// Without this, hyper copies every frame into a buffer of its own.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_cut_off_and_a_slow_one_is_not() {
        let patience = Duration::from_mins(1);
        let (ours, mut theirs) = tokio::io::duplex(1);
        let (mut wire, sent) = Wire::new(ours, patience);
        let slow = tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(patience * 9 / 10).await;
                theirs.read_u8().await.expect("a byte");
            }
            theirs
        });
        wire.write_all(b"abcd").await.expect("a slow reader is served");
        assert_eq!(sent.get(), 4);
        let _stopped = slow.await.expect("no panic");
        let started = tokio::time::Instant::now();
        let error = wire.write_all(b"e").await.expect_err("a stopped reader is not");
        assert_eq!((error.kind(), started.elapsed()), (io::ErrorKind::TimedOut, patience));
    }
}
