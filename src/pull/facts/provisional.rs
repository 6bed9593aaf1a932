//! Tags that a HEAD has resolved and whose bytes nobody has verified yet (DESIGN §14.2).
//!
//! containerd and dockerd send HEAD by tag and then GET by digest. So a tag becomes a durable record
//! when the bytes of its digest are verified, whichever request brings them.

use std::sync::Arc;

use moka::sync::Cache;

use super::FACTS_MAX;
use super::freshness::Known;
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, MediaType, Tag};

/// What the HEAD told.
#[derive(Clone, Debug)]
pub(crate) struct Provisional {
    pub(crate) known: Known,
    pub(crate) media_type: Option<MediaType>,
    /// Bytes.
    pub(crate) size: Option<u64>,
}

/// Provisional tags, by tag and by the digest whose bytes would make them durable.
#[derive(Debug)]
pub(crate) struct ProvisionalTags {
    by_tag: Cache<(CanonicalName, Tag), Provisional>,
    by_digest: Cache<(CanonicalName, Digest), Arc<[Tag]>>,
}

impl ProvisionalTags {
    pub(crate) fn new() -> Self {
        Self { by_tag: Cache::new(FACTS_MAX), by_digest: Cache::new(FACTS_MAX) }
    }

    pub(crate) fn get(&self, name: &CanonicalName, tag: &Tag) -> Option<Provisional> {
        self.by_tag.get(&(name.clone(), tag.clone()))
    }

    pub(crate) fn put(&self, name: &CanonicalName, tag: &Tag, provisional: Provisional) {
        let digest = (name.clone(), provisional.known.digest.clone());
        self.by_tag.insert((name.clone(), tag.clone()), provisional);
        self.by_digest.entry(digest).and_upsert_with(|tags| {
            let tags = tags.into_iter().flat_map(|tags| tags.into_value().to_vec());
            tags.filter(|other| other != tag).chain([tag.clone()]).collect()
        });
    }

    pub(crate) fn drop_tag(&self, name: &CanonicalName, tag: &Tag) {
        self.by_tag.invalidate(&(name.clone(), tag.clone()));
    }

    /// The tags that lead to `digest`, whose bytes have now been verified, and when each was checked.
    pub(crate) fn take(&self, name: &CanonicalName, digest: &Digest) -> Vec<(Tag, Timestamp)> {
        let tags = self.by_digest.remove(&(name.clone(), digest.clone())).unwrap_or_default();
        // A tag may have moved on to another digest since it was listed here.
        let stands = |tag: &Tag| self.get(name, tag).filter(|head| head.known.digest == *digest);
        tags.iter().filter_map(|tag| Some((tag.clone(), stands(tag)?.known.checked))).collect()
    }
}
