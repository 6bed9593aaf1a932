//! Blobs and manifests on their way to whoever asked.

use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;

use super::error::Error;
use super::outcome::Outcome;
use crate::oci::{ByteSpan, Digest, MediaType};
use crate::store::Blob;
use crate::upstream::ManifestHead;

/// Bytes as they come; an error cuts the body short.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// A blob, or a part of it, ready to be sent.
#[derive(Debug)]
pub struct BlobAnswer {
    /// Of the whole blob, in bytes; `None` if upstream does not say.
    pub size: Option<u64>,
    /// The bytes of it that are sent, if they are not all.
    pub part: Option<ByteSpan>,
    pub content: Content,
    pub outcome: Outcome,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memory(_) => "Memory",
            Self::Stored(..) => "Stored",
            Self::Stream(_) => "Stream",
        })
    }
}

/// Where the bytes come from.
pub enum Content {
    Memory(Bytes),
    Stored(Blob, Range<u64>),
    /// From a download in progress, or passed through.
    Stream(ByteStream),
}

/// What is known of a blob without its bytes.
#[derive(Clone, Copy, Debug)]
pub struct BlobHead {
    pub size: Option<u64>,
    pub outcome: Outcome,
}

/// A manifest, ready to be sent.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    pub digest: Digest,
    pub media_type: MediaType,
    /// In bytes.
    pub size: u64,
    pub content: ManifestContent,
    pub outcome: Outcome,
}

#[derive(Clone, Debug)]
pub enum ManifestContent {
    /// Only HEAD was asked, and upstream has answered it.
    None,
    Memory(Bytes),
    Stored(Blob),
}

/// Whether the bytes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Head,
    Body,
}

impl ManifestAnswer {
    /// Says how a tag led here.
    pub(super) fn with(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }
}

/// An answer to HEAD, if upstream told everything that it takes (MAN-2).
pub(super) fn head_answer(
    digest: Digest,
    head: ManifestHead,
    outcome: Outcome,
) -> Option<ManifestAnswer> {
    let (media_type, size) = (head.media_type?, head.size?);
    Some(ManifestAnswer { digest, media_type, size, content: ManifestContent::None, outcome })
}
