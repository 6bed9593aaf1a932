//! The sizes of blobs, from the manifests that list them. They are known before upstream is asked,
//! and compared with what it then announces (DESIGN §14.5).
//!
//! They hold for one repository only: a manifest of another may say anything.

use moka::sync::Cache;

use super::FACTS_MAX;
use crate::oci::{CanonicalName, Digest, Manifest};

/// Sizes by repository and digest.
#[derive(Debug)]
pub(crate) struct DescribedSizes(Cache<(CanonicalName, Digest), u64>);

impl DescribedSizes {
    pub(crate) fn new() -> Self {
        Self(Cache::new(FACTS_MAX))
    }

    /// The size in bytes, if a manifest of `name` that was seen lists the digest.
    pub(crate) fn get(&self, name: &CanonicalName, digest: &Digest) -> Option<u64> {
        self.0.get(&(name.clone(), digest.clone()))
    }

    /// Remembers the size of everything that `manifest` lists.
    pub(crate) fn note(&self, name: &CanonicalName, manifest: &Manifest) {
        for descriptor in manifest.descriptors() {
            self.0.insert((name.clone(), descriptor.digest.clone()), descriptor.size);
        }
    }
}
