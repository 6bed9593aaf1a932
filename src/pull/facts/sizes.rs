//! The sizes of blobs, from the manifests that list them: hints, for where upstream announces none
//! (DESIGN §14.5).
//!
//! They hold for one repository only, and not even there for certain: a manifest may say anything,
//! and another one may list the same blob. So where two differ there is no hint.

use moka::sync::Cache;

use super::FACTS_BYTES;
use crate::expiring::weight;
use crate::oci::{CanonicalName, Digest, Manifest};

/// Sizes by repository and digest; `None` where they are disputed.
#[derive(Debug)]
pub(crate) struct DescribedSizes {
    known: Cache<(CanonicalName, Digest), Option<u64>>,
    /// Repositories whose stored manifests have been looked through.
    learned: Cache<CanonicalName, ()>,
}

impl DescribedSizes {
    pub(crate) fn new() -> Self {
        let weigh = |(name, digest): &(CanonicalName, Digest), _: &Option<u64>| {
            weight(name.text_len() + digest.as_str().len())
        };
        let weigh_name = |name: &CanonicalName, (): &()| weight(name.text_len());
        Self {
            known: Cache::builder().max_capacity(FACTS_BYTES).weigher(weigh).build(),
            learned: Cache::builder().max_capacity(FACTS_BYTES).weigher(weigh_name).build(),
        }
    }

    /// Whether the manifests of `name` that an earlier process has stored are still to be looked
    /// through, which whoever is told so does.
    pub(crate) fn begin_to_learn(&self, name: &CanonicalName) -> bool {
        self.learned.entry_by_ref(name).or_insert(()).is_fresh()
    }

    /// The size in bytes, if the manifests of `name` that were seen agree about the digest.
    pub(crate) fn get(&self, name: &CanonicalName, digest: &Digest) -> Option<u64> {
        self.known.get(&(name.clone(), digest.clone())).flatten()
    }

    /// Remembers the size of everything that `manifest` lists.
    pub(crate) fn note(&self, name: &CanonicalName, manifest: &Manifest) {
        for descriptor in manifest.descriptors() {
            let entry = self.known.entry((name.clone(), descriptor.digest.clone()));
            entry.and_upsert_with(|known| match known {
                None => Some(descriptor.size),
                Some(known) => known.into_value().filter(|size| *size == descriptor.size),
            });
        }
    }

    /// What manifests say of the digest has turned out wrong.
    pub(crate) fn dispute(&self, name: &CanonicalName, digest: &Digest) {
        self.known.insert((name.clone(), digest.clone()), None);
    }
}
