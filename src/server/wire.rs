//! The connection as hyper sees it: sends mapped bytes without a copy, counts what is really sent, and ends a connection
//! whose peer takes nothing.
//!
//! hyper does not poll a body while its socket is blocked, so only here can a stalled reader be noticed (DESIGN §14.11).
//!
//! A body notes each slice of a mapping that it hands to hyper. When hyper comes to write those very bytes, they leave by
//! `sendfile` from the page cache; whatever is not recognised is written as it stands, so that recognition only ever
//! saves a copy.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use crate::store::Slice;

/// What a connection and the bodies on it tell each other.
#[derive(Clone, Debug, Default)]
pub(super) struct Outbound(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The connection encrypts, so it reads what it sends.
    copies: bool,
    /// Bytes that the kernel has taken, heads and framing included.
    sent: AtomicU64,
    /// Slices that hyper has been given and has not written yet, oldest first. Each keeps its mapping in place, so that
    /// no other memory can have its addresses.
    slices: Mutex<VecDeque<Slice>>,
}

impl Outbound {
    pub(super) fn sent(&self) -> u64 {
        self.0.sent.load(Ordering::Relaxed)
    }

    /// Whether bodies have to be copies, and not slices of a mapping.
    pub(super) fn copies(&self) -> bool {
        self.0.copies
    }

    /// Notes that the bytes of `slice` will come to be written.
    pub(super) fn expect(&self, slice: Slice) {
        self.slices().push_back(slice);
    }

    /// Forgets the slices of a body that has ended.
    pub(super) fn expect_nothing(&self) {
        self.slices().clear();
    }

    /// The slice that `bytes` are a part of, and where. Slices before it have been written.
    fn recognise(&self, bytes: &[u8]) -> Option<(Slice, usize)> {
        let mut slices = self.slices();
        let (index, position) =
            slices.iter().enumerate().find_map(|(index, slice)| Some((index, slice.position(bytes)?)))?;
        slices.drain(..index);
        Some((slices.front()?.clone(), position))
    }

    fn slices(&self) -> MutexGuard<'_, VecDeque<Slice>> {
        self.0.slices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream below hyper. One that encrypts has to read what it sends and has no plain socket.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin {
    fn plain_socket(&self) -> Option<&TcpStream>;
}

impl Transport for TcpStream {
    fn plain_socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Transport for TlsStream<TcpStream> {
    fn plain_socket(&self) -> Option<&TcpStream> {
        None
    }
}

#[derive(Debug)]
pub(super) struct Wire<S> {
    stream: S,
    outbound: Outbound,
    patience: Duration,
    /// Runs while a write waits for the peer.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S: Transport> Wire<S> {
    /// A peer that takes no byte for `patience` is cut off.
    pub(super) fn new(stream: S, patience: Duration) -> (Self, Outbound) {
        let copies = stream.plain_socket().is_none();
        let outbound = Outbound(Arc::new(Shared { copies, ..Shared::default() }));
        (Self { stream, outbound: outbound.clone(), patience, stalled: None }, outbound)
    }

    /// Sends the first of `bufs` from the page cache; `None` if it is not from there.
    fn poll_send(&self, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Option<Poll<io::Result<usize>>> {
        let socket = self.stream.plain_socket()?;
        let bytes = bufs.first()?;
        let (slice, position) = self.outbound.recognise(bytes)?;
        Some(loop {
            match socket.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
            let transfer = || slice.send(socket.as_fd(), position, bytes.len());
            match socket.try_io(Interest::WRITABLE, transfer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => break Poll::Ready(sent),
            }
        })
    }

    /// How many of `bufs` come before the next mapped one.
    fn unmapped(&self, bufs: &[IoSlice<'_>]) -> usize {
        let slices = self.outbound.slices();
        let mapped = |buf: &IoSlice<'_>| slices.iter().any(|slice| slice.position(buf).is_some());
        bufs.iter().take_while(|buf| !mapped(buf)).count()
    }

    fn progress(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(result) = written {
            self.stalled = None;
            if let Ok(count) = &result {
                self.outbound.0.sent.fetch_add(*count as u64, Ordering::Relaxed);
            }
            return Poll::Ready(result);
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes no bytes")))
    }
}

impl<S: Transport> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: Transport> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
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
            Pin::new(&mut self.stream).poll_write_vectored(cx, &bufs[..plain])
        };
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

    impl Transport for tokio::io::DuplexStream {
        fn plain_socket(&self) -> Option<&TcpStream> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_cut_off_and_a_slow_one_is_not() {
        let patience = Duration::from_mins(1);
        let (ours, mut theirs) = tokio::io::duplex(1);
        let (mut wire, outbound) = Wire::new(ours, patience);
        let slow = tokio::spawn(async move {
            for _ in 0..3 {
                tokio::time::sleep(patience * 9 / 10).await;
                theirs.read_u8().await.expect("a byte");
            }
            theirs
        });
        wire.write_all(b"abcd").await.expect("a slow reader is served");
        assert_eq!(outbound.sent(), 4);
        let _stopped = slow.await.expect("no panic");
        let started = tokio::time::Instant::now();
        let error = wire.write_all(b"e").await.expect_err("a stopped reader is not");
        assert_eq!((error.kind(), started.elapsed()), (io::ErrorKind::TimedOut, patience));
    }
}
