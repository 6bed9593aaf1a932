//! What a blob of a repository should weigh, from the manifests that list it: known before upstream
//! is asked, and compared with what upstream then announces (DESIGN §14.5).

use moka::sync::Cache;

use super::FACTS_MAX;
use crate::oci::{CanonicalName, Digest, Manifest};

#[derive(Debug)]
pub(crate) struct DescribedSizes(Cache<(CanonicalName, Digest), u64>);

impl DescribedSizes {
    pub(crate) fn new() -> Self {
        Self(Cache::new(FACTS_MAX))
    }

    /// In bytes.
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
