//! Passing through without storing: a blob that the cache has no room for, or a range far ahead of
//! a download. A body that breaks off is continued, as a download is (DESIGN §14.6).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::continuing::{TransferFailures, skip_prefix};
use super::held_back::HeldBack;
use super::turns::TransferPlace;
use crate::oci::{ByteSpan, CanonicalName, Digest, Extent, Hasher, Part};
use crate::pull::answers::ByteStream;
use crate::pull::core::PullCore;
use crate::pull::error::{Error, Missing};
use crate::pull::facts::subject::Subject;
use crate::pull::interest::Interest;
use crate::pull::shares::Precedence;
use crate::pull::source::{Arrived, SourceBody};

/// What is passed through.
#[derive(Clone, Debug)]
pub(crate) struct RelayedBlob {
    pub(in crate::pull) core: Arc<PullCore>,
    pub(crate) name: CanonicalName,
    pub(crate) digest: Digest,
    /// Of its one reader.
    pub(in crate::pull) interest: Interest,
}

/// A body that is passed through.
struct Relay {
    blob: RelayedBlob,
    /// `None` before the source was asked for a rest.
    open: Option<OpenTransfer>,
    /// Whether others come first when the next place is asked for.
    precedence: Precedence,
    /// Bytes that the source has sent, those among them that the reader has already.
    came: AtomicU64,
    /// Where in the blob the next byte is, and where the last one that is wanted ends, if that is
    /// known.
    at: u64,
    end: Option<u64>,
    /// Where the body was begun, or continued.
    continued_at: u64,
    failures: TransferFailures,
    /// `None` for a part, which cannot be verified.
    verification: Option<HeldBack>,
}

struct OpenTransfer {
    place: TransferPlace,
    /// `None` before it was asked for.
    body: Option<SourceBody>,
}

/// What reading on came to.
enum Reading {
    Chunk(Bytes),
    /// The clean end of the body.
    End,
    Broken(Error),
    /// There is no body.
    Closed,
    /// The place is to be given back to somebody who waits.
    Yielded(Precedence),
}

/// Of whoever reads, for the next bytes.
type Demand = oneshot::Sender<Result<Option<Bytes>, Error>>;

impl RelayedBlob {
    /// All of it, of `size` bytes, if that is known: hashed on the way, its end withheld until the
    /// digest is right.
    pub(crate) fn whole(
        self,
        place: TransferPlace,
        body: Option<SourceBody>,
        size: Option<u64>,
    ) -> ByteStream {
        let nothing = Hasher::new(self.digest.algorithm());
        let check = HeldBack::new(nothing, Vec::new(), self.core.limits.hold_back);
        Relay::new(self, Some(OpenTransfer { place, body }), (0, size), Some(check)).into_stream()
    }

    /// A part of it. It cannot be verified, so nothing of it is held back.
    pub(crate) fn part(
        self,
        place: TransferPlace,
        body: Option<SourceBody>,
        part: ByteSpan,
    ) -> ByteStream {
        let span = (part.first(), Some(part.end()));
        Relay::new(self, Some(OpenTransfer { place, body }), span, None).into_stream()
    }

    /// The rest of a blob of `size` bytes whose beginning, `held` at its end, was read from a
    /// flight's file: hashed on from `known`, so that its end is withheld as if it came from there.
    pub(super) fn rest(
        self,
        known: Hasher,
        held: Vec<Bytes>,
        at: u64,
        size: Option<u64>,
    ) -> ByteStream {
        let check = HeldBack::new(known, held, self.core.limits.hold_back);
        Relay::new(self, None, (at, size), Some(check)).into_stream()
    }

    /// The rest of a part of it.
    pub(super) fn rest_of_part(self, span: Range<u64>) -> ByteStream {
        Relay::new(self, None, (span.start, Some(span.end)), None).into_stream()
    }

    /// Waits for the place of a reader that has a part of its answer already: it waits longer than
    /// one that has none.
    async fn place_for_rest(&self, precedence: Precedence) -> Result<TransferPlace, Error> {
        let Self { core, name, interest, .. } = self;
        let patience = core.settings.load().abandon_after.max(core.limits.fill_queue);
        core.turns.place(name, interest, precedence, Instant::now() + patience).await
    }

    fn untrue(&self, reason: impl Into<Arc<str>>) -> Error {
        Error::untrue(&self.name.upstream, reason)
    }
}

impl Relay {
    fn new(
        blob: RelayedBlob,
        open: Option<OpenTransfer>,
        (at, end): (u64, Option<u64>),
        verification: Option<HeldBack>,
    ) -> Self {
        Self {
            blob,
            open,
            precedence: Precedence::Wanted,
            came: AtomicU64::new(0),
            at,
            end,
            continued_at: at,
            failures: TransferFailures::default(),
            verification,
        }
    }

    /// The bytes, one chunk whenever the reader wants one. A task holds the transfer, so that a
    /// reader that wants none keeps no place from others.
    fn into_stream(self) -> ByteStream {
        let (demands, demanded) = mpsc::channel(1);
        let core = Arc::clone(&self.blob.core);
        core.tasks.spawn(self.serve(demanded));
        Box::pin(stream::unfold(Some(demands), |demands| async {
            let demands = demands?;
            let (demand, next) = oneshot::channel();
            // If the task is gone, so is the demand.
            drop(demands.send(demand).await);
            match next.await.unwrap_or(Err(Error::Abandoned)) {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(demands))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
    }

    async fn serve(mut self, mut demanded: mpsc::Receiver<Demand>) {
        loop {
            let demand = tokio::select! {
                biased;
                demand = demanded.recv() => demand,
                precedence = self.yielded() => {
                    self.yield_place(precedence);
                    continue;
                }
            };
            let Some(mut demand) = demand else { return };
            let next = tokio::select! {
                biased;
                next = self.next() => next,
                () = demand.closed() => return,
            };
            if demand.send(next).is_err() {
                return;
            }
        }
    }

    /// Resolves once the place should be given back to others.
    async fn yielded(&mut self) -> Precedence {
        let Self { open, came, .. } = self;
        match open {
            Some(OpenTransfer { place, .. }) => {
                place.yielded(|| came.load(Ordering::Relaxed)).await
            }
            None => std::future::pending().await,
        }
    }

    fn yield_place(&mut self, precedence: Precedence) {
        self.open = None;
        self.precedence = precedence;
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(bytes) = self.verification.as_mut().and_then(HeldBack::release) {
                return Ok(Some(bytes));
            }
            let Some(chunk) = self.chunk().await? else { return self.finish() };
            self.count(&chunk)?;
            match &mut self.verification {
                Some(check) => check.hold(chunk),
                None => return Ok(Some(chunk)),
            }
        }
    }

    /// The next bytes; `None` at the end, which without a size is the clean end of the body.
    async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            let last = match self.read().await {
                Reading::Chunk(chunk) => return Ok(Some(chunk)),
                Reading::Yielded(precedence) => {
                    self.yield_place(precedence);
                    continue;
                }
                Reading::Closed if self.is_at_end() => return Ok(None),
                Reading::Closed => {
                    self.resume().await?;
                    continue;
                }
                Reading::End if self.end.is_none_or(|end| self.at >= end) => return Ok(None),
                Reading::Broken(_) if self.end == Some(self.at) => return Ok(None),
                Reading::End => None,
                Reading::Broken(error) => Some(error),
            };
            self.failures.stopped(self.at - self.continued_at, last);
            self.resume().await?;
        }
    }

    async fn read(&mut self) -> Reading {
        let Self { open, came, .. } = self;
        let Some(OpenTransfer { place, body: Some(body) }) = open else { return Reading::Closed };
        tokio::select! {
            biased;
            chunk = body.chunk() => match chunk {
                Ok(Some(chunk)) => Reading::Chunk(chunk),
                Ok(None) => Reading::End,
                Err(error) => Reading::Broken(error),
            },
            precedence = place.yielded(|| came.load(Ordering::Relaxed)) => {
                Reading::Yielded(precedence)
            }
        }
    }

    /// Whether nothing is left to be asked for.
    fn is_at_end(&self) -> bool {
        let is_right = |check: &HeldBack| check.hasher().finish() == self.blob.digest;
        self.end == Some(self.at)
            || (self.end.is_none() && self.verification.as_ref().is_some_and(is_right))
    }

    /// Asks the source for the rest, until it gives it or has failed too often. As with a download,
    /// the place may be given back meanwhile.
    async fn resume(&mut self) -> Result<(), Error> {
        // Failures to continue count for this break alone.
        let mut failures = self.failures.clone();
        loop {
            let mut place = match self.open.take() {
                Some(OpenTransfer { place, .. }) => place,
                None => self.blob.place_for_rest(self.precedence).await?,
            };
            failures.pause(&self.blob.core, &self.blob.name).await?;
            let resumed = tokio::select! {
                biased;
                resumed = self.rest() => Ok(resumed),
                precedence = place.yielded(|| self.came.load(Ordering::Relaxed)) => Err(precedence),
            };
            match resumed {
                Ok(Ok(body)) => {
                    self.open = Some(OpenTransfer { place, body: Some(body) });
                    self.continued_at = self.at;
                    return Ok(());
                }
                Ok(Err(error)) => {
                    self.open = Some(OpenTransfer { place, body: None });
                    failures.not_resumed(error)?;
                }
                Err(precedence) => {
                    self.yield_place(precedence);
                    if precedence == Precedence::Yielded {
                        failures.not_resumed(Error::Overloaded)?;
                    }
                }
            }
        }
    }

    /// One request for the bytes that are still wanted.
    async fn rest(&self) -> Result<SourceBody, Error> {
        let RelayedBlob { core, name, digest, interest } = &self.blob;
        let span = self.end.and_then(|end| ByteSpan::new(self.at, end.checked_sub(1)?));
        let wanted = match (&self.verification, span) {
            (None, Some(span)) => Some(Part::Span(span)),
            (None, None) | (Some(_), _) => (self.at > 0).then_some(Part::From(self.at)),
        };
        let deadline = Instant::now() + core.limits.flight_head;
        let question = core.sources.ask(name, Missing::Blob, interest, deadline).await?;
        let opened = question.blob(&name.repository, digest, wanted, deadline).await;
        drop(question);
        if let Err(error) = &opened {
            core.membership.withdraw(name, Subject::Blob(digest.clone()), error).await;
        }
        let Arrived { extent, mut body, .. } = opened?;
        let same_end = |end: Option<u64>| end.is_none() || self.end.is_none() || end == self.end;
        match (extent, &self.verification) {
            (Extent::Part { span, .. }, _)
                if span.first() == self.at && same_end(Some(span.end())) => {}
            // The source ignores Range and starts again from the first byte.
            (Extent::Whole { size }, Some(check)) if same_end(size) => {
                let known = check.hasher();
                skip_prefix(&name.upstream, &mut body, (known, self.at), &self.came).await?;
            }
            (Extent::Part { .. } | Extent::Whole { .. }, _) => {
                return Err(self.blob.untrue("other bytes than the rest that was asked for"));
            }
        }
        Ok(body)
    }

    /// Fails on the first byte too many, which the client must not get.
    fn count(&mut self, chunk: &Bytes) -> Result<(), Error> {
        self.at += chunk.len() as u64;
        self.came.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        if self.end.is_some_and(|end| self.at > end) {
            return Err(self.blob.untrue("more bytes than it announced"));
        }
        Ok(())
    }

    /// The end of the body: releases what was held back if the digest is right.
    fn finish(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(check) = self.verification.take() else { return Ok(None) };
        let released = check.release_all(&self.blob.digest);
        let rest = released
            .map_err(|actual| self.blob.untrue(format!("content that hashes to {actual}")))?;
        Ok(Some(rest).filter(|rest| !rest.is_empty()))
    }
}
