//! The task that runs a flight: upstream's bytes into a staged file, verified, released, made
//! durable, published.
//!
//! It belongs to nobody's request. Reading and writing go on side by side over a short channel; a
//! broken transfer is continued from the watermark.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::try_join;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::flight::{FlightGuard, Source};
use crate::metrics::Counted;
use crate::oci::{CanonicalName, Digest, Hasher};
use crate::oci::{Extent, Part};
use crate::pull::Error;
use crate::pull::facts::negative::Subject;
use crate::pull::{Inner, UNSTORABLE};
use crate::store::{EvictionClass, StageError, Staged, Suspect};
use crate::upstream::{BlobBody, BlobResponse};
use tokio::time::Instant;

/// Chunks read ahead of the disk; a chunk is at most a read buffer of the client, some 400 KiB.
const READ_AHEAD: usize = 8;

/// A transfer that brings less than this is not counted as progress (DESIGN §14.6).
const PROGRESS: u64 = 1 << 20;

/// Attempts in a row without progress.
const ATTEMPTS: u32 = 3;

pub(in crate::pull) struct Fill {
    pub(in crate::pull) inner: Arc<Inner>,
    pub(in crate::pull) name: CanonicalName,
    pub(in crate::pull) digest: Digest,
    pub(in crate::pull) guard: FlightGuard,
}

/// Why upstream's bytes stopped.
enum Stop {
    /// The framing ended cleanly.
    End,
    Cut(Arc<crate::upstream::Error>),
}

impl Fill {
    /// Runs the flight to its end; every failure reaches the readers through the guard.
    pub(in crate::pull) async fn run(self) {
        let _counted = Counted::one(&self.inner.metrics.fills.in_flight);
        if let Err(error) = self.transfer().await {
            if !is_answer(&error) {
                self.report(&error);
            }
            self.inner
                .membership
                .withdraw(&self.name, Subject::Blob(self.digest.clone()), &error)
                .await;
            self.guard.end(Err(error));
        }
    }

    /// Hashes a stored file that nobody vouches for, its readers following (DESIGN §14.9).
    pub(in crate::pull) async fn recheck(self, suspect: Suspect) {
        let size = suspect.size();
        self.guard.open(Source { reader: suspect.reader(), size: Some(size) });
        let verdict = suspect.check(|hashed| self.guard.watermark()(hashed)).await;
        self.guard.end(match verdict {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::Damaged(self.digest.clone())),
            Err(error) => Err(error.into()),
        });
    }

    async fn transfer(&self) -> Result<(), Error> {
        // First the login: a credential helper that hangs shall take nobody's turn.
        let upstream = self.inner.upstream(&self.name)?;
        let known = upstream
            .know_login(&self.name.repository, Instant::now() + self.inner.limits.flight_head)
            .await;
        known.map_err(|error| Error::from_upstream(error, Error::BlobUnknown))?;
        let _turn = self.turn().await?;
        let asked = self.inner.clock.now();
        let response = self.ask(None).await?;
        let size = self.size_of(&response)?;
        self.inner.membership.prove_as_of(asked, &self.name, &self.digest, None).await;
        let Some(staged) = self.stage(size).await else {
            self.guard.give_away(response);
            return Ok(());
        };
        self.guard.open(Source { reader: staged.reader(), size });
        let staged = self.receive_all(staged, response.body, size).await?;
        self.publish(staged).await
    }

    /// Waits for a place among the downloads.
    async fn turn(&self) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), Error> {
        let queue = async {
            let own = self.inner.turns.of(&self.name.upstream).acquire_owned().await.ok()?;
            let any = self.inner.turns.any().acquire_owned().await.ok()?;
            Some((own, any))
        };
        let waited = tokio::time::timeout(self.inner.limits.fill_queue, queue).await;
        waited.ok().flatten().ok_or(Error::Overloaded)
    }

    /// Asks the upstream as it is configured now: a transfer that is continued uses the newest
    /// credential.
    async fn ask(&self, part: Option<Part>) -> Result<BlobResponse, Error> {
        let upstream = self.inner.upstream(&self.name)?;
        let answer = upstream
            .get_blob(
                &self.name.repository,
                &self.digest,
                part,
                Instant::now() + self.inner.limits.flight_head,
            )
            .await;
        answer.map_err(|error| Error::from_upstream(error, Error::BlobUnknown))
    }

    /// The size by Content-Length, else by the repository's descriptor; they must not differ
    /// (DESIGN §14.5).
    fn size_of(&self, response: &BlobResponse) -> Result<Option<u64>, Error> {
        let Extent::Whole { size } = response.extent else {
            return Err(self.untrue("a part where the whole was asked for"));
        };
        match (size, self.inner.sizes.get(&self.name, &self.digest)) {
            (Some(size), Some(described)) if size != described => {
                Err(self.untrue(format!("{size} bytes where the manifest says {described}")))
            }
            (size, described) => Ok(size.or(described)),
        }
    }

    /// A place for the bytes, if there is one.
    async fn stage(&self, size: Option<u64>) -> Option<Staged> {
        if self.inner.unstorable.contains(&self.digest) {
            return None;
        }
        let staged = self.inner.store.stage(&self.digest, size).await;
        if let Err(StageError::Failed(error)) = &staged {
            tracing::error!(%error, digest = %self.digest, "cannot store a blob; passing it through");
        }
        staged.ok()
    }

    /// Reads until the blob is whole, continuing a broken transfer from the watermark (DESIGN
    /// §14.6).
    async fn receive_all(
        &self,
        mut staged: Staged,
        mut body: BlobBody,
        size: Option<u64>,
    ) -> Result<Staged, Error> {
        let mut failures = 0;
        loop {
            let before = staged.written();
            let stop;
            (staged, stop) = self.receive(staged, &mut body, size).await?;
            let cut = match stop {
                _ if Some(staged.written()) == size => return Ok(staged),
                Stop::End if size.is_none() => return Ok(staged),
                Stop::End => None,
                Stop::Cut(cut) => Some(cut),
            };
            failures = if staged.written() - before < PROGRESS { failures + 1 } else { 0 };
            (staged, body) = self.continue_from(staged, size, (failures, cut)).await?;
        }
    }

    /// Reads and writes side by side until upstream stops; everything read is then written.
    async fn receive(
        &self,
        mut staged: Staged,
        body: &mut BlobBody,
        size: Option<u64>,
    ) -> Result<(Staged, Stop), Error> {
        let (to_disk, mut from_upstream) = mpsc::channel::<Bytes>(READ_AHEAD);
        let mut announced = size.map(|size| size.saturating_sub(staged.written()));
        let read = async move {
            loop {
                let chunk = match body.chunk().await {
                    Ok(Some(chunk)) => chunk,
                    Ok(None) => return Ok(Stop::End),
                    Err(cut) => return Ok(Stop::Cut(Arc::new(cut))),
                };
                if let Some(left) = &mut announced {
                    let rest = left.checked_sub(chunk.len() as u64);
                    *left = rest.ok_or_else(|| self.untrue("more bytes than it announced"))?;
                }
                if to_disk.send(chunk).await.is_err() {
                    return Ok(Stop::End); // the writer has failed and says so itself
                }
            }
        };
        let write = async {
            while let Some(chunk) = from_upstream.recv().await {
                let mut batch = vec![chunk];
                while let Ok(chunk) = from_upstream.try_recv() {
                    batch.push(chunk);
                }
                self.write(&mut staged, batch).await?;
            }
            Ok(())
        };
        tokio::select! {
            both = try_join(read, write) => both.map(|(stop, ())| (staged, stop)),
            () = self.guard.flight().unwanted(self.inner.ages.load().abandon_after) => Err(Error::Abandoned),
        }
    }

    async fn write(&self, staged: &mut Staged, batch: Vec<Bytes>) -> Result<(), Error> {
        staged.append(batch, self.guard.watermark()).await.map_err(|error| {
            // The next request passes the blob through instead (DESIGN §14.10).
            self.inner.unstorable.insert(self.digest.clone(), (), UNSTORABLE);
            match error {
                StageError::NoRoom => Error::NoRoom,
                StageError::Failed(error) => error.into(),
            }
        })
    }

    /// Asks upstream for the rest, until it gives it or has failed too often.
    async fn continue_from(
        &self,
        mut staged: Staged,
        size: Option<u64>,
        (mut failures, mut cut): (u32, Option<Arc<crate::upstream::Error>>),
    ) -> Result<(Staged, BlobBody), Error> {
        loop {
            if failures >= ATTEMPTS {
                return Err(match cut {
                    Some(last) => Error::Broken { attempts: failures, last },
                    None => self.untrue("fewer bytes than it announced"),
                });
            }
            self.inner
                .metrics
                .fills
                .resumes
                .with_label_values(&[self.name.upstream.as_str()])
                .inc();
            tokio::time::sleep(self.inner.limits.retry_pause * failures).await;
            match self.resume(&mut staged, size).await {
                Ok(body) => return Ok((staged, body)),
                Err(Error::Upstream(last)) => {
                    failures += 1;
                    cut = Some(last);
                }
                // A refusal ends the flight: upstream has taken the blob back, or will not say more
                // for now.
                Err(error) => return Err(error),
            }
        }
    }

    /// One request for the bytes behind the watermark. There is no If-Range: the digest is the
    /// validator.
    async fn resume(&self, staged: &mut Staged, size: Option<u64>) -> Result<BlobBody, Error> {
        let written = staged.written();
        let BlobResponse { extent, mut body } = self.ask(Some(Part::From(written))).await?;
        match extent {
            Extent::Part { span, total }
                if span.first() == written
                    && (size.is_none() || total.is_none() || total == size) =>
            {
                Ok(body)
            }
            Extent::Part { .. } => {
                Err(self.untrue("another part, or of another size, than was asked for"))
            }
            Extent::Whole { size: whole } if size.is_some() && whole.is_some() && whole != size => {
                Err(self.untrue("a blob of another size than before"))
            }
            Extent::Whole { .. } => {
                let rest = self.skip_prefix(staged, &mut body).await?;
                if size.is_some_and(|size| rest.len() as u64 > size - written) {
                    return Err(self.untrue("more bytes than it announced"));
                }
                if !rest.is_empty() {
                    self.write(staged, vec![rest]).await?;
                }
                Ok(body)
            }
        }
    }

    /// Upstream started over: what it sends again must be what is written already (RELIABILITY
    /// U-5). Gives what came with the last piece of it.
    async fn skip_prefix(&self, staged: &Staged, body: &mut BlobBody) -> Result<Bytes, Error> {
        let Some(expected) = staged.hasher().map(Hasher::finish) else {
            return Err(Error::Abandoned);
        };
        let mut hasher = Hasher::new(self.digest.algorithm());
        let mut left = staged.written();
        let mut rest = Bytes::new();
        while left > 0 {
            let chunk = body
                .chunk()
                .await
                .map_err(|error| Error::from_upstream(error, Error::BlobUnknown))?;
            let Some(mut chunk) = chunk else { return Err(self.untrue("fewer bytes than before")) };
            let known = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
            rest = chunk.split_off(known);
            hasher.update(&chunk);
            left -= known as u64;
        }
        if hasher.finish() == expected {
            Ok(rest)
        } else {
            Err(self.untrue("other bytes than before"))
        }
    }

    /// Verifies, releases the readers, and only then waits for the disk.
    async fn publish(&self, staged: Staged) -> Result<(), Error> {
        let verified = staged
            .verify()
            .map_err(|mismatch| self.untrue(format!("wrong content: {mismatch}")))?;
        self.guard.end(Ok(()));
        if let Err(error) = verified.publish(EvictionClass::Blob, self.inner.clock.now()).await {
            tracing::error!(%error, digest = %self.digest, "cannot publish a blob");
        }
        Ok(())
    }

    fn untrue(&self, reason: impl Into<Arc<str>>) -> Error {
        Error::untrue(&self.name.upstream, reason)
    }

    fn report(&self, error: &Error) {
        let labels = [self.name.upstream.as_str(), error.reason()];
        self.inner.metrics.fills.failures.with_label_values(&labels).inc();
        tracing::warn!(upstream = %self.name.upstream, repository = %self.name.repository, digest = %self.digest,
            reason = error.reason(), %error, "a download stored nothing");
    }
}

/// Whether upstream has said no before any byte: that is told by whoever asked, not as a failed
/// download.
fn is_answer(error: &Error) -> bool {
    matches!(error, Error::BlobUnknown | Error::Refused(_) | Error::RateLimited { .. })
}
