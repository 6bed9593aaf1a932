//! The bytes of one request on their way to the registry, and beside it into a staged file.
//!
//! Nothing is held but a few pieces: a registry that takes nothing holds up its client, and each
//! may be silent for so long and no longer. The disk never decides: if it fails, or is full, the
//! bytes go on without it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::{Error, PushCore, Sent};
use crate::metrics::Counter;
use crate::oci::Repository;
use crate::store::Staged;
use crate::upstream::{Feed, UploadAddress, UploadChunk, UploadStatus, UpstreamClient, feed};

/// Pieces that wait for the disk.
const BEHIND: usize = 16;

/// Bytes that are written to disk together.
const BATCH: usize = 1 << 20;

/// Where the bytes go.
pub(super) struct Request<'a> {
    pub(super) upstream: &'a Arc<UpstreamClient>,
    pub(super) repository: &'a Repository,
    /// None: a new upload.
    pub(super) address: Option<UploadAddress>,
}

/// Carries the body to the registry and waits for its answer. Gives back what has passed, if all of
/// it is on disk.
pub(super) async fn carry<B>(
    request: Request<'_>,
    sent: Sent<B>,
    passed: Option<Staged>,
    inner: &PushCore,
) -> Result<(UploadStatus, Option<Staged>), Error>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
    let Sent { body, length, range, digest } = sent;
    let (feed, upload) = feed(length);
    let (to_disk, from_client) = mpsc::channel(BEHIND);
    let counter =
        inner.metrics.cache.pushed_bytes.with_label_values(&[request.upstream.name().as_str()]);
    let (client, registry) = (inner.limits.receive_idle, inner.limits.upstream_idle);
    let pump = Pump { feed, to_disk, counter, client, registry };
    let chunk = UploadChunk { range, digest, body: upload };
    let login_deadline = Instant::now() + inner.limits.head;
    let mut answer = std::pin::pin!(answer(&request, chunk, login_deadline));
    let pass = async {
        let patience = tokio::select! {
            // An early answer, before everything was sent, is an answer all the same.
            answered = &mut answer => return answered,
            pumped = pump.run(body) => match pumped? {
                Pumped::All => inner.limits.commit,
                Pumped::Refused => registry,
            },
        };
        timeout(patience, answer).await.unwrap_or(Err(Error::RegistryStalled(patience)))
    };
    let (answered, passed) = tokio::join!(pass, keep(passed, from_client));
    Ok((answered?, passed))
}

async fn answer(
    request: &Request<'_>,
    chunk: UploadChunk,
    login_deadline: Instant,
) -> Result<UploadStatus, Error> {
    let Request { upstream, repository, address } = request;
    Ok(match address {
        Some(address) => upstream.send_chunk(repository, address, chunk, login_deadline).await?,
        None => upstream.send_whole(repository, chunk, login_deadline).await?,
    })
}

/// Feeds the registry and the disk from the client.
struct Pump {
    feed: Feed,
    to_disk: mpsc::Sender<Bytes>,
    counter: Counter,
    /// How long each side may be silent.
    client: Duration,
    registry: Duration,
}

enum Pumped {
    All,
    /// The registry takes no more, and will say why.
    Refused,
}

impl Pump {
    async fn run<B>(self, mut body: B) -> Result<Pumped, Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error,
    {
        loop {
            let frame = timeout(self.client, body.frame())
                .await
                .map_err(|_| Error::ClientStalled(self.client))?;
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|error| Error::ClientBrokeOff(error.to_string()))?;
            // Trailers say nothing that a registry wants to know.
            let Ok(bytes) = frame.into_data() else { continue };
            self.counter.inc_by(bytes.len() as u64);
            // Fails if the disk would not have it; then it goes on without.
            let _ = self.to_disk.send(bytes.clone()).await;
            let fed = timeout(self.registry, self.feed.bytes(bytes)).await;
            if fed.map_err(|_| Error::RegistryStalled(self.registry))?.is_err() {
                return Ok(Pumped::Refused);
            }
        }
        // Where the length was announced, nobody waits to be told the end.
        let _ = self.feed.end().await;
        Ok(Pumped::All)
    }
}

/// Writes what passes until nothing more comes; None if the disk would not have it.
async fn keep(passed: Option<Staged>, mut from_client: mpsc::Receiver<Bytes>) -> Option<Staged> {
    let mut staged = passed?;
    while let Some(first) = from_client.recv().await {
        let mut size = first.len();
        let mut batch = vec![first];
        while size < BATCH
            && let Ok(next) = from_client.try_recv()
        {
            size += next.len();
            batch.push(next);
        }
        staged.append(batch, |_| {}).await.ok()?;
    }
    Some(staged)
}
