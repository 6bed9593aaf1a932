//! Passing through without storing: a blob that the cache has no room for, or a range far ahead of
//! a download. A body that breaks off is continued, as a download is (DESIGN §14.6).

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use tokio::time::Instant;

use super::continuing::{TransferFailures, skip_prefix};
use super::turns::TransferPlace;
use crate::oci::{ByteSpan, CanonicalName, Digest, Extent, Hasher, Part};
use crate::pull::answers::ByteStream;
use crate::pull::core::PullCore;
use crate::pull::error::Error;
use crate::pull::facts::subject::Subject;
use crate::pull::shares::{Asker, Precedence};
use crate::pull::source::{Arrived, SourceBody};

/// What is passed through.
#[derive(Clone, Debug)]
pub(crate) struct RelayedBlob {
    pub(in crate::pull) core: Arc<PullCore>,
    pub(crate) name: CanonicalName,
    pub(crate) digest: Digest,
    pub(in crate::pull) asker: Asker,
}

/// A body that is passed through.
struct Relay {
    blob: RelayedBlob,
    /// `None` before the source was asked for a rest.
    body: Option<SourceBody>,
    /// Came behind what was skipped when the body was continued.
    pending: Option<Bytes>,
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

/// Verification of a whole body, whose end is held back in memory until it is done (BLOB-10).
struct HeldBack {
    hasher: Hasher,
    held: VecDeque<Bytes>,
    held_bytes: u64,
    /// Bytes that stay behind while the body comes.
    hold_back: u64,
}

impl RelayedBlob {
    /// All of it, of `size` bytes, if that is known: hashed on the way, its end withheld until the
    /// digest is right.
    pub(crate) fn whole(
        self,
        place: TransferPlace,
        body: SourceBody,
        size: Option<u64>,
    ) -> ByteStream {
        let end = HeldBack {
            hasher: Hasher::new(self.digest.algorithm()),
            held: VecDeque::new(),
            held_bytes: 0,
            hold_back: self.core.limits.hold_back,
        };
        Relay::new(self, Some(body), (0, size), Some(end)).into_stream(place)
    }

    /// A part of it. It cannot be verified, so nothing of it is held back.
    pub(crate) fn part(self, place: TransferPlace, body: SourceBody, part: ByteSpan) -> ByteStream {
        let span = (part.first(), Some(part.end()));
        Relay::new(self, Some(body), span, None).into_stream(place)
    }

    /// The rest of a blob whose beginning, `held` at its end, was read from a flight's file: hashed
    /// on from `known`, so that its end is withheld as if it came from there.
    pub(super) fn rest(
        self,
        place: TransferPlace,
        known: Hasher,
        held: Vec<Bytes>,
        span: (u64, Option<u64>),
    ) -> ByteStream {
        let held_bytes = held.iter().map(|chunk| chunk.len() as u64).sum();
        let hold_back = self.core.limits.hold_back;
        let check = HeldBack { hasher: known, held: held.into(), held_bytes, hold_back };
        Relay::new(self, None, span, Some(check)).into_stream(place)
    }

    /// The rest of a part of it.
    pub(super) fn rest_of_part(self, place: TransferPlace, span: Range<u64>) -> ByteStream {
        Relay::new(self, None, (span.start, Some(span.end)), None).into_stream(place)
    }

    /// Waits for the place of a reader that goes on without the file. It has a part of its answer
    /// already, so it waits longer than one that has none.
    pub(super) async fn place_for_rest(&self) -> Result<TransferPlace, Error> {
        let Self { core, name, asker, .. } = self;
        let patience = core.settings.load().abandon_after.max(core.limits.fill_queue);
        let until = Instant::now() + patience;
        core.turns.place(name, *asker, Precedence::Wanted, until).await
    }

    fn untrue(&self, reason: impl Into<Arc<str>>) -> Error {
        Error::untrue(&self.name.upstream, reason)
    }
}

impl Relay {
    fn new(
        blob: RelayedBlob,
        body: Option<SourceBody>,
        (at, end): (u64, Option<u64>),
        verification: Option<HeldBack>,
    ) -> Self {
        let failures = TransferFailures::default();
        Self { blob, body, pending: None, at, end, continued_at: at, failures, verification }
    }

    fn into_stream(self, place: TransferPlace) -> ByteStream {
        Box::pin(stream::unfold(Some((self, place)), |relay| async {
            let (mut relay, place) = relay?;
            match relay.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some((relay, place)))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
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
            if let Some(chunk) = self.pending.take() {
                return Ok(Some(chunk));
            }
            let Some(body) = &mut self.body else {
                self.resume().await?;
                continue;
            };
            let last = match body.chunk().await {
                Ok(Some(chunk)) => return Ok(Some(chunk)),
                Ok(None) if self.end.is_none_or(|end| self.at >= end) => return Ok(None),
                Err(_) if self.end == Some(self.at) => return Ok(None),
                Ok(None) => None,
                Err(error) => Some(error),
            };
            self.failures.stopped(self.at - self.continued_at, last);
            self.resume().await?;
        }
    }

    /// Asks the source for the rest, until it gives it or has failed too often.
    async fn resume(&mut self) -> Result<(), Error> {
        // Failures to continue count for this break alone.
        let mut failures = self.failures.clone();
        loop {
            failures.pause(&self.blob.core, &self.blob.name).await?;
            match self.rest().await {
                Ok(()) => {
                    self.continued_at = self.at;
                    return Ok(());
                }
                Err(error) => failures.not_resumed(error)?,
            }
        }
    }

    /// One request for the bytes that are still wanted.
    async fn rest(&mut self) -> Result<(), Error> {
        let RelayedBlob { core, name, digest, asker } = &self.blob;
        let span = self.end.and_then(|end| ByteSpan::new(self.at, end.checked_sub(1)?));
        let wanted = match (&self.verification, span) {
            (None, Some(span)) => Part::Span(span),
            (None, None) | (Some(_), _) => Part::From(self.at),
        };
        let deadline = Instant::now() + core.limits.flight_head;
        let question = core.sources.ask(name, *asker, deadline).await?;
        let opened = question.blob(&name.repository, digest, Some(wanted), deadline).await;
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
                let known = check.hasher.clone();
                let rest = skip_prefix(&name.upstream, &mut body, known, self.at).await?;
                self.pending = Some(rest).filter(|rest| !rest.is_empty());
            }
            (Extent::Part { .. } | Extent::Whole { .. }, _) => {
                return Err(self.blob.untrue("other bytes than the rest that was asked for"));
            }
        }
        self.body = Some(body);
        Ok(())
    }

    /// Fails on the first byte too many, which the client must not get.
    fn count(&mut self, chunk: &Bytes) -> Result<(), Error> {
        self.at += chunk.len() as u64;
        if self.end.is_some_and(|end| self.at > end) {
            return Err(self.blob.untrue("more bytes than it announced"));
        }
        Ok(())
    }

    /// The end of the body: releases what was held back if the digest is right.
    fn finish(&mut self) -> Result<Option<Bytes>, Error> {
        let Some(check) = self.verification.take() else { return Ok(None) };
        let actual = check.hasher.finish();
        if actual != self.blob.digest {
            return Err(self.blob.untrue(format!("content that hashes to {actual}")));
        }
        let held: Vec<Bytes> = check.held.into();
        Ok(Some(Bytes::from(held.concat())).filter(|rest| !rest.is_empty()))
    }
}

impl HeldBack {
    fn hold(&mut self, chunk: Bytes) {
        self.hasher.update(&chunk);
        self.held_bytes += chunk.len() as u64;
        self.held.push_back(chunk);
    }

    /// The oldest chunk, if enough bytes stay behind it.
    fn release(&mut self) -> Option<Bytes> {
        let oldest = self.held.front()?.len() as u64;
        if self.held_bytes - oldest < self.hold_back {
            return None;
        }
        self.held_bytes -= oldest;
        self.held.pop_front()
    }
}
