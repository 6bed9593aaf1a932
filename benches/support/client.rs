//! Raw HTTP/1.1 over one kept connection: reads large pieces and lets them go, so that the server is what is measured.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::content::MANIFEST;

/// No single answer takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Longest response head.
const HEAD: usize = 8 << 10;

/// A connection, and the buffer that everything is read into.
#[derive(Debug)]
pub(crate) struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A whole answer with status 200.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reply {
    /// Bytes of its body.
    pub(crate) length: u64,
    /// When the first of them was read.
    pub(crate) first_byte: Instant,
}

impl Client {
    /// `buffer`: bytes read at once.
    pub(crate) async fn connect(address: SocketAddr, buffer: usize) -> anyhow::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; buffer.max(HEAD)] })
    }

    /// Asks and reads the answer to its end; every part of the body goes by `see`.
    ///
    /// # Errors
    /// If the status is not 200, the length is not announced, or the body is shorter.
    pub(crate) async fn get(&mut self, request: &[u8], mut see: impl FnMut(&[u8])) -> anyhow::Result<Reply> {
        self.stream.write_all(request).await?;
        let (head, mut filled) = self.read_head().await?;
        let length = content_length(&self.buffer[..head])?;
        let mut left = length;
        while filled == head && left > 0 {
            filled += self.read(head).await?;
        }
        let first_byte = Instant::now();
        let body = &self.buffer[head..filled];
        see(body);
        left = left.checked_sub(body.len() as u64).context("a body longer than announced")?;
        while left > 0 {
            let count = self.read(0).await?;
            see(&self.buffer[..count]);
            left = left.checked_sub(count as u64).context("a body longer than announced")?;
        }
        Ok(Reply { length, first_byte })
    }

    /// The length of the head, and of what has been read.
    async fn read_head(&mut self) -> anyhow::Result<(usize, usize)> {
        let mut filled = 0;
        loop {
            filled += self.read(filled).await?;
            if let Some(end) = self.buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n") {
                return Ok((end + 4, filled));
            }
            ensure!(filled < HEAD, "a response head without end");
        }
    }

    async fn read(&mut self, at: usize) -> anyhow::Result<usize> {
        let count = self.stream.read(&mut self.buffer[at..]).await?;
        ensure!(count > 0, "the connection ended early");
        Ok(count)
    }
}

/// The request for `path`, with what a client of registries sends.
pub(crate) fn request(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {MANIFEST}\r\nUser-Agent: bench\r\n\r\n").into_bytes()
}

fn content_length(head: &[u8]) -> anyhow::Result<u64> {
    let head = std::str::from_utf8(head)?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "not a 200: {}", head.lines().next().unwrap_or_default());
    let named = |line: &&str| line.get(..15).is_some_and(|name| name.eq_ignore_ascii_case("content-length:"));
    let line = head.lines().find(named).context("no Content-Length")?;
    Ok(line[15..].trim().parse()?)
}
