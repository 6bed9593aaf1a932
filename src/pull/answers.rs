//! What the stories answer with: blobs and manifests, with or without their bytes.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;

use super::error::Error;
use super::outcome::Outcome;
use crate::oci::{ByteSpan, Digest, MediaType};
use crate::store::Blob;
use crate::upstream::ManifestHead;

/// Bytes of a body as they come. An error ends the stream: the status line has left by then, so the
/// body is cut short and its client sees that bytes are missing.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// Bytes that the next piece may have of a stream that reads a file. Whoever polls the stream sets it
/// before; what is passed through comes in the pieces of its upstream.
#[derive(Clone, Debug, Default)]
pub struct PieceMax(Arc<NextPiece>);

#[derive(Debug, Default)]
struct NextPiece {
    max: AtomicUsize,
    is_being_read: AtomicBool,
}

impl PieceMax {
    pub fn set(&self, bytes: usize) {
        self.0.max.store(bytes, Ordering::Relaxed);
    }

    /// Whether a stream that is pending has memory for a piece, and does not merely wait for one.
    pub fn is_being_read(&self) -> bool {
        self.0.is_being_read.load(Ordering::Relaxed)
    }

    pub(super) fn get(&self) -> usize {
        self.0.max.load(Ordering::Relaxed)
    }

    pub(super) fn set_being_read(&self, is_being_read: bool) {
        self.0.is_being_read.store(is_being_read, Ordering::Relaxed);
    }
}

/// A blob, or a part of it, ready to be sent.
#[derive(Debug)]
pub struct BlobAnswer {
    /// Bytes of the whole blob; `None` if upstream does not say.
    pub size: Option<u64>,
    /// The bytes that are sent, if they are not all.
    pub part: Option<ByteSpan>,
    pub content: Content,
    pub outcome: Outcome,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memory(_) => "Memory",
            Self::Stored { .. } => "Stored",
            Self::Stream { .. } => "Stream",
        })
    }
}

/// Where the bytes come from.
pub enum Content {
    /// A small body, or what has been verified before its head leaves.
    Memory(Bytes),
    /// From a published file: the bytes of `blob` in `span`.
    Stored { blob: Blob, span: Range<u64> },
    /// From a download in progress, or passed through.
    Stream { stream: ByteStream, piece_max: PieceMax },
}

/// What is known of a blob without its bytes: the answer to HEAD.
#[derive(Clone, Copy, Debug)]
pub struct BlobHead {
    /// Bytes; `None` if upstream does not say.
    pub size: Option<u64>,
    pub outcome: Outcome,
}

/// A manifest, ready to be sent.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    pub digest: Digest,
    pub media_type: MediaType,
    /// Bytes.
    pub size: u64,
    pub content: ManifestContent,
    pub outcome: Outcome,
}

/// Where the bytes of a manifest come from.
#[derive(Clone, Debug)]
pub enum ManifestContent {
    /// Nowhere: the request is HEAD, and upstream's own HEAD has answered it.
    None,
    Memory(Bytes),
    Stored(Blob),
}

impl ManifestContent {
    /// All of it; none if there is only a head, or if it is larger than `limit` bytes: a digest that
    /// is called a manifest may be that of a layer.
    ///
    /// # Errors
    /// If the stored file cannot be read.
    pub async fn bytes(self, limit: usize) -> Result<Option<Bytes>, Error> {
        match self {
            Self::None => Ok(None),
            Self::Memory(bytes) => Ok(Some(bytes)),
            Self::Stored(blob) if blob.size() > limit as u64 => Ok(None),
            Self::Stored(blob) => {
                let mut bytes = BytesMut::new();
                while (bytes.len() as u64) < blob.size() {
                    bytes.extend_from_slice(&blob.read(&(bytes.len() as u64..blob.size())).await?);
                }
                Ok(Some(bytes.freeze()))
            }
        }
    }
}

/// Whether the bytes of a manifest are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Head,
    Body,
}

impl ManifestAnswer {
    /// The same answer with the outcome of the tag that led to it.
    pub(super) fn with(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }
}

/// An answer to HEAD, if upstream's HEAD said all that such an answer needs (MAN-2).
pub(super) fn head_answer(
    digest: Digest,
    head: ManifestHead,
    outcome: Outcome,
) -> Option<ManifestAnswer> {
    let (media_type, size) = (head.media_type?, head.size?);
    Some(ManifestAnswer { digest, media_type, size, content: ManifestContent::None, outcome })
}
