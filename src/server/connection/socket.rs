//! The socket, below TLS and hyper: sends mapped bytes without a copy, counts what the kernel has
//! taken, and ends a connection whose client takes nothing, or next to nothing.
//!
//! hyper does not poll a body while its socket is blocked, and what TLS has encrypted ahead waits
//! below hyper. So only here can a client that has stopped reading be noticed (DESIGN §14.11).
//!
//! hyper has no way to send a file. So a body tells this socket of each slice of a mapping that it
//! hands to hyper, and when hyper writes bytes at those addresses, they leave by `sendfile` from
//! the page cache: 5.9 GB per CPU-second where `writev` out of the mapping came to 3.9 to 4.6
//! (benches/README.md). Bytes that are not recognised are written as they stand, so a mistake costs
//! a copy and never a wrong byte.

use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::delivery::ConnectionOutput;
use super::patience::Waiting;

/// A client's connection, as TLS or hyper reads and writes it.
#[derive(Debug)]
pub(in crate::server) struct ClientSocket {
    socket: TcpStream,
    output: ConnectionOutput,
    write_deadline: WriteDeadline,
}

impl ClientSocket {
    /// Writes fail once they have waited for the client for `send_idle`.
    pub(in crate::server) fn new(
        socket: TcpStream,
        output: ConnectionOutput,
        send_idle: Duration,
    ) -> Self {
        Self { socket, output, write_deadline: WriteDeadline::new(send_idle) }
    }

    /// Sends the first of `bufs` from the page cache by `sendfile`; `None` if it is no part of a
    /// mapped slice.
    fn poll_sendfile(
        &self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Option<Poll<io::Result<usize>>> {
        let bytes = bufs.first()?;
        let (slice, position) = self.output.find_slice(bytes)?;
        Some(loop {
            match self.socket.poll_write_ready(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => break Poll::Ready(Err(error)),
                Poll::Pending => break Poll::Pending,
            }
            let sendfile = || slice.send(self.socket.as_fd(), position, bytes.len());
            match self.socket.try_io(Interest::WRITABLE, sendfile) {
                // tokio has taken the readiness back; ask again, so that it wakes this task.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => {
                    if sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData)
                    {
                        self.output.note_changed();
                    }
                    break Poll::Ready(sent);
                }
            }
        })
    }

    /// How many of `bufs` come before the next part of a mapped slice.
    fn count_unmapped(&self, bufs: &[IoSlice<'_>]) -> usize {
        bufs.iter().take_while(|buf| !self.output.is_in_slice(buf)).count()
    }

    /// Counts what the kernel has taken, and fails a write that has waited too long.
    fn after_write(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = self.write_deadline.check(cx, written);
        if let Poll::Ready(Ok(count)) = &written {
            self.output.add_bytes_sent(*count);
        }
        written
    }
}

/// How long writes may wait for the client (`patience`).
#[derive(Debug)]
struct WriteDeadline {
    send_idle: Duration,
    waiting: Waiting,
    /// Runs while a write waits.
    timer: Option<Pin<Box<Sleep>>>,
}

impl WriteDeadline {
    fn new(send_idle: Duration) -> Self {
        Self { send_idle, waiting: Waiting::default(), timer: None }
    }

    fn check(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            self.timer = None;
            self.waiting.take(*written.as_ref().unwrap_or(&0));
            return Poll::Ready(written);
        }
        self.waiting.begin();
        if self.timer.is_none() {
            let end = self.waiting.ends(self.send_idle);
            self.timer = end.map(|end| Box::pin(tokio::time::sleep_until(end)));
        }
        if let Some(timer) = &mut self.timer {
            ready!(timer.as_mut().poll(cx));
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes too little")))
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

/// Flush and shutdown have no deadline here: those of a socket do not wait for the client, and
/// those of TLS wait by writing, which has one.
impl AsyncWrite for ClientSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.after_write(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = if let Some(sent) = self.poll_sendfile(cx, bufs) {
            sent
        } else {
            // Up to the next slice only: hyper calls again with that slice in front.
            let unmapped = self.count_unmapped(bufs);
            Pin::new(&mut self.socket).poll_write_vectored(cx, &bufs[..unmapped])
        };
        self.after_write(cx, written)
    }

    /// If this is false, hyper copies every frame into one buffer of its own: a copy more, and the
    /// addresses that slices are recognised by are lost.
    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    /// TLS asks for this when it has nothing left to write, so all that it took before has reached
    /// the kernel.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.release_unflushed();
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

impl Drop for ClientSocket {
    fn drop(&mut self) {
        self.output.close();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::Instant;

    use super::*;

    /// A client that takes `count` bytes after each `pause` until it is cut off; how long that was,
    /// at most an hour.
    async fn cut_off_after(count: usize, pause: Duration) -> Duration {
        let mut deadline = WriteDeadline::new(Duration::from_secs(30));
        let started = Instant::now();
        while started.elapsed() < Duration::from_hours(1) {
            let mut slow = std::pin::pin!(tokio::time::sleep(pause));
            let written = poll_fn(|cx| {
                let written = slow.as_mut().poll(cx).map(|()| Ok(count));
                deadline.check(cx, written)
            });
            if let Err(error) = written.await {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                break;
            }
        }
        started.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_less_than_the_least_is_cut_off_and_a_slow_one_is_not() {
        let second = Duration::from_secs(1);
        let hour = second * 3600;
        for (count, pause, after) in [
            (0, second * 100, second * 30..second * 31),
            (1, second * 29, second * 30..second * 31),
            (512, second, second * 59..second * 61),
            (1025, second, hour..hour + second * 2),
            (20 << 10, second * 20, hour..hour + second * 21),
            (1 << 30, second * 29, hour..hour + second * 30),
        ] {
            let lasted = cut_off_after(count, pause).await;
            assert!(after.contains(&lasted), "{count} bytes every {pause:?}: {lasted:?}");
        }
    }
}
