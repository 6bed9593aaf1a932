//! Where things lie in the cache directory. Paths are made from digests only.

use std::path::{Path, PathBuf};

use crate::oci::{Algorithm, Digest};

pub(super) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_path_buf() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("LOCK")
    }

    pub(super) fn database(&self) -> PathBuf {
        self.root.join("records.sqlite")
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// A name no other download uses; `serial` is unique in this process, and start-up empties the
    /// folder.
    pub(super) fn staged(&self, digest: &Digest, serial: u64) -> PathBuf {
        self.staging().join(format!("{}-{serial}", digest.hex()))
    }

    pub(super) fn algorithm(&self, algorithm: Algorithm) -> PathBuf {
        self.root.join("blobs").join(algorithm.name())
    }

    /// `blobs/<algorithm>/<first two hex digits>`
    pub(super) fn shelf(&self, digest: &Digest) -> PathBuf {
        self.algorithm(digest.algorithm()).join(&digest.hex()[..2])
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.shelf(digest).join(digest.hex())
    }
}
