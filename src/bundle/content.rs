//! Content on its way: where it comes from, and what it hashes to.

use std::io::{self, ErrorKind, Read, Write};

use super::path::BundlePath;
use super::statement::BundledFile;
use crate::oci::{Algorithm, Digest, Hasher};

/// Bytes that are copied at once.
const PIECE: usize = 256 << 10;

/// Content as it is read.
pub(crate) type ContentReader = Box<dyn Read + Send>;

/// Where content comes from.
pub(crate) trait FetchContent: Sync {
    /// # Errors
    /// Those of the system; `NotFound` if it is not there.
    fn open(&self, digest: &Digest) -> io::Result<ContentReader>;
}

/// What a file hashes to: with SHA-256, and as what its name says if that is another algorithm.
pub(super) struct Hashes {
    sha256: Hasher,
    named: Option<Hasher>,
}

impl Hashes {
    pub(super) fn new(file: &BundledFile) -> Self {
        match &file.path {
            BundlePath::Content(digest) => Self::of(digest),
            BundlePath::Marker | BundlePath::Index => {
                Self { sha256: Hasher::new(Algorithm::Sha256), named: None }
            }
        }
    }

    pub(super) fn of(digest: &Digest) -> Self {
        let is_other = digest.algorithm() != Algorithm::Sha256;
        let named = is_other.then(|| Hasher::new(digest.algorithm()));
        Self { sha256: Hasher::new(Algorithm::Sha256), named }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(named) = &mut self.named {
            named.update(bytes);
        }
    }

    /// The SHA-256, if everything is right.
    pub(super) fn finish(self, file: &BundledFile) -> Option<Digest> {
        match &file.path {
            BundlePath::Content(digest) => self.finish_as(digest),
            BundlePath::Marker | BundlePath::Index => {
                Some(self.sha256.finish()).filter(|hash| *hash == file.hash)
            }
        }
    }

    pub(super) fn finish_as(self, digest: &Digest) -> Option<Digest> {
        let sha256 = self.sha256.finish();
        let named = self.named.map_or_else(|| sha256.clone(), Hasher::finish);
        (named == *digest).then_some(sha256)
    }
}

pub(super) fn hash_all(
    mut from: impl Read,
    hashes: &mut Hashes,
    to: &mut dyn Write,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let read = match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        hashes.update(&piece[..read]);
        to.write_all(&piece[..read])?;
    }
}
