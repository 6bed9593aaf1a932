//! Forwards the bytes of one request to the registry, and beside it into the mirror.
//!
//! Only a few pieces are held at a time, so a registry that takes nothing holds up its client. Each
//! side may be silent for a bounded time. The disk never decides: if it fails or is full, the bytes
//! are forwarded without a mirror.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::{Error, PushCore};
use crate::metrics::Counter;
use crate::oci::{ChunkRange, Digest, Repository};
use crate::pull::Asker;
use crate::store::Staged;
use crate::upstream::{Feed, UploadAddress, UploadChunk, UploadStatus, UpstreamClient, feed};

/// Pieces that wait for the disk. The registry gets a piece only once there is a place for it here,
/// so a slow disk slows the push: kept in the cache as well, a layer of 4 GiB took three times as
/// long as passed through alone (benches/README.md).
const DISK_QUEUE_PIECES: usize = 16;

/// Bytes after which no more pieces are added to one write to the disk.
const DISK_BATCH_BYTES: usize = 1 << 20;

/// The body of a client's request, and what its head says of it.
#[derive(Debug)]
pub(crate) struct ClientChunk<B> {
    pub body: B,
    /// Bytes, if announced.
    pub length: Option<u64>,
    /// Where in the blob they belong, if the client says.
    pub range: Option<ChunkRange>,
    /// The digest of the whole blob, if these bytes complete it.
    pub digest: Option<Digest>,
    pub asker: Asker,
}

/// Where the bytes go.
pub(super) struct Destination<'a> {
    pub(super) upstream: &'a Arc<UpstreamClient>,
    pub(super) repository: &'a Repository,
    /// None: a new upload.
    pub(super) address: Option<UploadAddress>,
}

/// What forwarding a chunk came to.
pub(super) struct ChunkForwarded {
    pub(super) uploaded: UploadStatus,
    /// None if there was no mirror, or if the disk did not take all of the bytes.
    pub(super) mirror: Option<Staged>,
}

/// Sends the body to the registry and waits for its answer.
pub(super) async fn forward<B>(
    destination: Destination<'_>,
    chunk: ClientChunk<B>,
    mirror: Option<Staged>,
    inner: &PushCore,
) -> Result<ChunkForwarded, Error>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
    let ClientChunk { body, length, range, digest, .. } = chunk;
    let (feed, upload_body) = feed(length);
    let (to_disk, from_client) = mpsc::channel(DISK_QUEUE_PIECES);
    let counter =
        inner.metrics.cache.pushed_bytes.with_label_values(&[destination.upstream.name().as_str()]);
    let (client_idle, registry_idle) = (inner.limits.receive_idle, inner.limits.upstream_idle);
    let forwarder = BodyForwarder { feed, to_disk, counter, client_idle, registry_idle };
    let chunk = UploadChunk { range, digest, body: upload_body };
    let login_deadline = Instant::now() + inner.limits.head;
    let mut answer = std::pin::pin!(send(&destination, chunk, login_deadline));
    let forwarding = async {
        let patience = tokio::select! {
            // The registry may answer before it has all bytes, as with 403 or 413. That is its
            // answer, although the client is still sending.
            answered = &mut answer => return answered,
            ended = forwarder.run(body) => match ended? {
                // It may have to move every byte of the upload before it answers.
                ForwardEnd::All => inner.limits.commit,
                ForwardEnd::RegistryStopped => registry_idle,
            },
        };
        timeout(patience, answer).await.unwrap_or(Err(Error::RegistryStalled(patience)))
    };
    // Side by side: the disk writes while the next bytes arrive. `forwarding` drops the forwarder
    // when it ends, and with it the sender of the queue, which ends the mirror's side.
    let (uploaded, mirror) = tokio::join!(forwarding, append_all(mirror, from_client));
    Ok(ChunkForwarded { uploaded: uploaded?, mirror })
}

async fn send(
    destination: &Destination<'_>,
    chunk: UploadChunk,
    login_deadline: Instant,
) -> Result<UploadStatus, Error> {
    let Destination { upstream, repository, address } = destination;
    Ok(match address {
        Some(address) => upstream.send_chunk(repository, address, chunk, login_deadline).await?,
        None => upstream.send_whole(repository, chunk, login_deadline).await?,
    })
}

/// Reads from the client, and hands each piece to the disk and to the registry.
struct BodyForwarder {
    feed: Feed,
    to_disk: mpsc::Sender<Bytes>,
    counter: Counter,
    /// How long the client may send nothing.
    client_idle: Duration,
    /// How long the registry may take nothing.
    registry_idle: Duration,
}

/// How the forwarding of a body ended.
enum ForwardEnd {
    All,
    /// The registry takes no more bytes; its answer says why.
    RegistryStopped,
}

impl BodyForwarder {
    async fn run<B>(self, mut body: B) -> Result<ForwardEnd, Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error,
    {
        loop {
            let frame = timeout(self.client_idle, body.frame())
                .await
                .map_err(|_| Error::ClientStalled(self.client_idle))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| Error::ClientBrokeOff(error.to_string()))?;
            // Trailers are dropped: no client's header fields reach a registry.
            let Ok(bytes) = frame.into_data() else { continue };
            self.counter.inc_by(bytes.len() as u64);
            // Fails without a mirror, or after the disk has failed. The registry gets the bytes all
            // the same.
            let _ = self.to_disk.send(bytes.clone()).await;
            let fed = timeout(self.registry_idle, self.feed.bytes(bytes)).await;
            if fed.map_err(|_| Error::RegistryStalled(self.registry_idle))?.is_err() {
                return Ok(ForwardEnd::RegistryStopped);
            }
        }
        // Fails where the length was announced: then nobody reads on after the last byte.
        let _ = self.feed.end().await;
        Ok(ForwardEnd::All)
    }
}

/// Appends what comes to the mirror until the sender is gone; None if the disk fails or is full.
async fn append_all(
    mirror: Option<Staged>,
    mut from_client: mpsc::Receiver<Bytes>,
) -> Option<Staged> {
    let mut staged = mirror?;
    while let Some(first) = from_client.recv().await {
        let mut size = first.len();
        let mut batch = vec![first];
        while size < DISK_BATCH_BYTES
            && let Ok(next) = from_client.try_recv()
        {
            size += next.len();
            batch.push(next);
        }
        // Nobody reads a mirror, so there is no watermark to move.
        staged.append(batch, |_| {}).await.ok()?;
    }
    Some(staged)
}
