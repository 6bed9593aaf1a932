//! Tags that a HEAD has resolved, and whose manifests have not been verified yet (DESIGN §14.2).
//!
//! containerd and dockerd send HEAD by tag and then GET by digest, so the request that brings the
//! bytes does not name the tag. A tag becomes a durable record when the bytes of its digest are
//! verified in that repository, whichever request brings them.

use std::sync::Arc;

use moka::sync::Cache;

use super::FACTS_BYTES;
use super::freshness::Known;
use crate::clock::Timestamp;
use crate::expiring::weight;
use crate::oci::{CanonicalName, Digest, MediaType, Tag};

/// What the HEAD said.
#[derive(Clone, Debug)]
pub(crate) struct Provisional {
    pub(crate) known: Known,
    pub(crate) media_type: Option<MediaType>,
    /// Bytes.
    pub(crate) size: Option<u64>,
    /// When its bytes could not be had, so that nobody asks for them for a moment.
    pub(crate) held_since: Option<Timestamp>,
}

/// A tag that leads to a digest, and when upstream was asked.
#[derive(Debug)]
pub(crate) struct CheckedTag {
    pub(crate) tag: Tag,
    pub(crate) checked: Timestamp,
}

/// Provisional tags, by tag and by the digest whose bytes make them durable.
#[derive(Debug)]
pub(crate) struct ProvisionalTags {
    by_tag: Cache<(CanonicalName, Tag), Provisional>,
    by_digest: Cache<(CanonicalName, Digest), Arc<[Tag]>>,
}

impl ProvisionalTags {
    pub(crate) fn new() -> Self {
        let weigh_tag = |(name, tag): &(CanonicalName, Tag), head: &Provisional| {
            let media_type = head.media_type.as_ref().map_or(0, |kind| kind.as_str().len());
            let digest = head.known.digest.as_str().len();
            weight(name.text_len() + tag.as_str().len() + digest + media_type)
        };
        let weigh_digest = |(name, digest): &(CanonicalName, Digest), tags: &Arc<[Tag]>| {
            let tags: usize = tags.iter().map(|tag| tag.as_str().len() + 32).sum();
            weight(name.text_len() + digest.as_str().len() + tags)
        };
        Self {
            by_tag: Cache::builder().max_capacity(FACTS_BYTES).weigher(weigh_tag).build(),
            by_digest: Cache::builder().max_capacity(FACTS_BYTES).weigher(weigh_digest).build(),
        }
    }

    pub(crate) fn get(&self, name: &CanonicalName, tag: &Tag) -> Option<Provisional> {
        self.by_tag.get(&(name.clone(), tag.clone()))
    }

    /// Enters what a HEAD has just said, in place of what was known of the tag.
    pub(crate) fn put(&self, name: &CanonicalName, tag: &Tag, provisional: Provisional) {
        let digest = provisional.known.digest.clone();
        self.by_tag.insert((name.clone(), tag.clone()), provisional);
        self.list(name, tag, digest);
    }

    fn list(&self, name: &CanonicalName, tag: &Tag, digest: Digest) {
        let digest = (name.clone(), digest);
        // The list under an earlier digest keeps this tag; `take` sees that it has moved on.
        self.by_digest.entry(digest).and_upsert_with(|tags| {
            let tags = tags.into_iter().flat_map(|tags| tags.into_value().to_vec());
            tags.filter(|other| other != tag).chain([tag.clone()]).collect()
        });
    }

    /// Has the tag become durable once more with the bytes of its digest, if it is known.
    pub(crate) fn list_again(&self, name: &CanonicalName, tag: &Tag) {
        if let Some(head) = self.get(name, tag) {
            self.list(name, tag, head.known.digest);
        }
    }

    /// Notes that what the tag leads to cannot be had just now.
    pub(crate) fn hold(&self, name: &CanonicalName, tag: &Tag, now: Timestamp) {
        if let Some(head) = self.get(name, tag) {
            let head = Provisional { held_since: Some(now), ..head };
            self.by_tag.insert((name.clone(), tag.clone()), head);
        }
    }

    pub(crate) fn drop_tag(&self, name: &CanonicalName, tag: &Tag) {
        self.by_tag.invalidate(&(name.clone(), tag.clone()));
    }

    /// A tag that was seen to lead to `digest`, and has not moved on since.
    pub(crate) fn leading_to(&self, name: &CanonicalName, digest: &Digest) -> Option<Tag> {
        let tags = self.by_digest.get(&(name.clone(), digest.clone()))?;
        let leads =
            |tag: &&Tag| self.get(name, tag).is_some_and(|head| head.known.digest == *digest);
        tags.iter().find(leads).cloned()
    }

    /// Takes out the tags that lead to `digest`, because its bytes have been verified, or it is
    /// gone.
    pub(crate) fn take(&self, name: &CanonicalName, digest: &Digest) -> Vec<CheckedTag> {
        let tags = self.by_digest.remove(&(name.clone(), digest.clone())).unwrap_or_default();
        let checked = |tag: &Tag| {
            // A tag may have moved on to another digest since it was listed here.
            let head = self.get(name, tag).filter(|head| head.known.digest == *digest)?;
            Some(CheckedTag { tag: tag.clone(), checked: head.known.checked })
        };
        tags.iter().filter_map(checked).collect()
    }
}
