//! Passing through without storing: a blob that the cache has no room for, or a range far ahead of
//! a download.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::stream;

use crate::oci::{Digest, Hasher, UpstreamName};
use crate::pull::answers::ByteStream;
use crate::pull::error::Error;
use crate::pull::source::SourceBody;

/// A body that is passed through.
struct Relay {
    upstream: UpstreamName,
    body: SourceBody,
    /// Bytes still to come, if that is known.
    left: Option<u64>,
    verification: Option<HeldBack>,
}

/// Verification of a whole body, whose end is held back in memory until it is done (BLOB-10).
struct HeldBack {
    digest: Digest,
    hasher: Hasher,
    held: VecDeque<Bytes>,
    held_bytes: u64,
    /// Bytes that stay behind while the body comes.
    hold_back: u64,
}

/// A whole blob of `size` bytes, if that is known: hashed on the way, its end withheld until the
/// digest is right.
pub(crate) fn whole(
    upstream: UpstreamName,
    body: SourceBody,
    size: Option<u64>,
    digest: &Digest,
    hold_back: u64,
) -> ByteStream {
    let hasher = Hasher::new(digest.algorithm());
    let end = HeldBack {
        digest: digest.clone(),
        hasher,
        held: VecDeque::new(),
        held_bytes: 0,
        hold_back,
    };
    Relay { upstream, body, left: size, verification: Some(end) }.into_stream()
}

/// A part of a blob, of `length` bytes. It cannot be verified, so nothing of it is held back.
pub(crate) fn part(upstream: UpstreamName, body: SourceBody, length: u64) -> ByteStream {
    Relay { upstream, body, left: Some(length), verification: None }.into_stream()
}

impl Relay {
    fn into_stream(self) -> ByteStream {
        Box::pin(stream::unfold(Some(self), |relay| async {
            let mut relay = relay?;
            match relay.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(relay))),
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
            let Some(chunk) = self.body.chunk().await? else { return self.finish() };
            self.count(&chunk)?;
            match &mut self.verification {
                Some(check) => check.hold(chunk),
                None => return Ok(Some(chunk)),
            }
        }
    }

    /// Fails on the first byte too many, which the client must not get.
    fn count(&mut self, chunk: &Bytes) -> Result<(), Error> {
        if let Some(left) = &mut self.left {
            let rest = left.checked_sub(chunk.len() as u64);
            *left =
                rest.ok_or_else(|| Error::untrue(&self.upstream, "more bytes than it announced"))?;
        }
        Ok(())
    }

    /// The end of the body: releases what was held back if the digest is right.
    fn finish(&mut self) -> Result<Option<Bytes>, Error> {
        if self.left.is_some_and(|left| left > 0) {
            return Err(Error::untrue(&self.upstream, "fewer bytes than it announced"));
        }
        let Some(check) = self.verification.take() else { return Ok(None) };
        let actual = check.hasher.finish();
        if actual != check.digest {
            return Err(Error::untrue(&self.upstream, format!("content that hashes to {actual}")));
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
