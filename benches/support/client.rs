//! Raw HTTP/1.1 over one kept connection, plain or encrypted: reads large pieces and lets them go,
//! so that the server is what is measured.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::content::MANIFEST;

/// No single answer takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// Longest response head.
const HEAD: usize = 8 << 10;

/// A connection, and the buffer that everything is read into.
pub(crate) struct Client {
    stream: Box<dyn Stream>,
    buffer: Vec<u8>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

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
        Self::connect_with(address, buffer, None).await
    }

    /// The same, encrypted if `tls` says how.
    pub(crate) async fn connect_with(
        address: SocketAddr,
        buffer: usize,
        tls: Option<&Arc<ClientConfig>>,
    ) -> anyhow::Result<Self> {
        let plain = timeout(PATIENCE, TcpStream::connect(address)).await??;
        plain.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(plain),
            Some(config) => {
                let connector = TlsConnector::from(Arc::clone(config));
                let name = ServerName::from(address.ip());
                Box::new(timeout(PATIENCE, connector.connect(name, plain)).await??)
            }
        };
        Ok(Self { stream, buffer: vec![0; buffer.max(HEAD)] })
    }

    /// Asks and reads the answer to its end; every part of the body goes by `see`.
    ///
    /// # Errors
    /// If the status is not 200, the length is not announced, or the body is shorter.
    pub(crate) async fn get(
        &mut self,
        request: &[u8],
        mut see: impl FnMut(&[u8]),
    ) -> anyhow::Result<Reply> {
        self.send(request).await?;
        let (head, mut filled) = self.read_head().await?;
        let length = content_length(good(&self.buffer[..head])?)?;
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

    /// Asks for something small, and gives head and body, whatever the status.
    pub(crate) async fn whole(&mut self, request: &[u8]) -> anyhow::Result<(String, String)> {
        self.send(request).await?;
        let (head, mut filled) = self.read_head().await?;
        let text = std::str::from_utf8(&self.buffer[..head])?.to_owned();
        let end = head + usize::try_from(content_length(&text)?)?;
        ensure!(end <= self.buffer.len(), "a body of {end} bytes with its head");
        while filled < end {
            filled += self.read(filled).await?;
        }
        Ok((text, std::str::from_utf8(&self.buffer[head..end])?.to_owned()))
    }

    /// TLS may have taken the request and not written it yet, if this task has had its share of
    /// turns.
    async fn send(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).await?;
        Ok(self.stream.flush().await?)
    }

    /// The length of the head, and of what has been read.
    async fn read_head(&mut self) -> anyhow::Result<(usize, usize)> {
        let mut filled = 0;
        loop {
            filled += self.read(filled).await?;
            if let Some(end) =
                self.buffer[..filled].windows(4).position(|window| window == b"\r\n\r\n")
            {
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
    format!(
        "GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: {MANIFEST}\r\nUser-Agent: bench\r\n\r\n"
    )
    .into_bytes()
}

/// The same from somebody, as their `Authorization` says.
pub(crate) fn request_as(path: &str, authorization: &str) -> Vec<u8> {
    let mut request = request(path);
    request.truncate(request.len() - 2);
    request.extend_from_slice(format!("Authorization: {authorization}\r\n\r\n").as_bytes());
    request
}

pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

fn good(head: &[u8]) -> anyhow::Result<&str> {
    let head = std::str::from_utf8(head)?;
    ensure!(
        head.starts_with("HTTP/1.1 200 "),
        "not a 200: {}",
        head.lines().next().unwrap_or_default()
    );
    Ok(head)
}

fn content_length(head: &str) -> anyhow::Result<u64> {
    let named = |line: &&str| {
        line.get(..15).is_some_and(|name| name.eq_ignore_ascii_case("content-length:"))
    };
    let line = head.lines().find(named).context("no Content-Length")?;
    Ok(line[15..].trim().parse()?)
}
