//! How a fill receives its bytes. Reading and writing go on side by side over a short queue, and a
//! transfer that breaks off is continued from the watermark (DESIGN §14.6).

use std::future::Future;

use bytes::Bytes;
use futures_util::future::try_join;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::continuing::{MinimumRate, TransferFailures, skip_prefix};
use super::fill::{ExpectedSize, Fill};
use super::turns::TransferPlace;
use crate::oci::{Extent, Part};
use crate::pull::core::{OUTGROWN_LIFE, UNSTORABLE_LIFE, Unstorable};
use crate::pull::error::Error;
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
    Yielded {
        unneeded: bool,
    },
}

impl Fill {
    /// Reads until the blob is whole, continuing a broken transfer from the watermark, and one
    /// without a `body` from the beginning. Also whether no part of it took a credential.
    pub(super) async fn receive_all(
        &self,
        mut staged: Staged,
        mut place: TransferPlace,
        body: Option<SourceBody>,
        size: ExpectedSize,
    ) -> Result<(Staged, bool), Error> {
        let announced = size.announced;
        let mut failures = TransferFailures::default();
        let mut body = match body {
            Some(body) => body,
            None => self.continue_from(&mut staged, announced, failures.clone()).await?,
        };
        let mut is_public = true;
        loop {
            is_public &= body.is_public;
            let before = staged.written();
            let last = match self.receive(&mut staged, &mut place, &mut body, announced).await? {
                _ if Some(staged.written()) == announced => return Ok((staged, is_public)),
                Stop::End if self.may_be_whole(&staged, size) => return Ok((staged, is_public)),
                Stop::Yielded { unneeded } => {
                    // The staged file waits for the rest.
                    drop((body, place));
                    place = self.place_again(unneeded).await?;
                    let failures = TransferFailures::default();
                    body = self.continue_from(&mut staged, announced, failures).await?;
                    continue;
                }
                Stop::End => None,
                Stop::Broken(error) => Some(error),
            };
            failures.stopped(staged.written() - before, last);
            body = self.continue_from(&mut staged, announced, failures.clone()).await?;
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
        let flight = self.guard.flight();
        let mut rate = MinimumRate::new(self.core.limits.slow_transfer);
        let unneeded = || rate.is_missed(Instant::now(), flight.written()) || flight.is_unwatched();
        let read = self.read_body(body, announced, to_disk, place.yielded(unneeded));
        let write = self.write_chunks(staged, from_source);
        let abandon_after = self.core.settings.load().abandon_after;
        tokio::select! {
            both = try_join(read, write) => both.map(|(stop, ())| stop),
            // Nobody has wanted the blob for so long. The staged file is dropped and leaves
            // nothing.
            () = self.guard.flight().unwanted(abandon_after) => Err(Error::Abandoned),
        }
    }

    /// Hands the body's chunks to the writer; `announced` is how many bytes may come.
    async fn read_body(
        &self,
        body: &mut SourceBody,
        mut announced: Option<u64>,
        to_disk: mpsc::Sender<Bytes>,
        yielded: impl Future<Output = bool>,
    ) -> Result<Stop, Error> {
        tokio::pin!(yielded);
        loop {
            let chunk = tokio::select! {
                biased;
                chunk = body.chunk() => chunk,
                unneeded = &mut yielded => return Ok(Stop::Yielded { unneeded }),
            };
            let chunk = match chunk {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(Stop::End),
                Err(error) => return Ok(Stop::Broken(error)),
            };
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

    /// Asks the source for the rest, until it gives it or has failed too often.
    async fn continue_from(
        &self,
        staged: &mut Staged,
        size: Option<u64>,
        mut failures: TransferFailures,
    ) -> Result<SourceBody, Error> {
        loop {
            failures.pause(&self.core, &self.name).await?;
            match self.resume(staged, size).await {
                Ok(body) => return Ok(body),
                Err(error) => failures.not_resumed(error)?,
            }
        }
    }

    /// One request for the bytes from the watermark on. It has no If-Range: the digest is the
    /// validator, and storage hosts give the same blob different entity tags.
    async fn resume(&self, staged: &mut Staged, size: Option<u64>) -> Result<SourceBody, Error> {
        let written = staged.written();
        let deadline = Instant::now() + self.core.limits.flight_head;
        let rest = (written > 0).then_some(Part::From(written));
        let question = self.core.sources.ask(&self.name, self.asker, deadline).await?;
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
                let rest = skip_prefix(&self.name.upstream, &mut body, known, written).await?;
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
}
