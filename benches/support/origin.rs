//! The upstream registry of the measurements: plain HTTP/1.1 by hand, so that it costs little and
//! knows when its first byte left.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::content::Content;

/// The repository everything stands in.
pub(crate) const REPOSITORY: &str = "bench/app";
pub(crate) const TAG: &str = "latest";

/// A limited body goes out in pieces of this size, each at its time.
const PIECE: usize = 128 << 10;

/// Stops with its handle.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    accepting: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    contents: Mutex<HashMap<String, Arc<Content>>>,
    /// Bytes per second of one body; zero is no limit.
    rate: AtomicU64,
    blob_gets: AtomicU64,
    first_byte: Mutex<Option<Instant>>,
}

impl Origin {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        let accepting = tokio::spawn(accept(listener, Arc::clone(&shared))).abort_handle();
        Ok(Self { address, shared, accepting })
    }

    pub(crate) fn add_blob(&self, blob: &Arc<Content>) {
        self.shared.contents().insert(blob_path(blob), Arc::clone(blob));
    }

    /// Under any path.
    pub(crate) fn add(&self, path: String, content: &Arc<Content>) {
        self.shared.contents().insert(path, Arc::clone(content));
    }

    /// Under its digest and under [`TAG`].
    pub(crate) fn add_manifest(&self, manifest: &Arc<Content>) {
        let mut contents = self.shared.contents();
        contents.insert(manifest_path(manifest.digest.as_str()), Arc::clone(manifest));
        contents.insert(manifest_path(TAG), Arc::clone(manifest));
    }

    /// Bytes per second of each body from now on; zero is no limit.
    pub(crate) fn limit(&self, rate: u64) {
        self.shared.rate.store(rate, Ordering::Relaxed);
    }

    /// GETs of blobs so far.
    pub(crate) fn blob_gets(&self) -> u64 {
        self.shared.blob_gets.load(Ordering::Relaxed)
    }

    /// When the body of the last blob began to leave.
    pub(crate) fn first_byte(&self) -> Option<Instant> {
        *self.shared.first_byte.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

pub(crate) fn blob_path(blob: &Content) -> String {
    format!("/v2/{REPOSITORY}/blobs/{}", blob.digest)
}

pub(crate) fn manifest_path(reference: &str) -> String {
    format!("/v2/{REPOSITORY}/manifests/{reference}")
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        // A client that leaves ends its connection, which nobody waits for.
        tokio::spawn(async move { shared.serve(stream).await.ok() });
    }
}

impl Shared {
    fn contents(&self) -> MutexGuard<'_, HashMap<String, Arc<Content>>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn serve(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        while let Some(head) = read_head(&mut stream).await? {
            let mut words = head.split_ascii_whitespace();
            let method = words.next().context("a method")?;
            let path = words.next().context("a path")?;
            self.answer(&mut stream, method, path).await?;
        }
        Ok(())
    }

    async fn answer(&self, stream: &mut TcpStream, method: &str, path: &str) -> anyhow::Result<()> {
        let content = self.contents().get(path).cloned();
        let Some(content) = content else {
            let status = if path == "/v2/" { "200 OK" } else { "404 Not Found" };
            // A 404 counts as a registry's own by this header.
            let answer = format!(
                "HTTP/1.1 {status}\r\nDocker-Distribution-Api-Version: registry/2.0\r\n\
                 Content-Length: 0\r\n\r\n"
            );
            return Ok(stream.write_all(answer.as_bytes()).await?);
        };
        let Content { size, media_type, digest, .. } = &*content;
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Length: {size}\r\n\
             Docker-Content-Digest: {digest}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        if method == "GET" {
            self.send(stream, path, &content).await?;
        }
        Ok(())
    }

    async fn send(
        &self,
        stream: &mut TcpStream,
        path: &str,
        content: &Content,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        if path.contains("/blobs/") {
            self.blob_gets.fetch_add(1, Ordering::Relaxed);
            *self.first_byte.lock().unwrap_or_else(PoisonError::into_inner) = Some(start);
        }
        let rate = self.rate.load(Ordering::Relaxed);
        let mut sent = 0;
        for block in content.blocks() {
            if rate == 0 {
                stream.write_all(&block).await?;
                continue;
            }
            for piece in block.chunks(PIECE) {
                stream.write_all(piece).await?;
                sent += piece.len() as u64;
                sleep_until(start + Duration::from_micros(sent * 1_000_000 / rate)).await;
            }
        }
        Ok(())
    }
}

/// A request head; requests here have no bodies. `None` is the end of the connection.
async fn read_head(stream: &mut TcpStream) -> anyhow::Result<Option<String>> {
    let mut head = Vec::with_capacity(1024);
    while !head.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(head.len() < 16 << 10, "a head without end");
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(String::from_utf8(head)?))
}
