//! Bytes with a known digest: given, or made on the fly from a seed so that large ones need no
//! memory.

use std::ops::Range;

use bytes::Bytes;
use roadstead::oci::{Algorithm, Digest, Hasher};

/// Seeded content repeats a block of this size, each numbered in its first eight bytes.
const BLOCK: u64 = 64 * 1024;

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Given(Bytes),
    Seeded { block: Bytes, len: u64 },
}

impl Content {
    pub(crate) fn given(bytes: impl Into<Bytes>) -> Self {
        Self::Given(bytes.into())
    }

    pub(crate) fn seeded(seed: u64, len: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut block = Vec::new();
        while (block.len() as u64) < BLOCK {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            block.extend_from_slice(&state.to_le_bytes());
        }
        Self::Seeded { block: block.into(), len }
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Given(bytes) => bytes.len() as u64,
            Self::Seeded { len, .. } => *len,
        }
    }

    /// The bytes from `range.start` on, at most to `range.end` and to the end of the block.
    pub(crate) fn piece(&self, range: Range<u64>) -> Bytes {
        match self {
            Self::Given(bytes) => {
                bytes.slice(index(range.start)..index(range.end.min(range.start + BLOCK)))
            }
            Self::Seeded { block, .. } => {
                let (number, within) = (range.start / BLOCK, range.start % BLOCK);
                let mut piece = block.to_vec();
                piece[..8].copy_from_slice(&number.to_le_bytes());
                let end = (within + (range.end - range.start)).min(BLOCK);
                Bytes::from(piece).slice(index(within)..index(end))
            }
        }
    }

    /// Every piece of `range` in order.
    pub(crate) fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Bytes> + '_ {
        let mut at = range.start;
        std::iter::from_fn(move || {
            (at < range.end).then(|| {
                let piece = self.piece(at..range.end);
                at += piece.len() as u64;
                piece
            })
        })
    }

    pub(crate) fn slice(&self, range: Range<u64>) -> Bytes {
        self.pieces(range).flatten().collect::<Vec<u8>>().into()
    }

    pub(crate) fn digest(&self, algorithm: Algorithm) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        self.pieces(0..self.len()).for_each(|piece| hasher.update(&piece));
        hasher.finish()
    }
}

/// A blob: content and its true digest.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) digest: Digest,
    pub(crate) content: Content,
}

impl Blob {
    pub(crate) fn new(content: Content) -> Self {
        Self::with(Algorithm::Sha256, content)
    }

    pub(crate) fn with(algorithm: Algorithm, content: Content) -> Self {
        Self { digest: content.digest(algorithm), content }
    }

    pub(crate) fn seeded(seed: u64, len: u64) -> Self {
        Self::new(Content::seeded(seed, len))
    }

    pub(crate) fn len(&self) -> u64 {
        self.content.len()
    }

    pub(crate) fn bytes(&self) -> Bytes {
        self.content.slice(0..self.len())
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("tests run on 64 bit")
}
