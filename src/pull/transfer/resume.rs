//! How a fill receives its bytes. Reading and writing go on side by side over a short queue, and a
//! transfer that breaks off is continued from the watermark (DESIGN §14.6).

use std::future::Future;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::future::try_join;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::continuing::{TransferFailures, skip_prefix};
use super::fill::{ExpectedSize, Fill};
use super::turns::TransferPlace;
use crate::oci::{Extent, Part};
use crate::pull::core::{OUTGROWN_LIFE, UNSTORABLE_LIFE, Unstorable};
use crate::pull::error::{Error, Missing};
use crate::pull::shares::Precedence;
use crate::pull::source::{Arrived, SourceBody};
use crate::store::{StageError, Staged};

/// Chunks that are read ahead of the disk. A chunk is at most one read buffer of the HTTP client,
/// some 400 KiB.
const CHUNKS_AHEAD: usize = 8;

/// Why the bytes of a source stopped.
enum Stop {
    /// The framing ended cleanly.
    End,
    Broken(Error),
    /// The place is given back to somebody who waits.
    Yielded(Precedence),
}

impl Fill {
    /// Reads until the blob is whole, continuing a broken transfer from the watermark, and one
    /// without a `body` from the beginning. Also whether no part of it took a credential.
    pub(super) async fn receive_all(
        &self,
        mut staged: Staged,
        mut place: TransferPlace,
        mut body: Option<SourceBody>,
        size: ExpectedSize,
    ) -> Result<(Staged, bool), Error> {
        let announced = size.announced;
        let mut failures = TransferFailures::default();
        let mut is_public = true;
        loop {
            let mut open = if let Some(body) = body.take() {
                body
            } else {
                let continued = self.continue_from(&staged, place, announced, failures.clone());
                let (again, body) = self.unless_abandoned(Box::pin(continued)).await?;
                place = again;
                body
            };
            is_public &= open.is_public;
            let before = staged.written();
            let last = match self.receive(&mut staged, &mut place, &mut open, announced).await? {
                _ if Some(staged.written()) == announced => return Ok((staged, is_public)),
                Stop::End if self.may_be_whole(&staged, size) => return Ok((staged, is_public)),
                Stop::Yielded(precedence) => {
                    // The staged file waits for the rest.
                    drop((open, place));
                    place = self.unless_abandoned(self.place_again(precedence)).await?;
                    failures = TransferFailures::default();
                    continue;
                }
                Stop::End => None,
                Stop::Broken(error) => Some(error),
            };
            failures.stopped(staged.written() - before, last);
        }
    }

    /// Whether a clean end may be the end of the blob: without an announced size the digest
    /// decides, not a manifest.
    fn may_be_whole(&self, staged: &Staged, size: ExpectedSize) -> bool {
        let short = size.described.is_some_and(|described| staged.written() < described);
        let is_right = || staged.hasher().is_some_and(|hasher| hasher.finish() == self.digest);
        size.announced.is_none() && (!short || is_right())
    }

    /// Reads and writes side by side until the source stops; everything read is then written.
    async fn receive(
        &self,
        staged: &mut Staged,
        place: &mut TransferPlace,
        body: &mut SourceBody,
        size: Option<u64>,
    ) -> Result<Stop, Error> {
        let (to_disk, from_source) = mpsc::channel(CHUNKS_AHEAD);
        let announced = size.map(|size| size.saturating_sub(staged.written()));
        let yielded = place.yielded(|| self.came.load(Ordering::Relaxed));
        let read = self.read_body(body, announced, to_disk, yielded);
        let write = self.write_chunks(staged, from_source);
        self.unless_abandoned(try_join(read, write)).await.map(|(stop, ())| stop)
    }

    /// Hands the body's chunks to the writer; `announced` is how many bytes may come.
    async fn read_body(
        &self,
        body: &mut SourceBody,
        mut announced: Option<u64>,
        to_disk: mpsc::Sender<Bytes>,
        yielded: impl Future<Output = Precedence>,
    ) -> Result<Stop, Error> {
        tokio::pin!(yielded);
        loop {
            let chunk = tokio::select! {
                biased;
                chunk = body.chunk() => chunk,
                precedence = &mut yielded => return Ok(Stop::Yielded(precedence)),
            };
            let chunk = match chunk {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(Stop::End),
                Err(error) => return Ok(Stop::Broken(error)),
            };
            self.came.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if let Some(left) = &mut announced {
                let rest = left.checked_sub(chunk.len() as u64);
                *left = rest.ok_or_else(|| self.untrue("more bytes than it announced"))?;
            }
            if to_disk.send(chunk).await.is_err() {
                return Ok(Stop::End); // the writer has failed, and returns that error itself
            }
        }
    }

    async fn write_chunks(
        &self,
        staged: &mut Staged,
        mut from_source: mpsc::Receiver<Bytes>,
    ) -> Result<(), Error> {
        while let Some(chunk) = from_source.recv().await {
            // One write takes all that has come in during the one before.
            let mut batch = vec![chunk];
            while let Ok(chunk) = from_source.try_recv() {
                batch.push(chunk);
            }
            self.write(staged, batch).await?;
        }
        Ok(())
    }

    async fn write(&self, staged: &mut Staged, batch: Vec<Bytes>) -> Result<(), Error> {
        let known = staged.hasher();
        let least = staged.written() + batch.iter().map(|chunk| chunk.len() as u64).sum::<u64>();
        let remember = |why, life| self.core.unstorable.insert(self.digest.clone(), why, life);
        staged.append(batch, self.guard.watermark()).await.map_err(|error| {
            // Readers go on without the file (DESIGN §14.10).
            if let Some(known) = known {
                self.guard.leave_off(known);
            }
            match error {
                StageError::NoRoom => {
                    remember(Unstorable::Outgrown(least), OUTGROWN_LIFE);
                    Error::NoRoom
                }
                StageError::Failed(error) => {
                    remember(Unstorable::Failed, UNSTORABLE_LIFE);
                    error.into()
                }
            }
        })
    }

    /// Asks the source for the rest, until it gives it or has failed too often. The place is given
    /// back meanwhile like that of any transfer; if that is because nothing comes, it is a failure.
    async fn continue_from(
        &self,
        staged: &Staged,
        mut place: TransferPlace,
        size: Option<u64>,
        mut failures: TransferFailures,
    ) -> Result<(TransferPlace, SourceBody), Error> {
        loop {
            failures.pause(&self.core, &self.name).await?;
            let resumed = tokio::select! {
                biased;
                resumed = self.resume(staged, size) => Ok(resumed),
                precedence = place.yielded(|| self.came.load(Ordering::Relaxed)) => Err(precedence),
            };
            match resumed {
                Ok(Ok(body)) => return Ok((place, body)),
                Ok(Err(error)) => failures.not_resumed(error)?,
                Err(precedence) => {
                    drop(place);
                    place = self.place_again(precedence).await?;
                    if precedence == Precedence::Yielded {
                        failures.not_resumed(Error::Overloaded)?;
                    }
                }
            }
        }
    }

    /// One request for the bytes from the watermark on. It has no If-Range: the digest is the
    /// validator, and storage hosts give the same blob different entity tags.
    async fn resume(&self, staged: &Staged, size: Option<u64>) -> Result<SourceBody, Error> {
        let written = staged.written();
        let deadline = Instant::now() + self.core.limits.flight_head;
        let rest = (written > 0).then_some(Part::From(written));
        let question =
            self.core.sources.ask(&self.name, Missing::Blob, self.interest(), deadline).await?;
        let Arrived { extent, mut body, .. } =
            question.blob(&self.name.repository, &self.digest, rest, deadline).await?;
        drop(question);
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
            // The source ignores Range and starts again from the first byte.
            Extent::Whole { .. } => {
                let known = staged.hasher().ok_or(Error::Abandoned)?;
                skip_prefix(&self.name.upstream, &mut body, (known, written), &self.came).await?;
                Ok(body)
            }
        }
    }
}
