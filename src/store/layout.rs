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

    /// What clients have missed at sealed upstreams.
    pub(super) fn misses(&self) -> PathBuf {
        self.root.join("misses")
    }

    pub(super) fn staging(&self) -> PathBuf {
        self.root.join("staging")
    }

    /// Every folder that has to be there.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        let algorithms = ALGORITHMS.map(|algorithm| self.algorithm(algorithm));
        [self.staging(), self.root.join("blobs")].into_iter().chain(algorithms).collect()
    }

    /// The folders without which nothing is read or kept.
    pub(super) fn content_folders(&self) -> [PathBuf; 2] {
        [self.root.join("blobs"), self.algorithm(Algorithm::Sha256)]
    }

    /// Folders that may be there, of others than the store.
    pub(super) fn other_folders(&self) -> [PathBuf; 1] {
        [self.root.join("keys")]
    }

    /// Files that may be there beside content.
    pub(super) fn files(&self) -> [PathBuf; 7] {
        let names = [
            "LOCK",
            "records.sqlite",
            "records.sqlite-wal",
            "records.sqlite-shm",
            "keys/access",
            "keys/revoked",
            "misses",
        ];
        names.map(|name| self.root.join(name))
    }

    /// A name no other download uses; `serial` is unique in this process, and start-up sweeps the
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

    /// The folders that a blob's file lies in.
    pub(super) fn folders_of(&self, digest: &Digest) -> [PathBuf; 3] {
        [self.root.join("blobs"), self.algorithm(digest.algorithm()), self.shelf(digest)]
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.shelf(digest).join(digest.hex())
    }
}

/// Whether this process or an earlier one may have made a file of this name to write to:
/// `<hex>-<serial>`.
pub(super) fn is_staging_name(name: &[u8]) -> bool {
    let name = std::str::from_utf8(name).unwrap_or_default();
    let Some((hex, serial)) = name.split_once('-') else { return false };
    let of_digest =
        |algorithm: Algorithm| Digest::parse(&format!("{}:{hex}", algorithm.name())).is_ok();
    ALGORITHMS.into_iter().any(of_digest) && serial.parse::<u64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_named_as_we_do_is_taken_for_ours() {
        let layout = Layout::new(Path::new("/cache"));
        for algorithm in ALGORITHMS {
            let path = layout.staged(&Digest::of(algorithm, b"a blob"), 17);
            let name = path.file_name().expect("a name").as_encoded_bytes();
            assert!(is_staging_name(name), "{}", path.display());
            assert!(!is_staging_name(&name[1..]));
            assert!(!is_staging_name(&[name, b"x"].concat()));
            assert!(!is_staging_name(&name.to_ascii_uppercase()));
        }
        for name in ["", "-", "1-1", "left-behind", "budget-2026"] {
            assert!(!is_staging_name(name.as_bytes()), "{name}");
        }
        assert!(!is_staging_name(b"\xff-1"));
    }
}
