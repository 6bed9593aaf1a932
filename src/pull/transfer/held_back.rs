//! What is passed through whole is verified at its end, which waits for that (BLOB-10).

use std::collections::VecDeque;

use bytes::Bytes;

use crate::oci::{Digest, Hasher};

/// Verification of a whole body, whose end is held back in memory until it is done (BLOB-10).
pub(super) struct HeldBack {
    hasher: Hasher,
    held: VecDeque<Bytes>,
    held_bytes: u64,
    /// Bytes that stay behind while the body comes.
    hold_back: u64,
}

impl HeldBack {
    /// Goes on behind what `hasher` has seen, of which `held` is the end.
    pub(super) fn new(hasher: Hasher, held: Vec<Bytes>, hold_back: u64) -> Self {
        let held_bytes = held.iter().map(|chunk| chunk.len() as u64).sum();
        Self { hasher, held: held.into(), held_bytes, hold_back }
    }

    /// The hash of all that has come.
    pub(super) fn hasher(&self) -> Hasher {
        self.hasher.clone()
    }

    /// The end, if all that has come is what it should be; else the digest of that.
    pub(super) fn release_all(self, expected: &Digest) -> Result<Bytes, Digest> {
        let actual = self.hasher.finish();
        if actual != *expected {
            return Err(actual);
        }
        Ok(Vec::from(self.held).concat().into())
    }

    pub(super) fn hold(&mut self, chunk: Bytes) {
        self.hasher.update(&chunk);
        self.held_bytes += chunk.len() as u64;
        self.held.push_back(chunk);
    }

    /// The oldest chunk, if enough bytes stay behind it.
    pub(super) fn release(&mut self) -> Option<Bytes> {
        let oldest = self.held.front()?.len() as u64;
        if self.held_bytes - oldest < self.hold_back {
            return None;
        }
        self.held_bytes -= oldest;
        self.held.pop_front()
    }
}
