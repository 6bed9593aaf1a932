//! What the cache learns from what is written through us, before the client is told that it is done
//! (UPL-8).
//!
//! A 201 that was relayed is the registry's own word that the repository has the content (DESIGN
//! §14.1).

use bytes::Bytes;

use super::Error;
use super::Inner;
use super::PullThrough;
use super::facts::negative::Subject;
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, Manifest, MediaType, Reference, Tag};
use crate::store::{self, TagRecord};

/// A manifest that the registry has taken.
#[derive(Clone, Debug)]
pub struct PushedManifest {
    pub digest: Digest,
    /// Every tag that it has now.
    pub tags: Vec<Tag>,
    /// Tags that it may have or not: the registry did not say.
    pub perhaps: Vec<Tag>,
    pub media_type: MediaType,
    pub bytes: Bytes,
}

impl PullThrough {
    /// Whether upstream has the blob at this moment, and its size: a client that is about to push
    /// must not be told of a blob that has gone (UPL-12).
    ///
    /// # Errors
    /// What upstream says; see [`Error`].
    pub async fn blob_upstream(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        self.0.membership.prove_blob(name, digest).await
    }

    /// The registry has taken the blob, or mounted it.
    pub async fn pushed_blob(&self, name: &CanonicalName, digest: &Digest) {
        self.0.absences.changed(Subject::Blob(digest.clone()), name);
        self.0.membership.prove(name, digest, None).await;
    }

    /// The registry has taken the manifest; if `keep`, it is served from here at once.
    pub async fn pushed_manifest(&self, name: &CanonicalName, pushed: PushedManifest, keep: bool) {
        let PushedManifest { digest, tags, perhaps, media_type, bytes } = pushed;
        let inner = &self.0;
        inner.changed(name, Reference::Digest(digest.clone()));
        let manifest = Manifest::inspect(&bytes, &media_type).ok();
        if let Some(subject) = manifest.as_ref().and_then(Manifest::subject) {
            inner.absences.changed(Subject::Referrers(subject.clone()), name);
        }
        // What we would refuse to serve is not kept either.
        let keep = keep && manifest.is_some();
        if let Some(manifest) = manifest.filter(|_| keep) {
            inner.note_sizes(name, &manifest);
            inner.store_manifest(&digest, bytes).await;
            inner.membership.prove(name, &digest, Some(media_type)).await;
        }
        for tag in perhaps {
            inner.forget_tag(name, &tag).await;
        }
        let checked = inner.clock.now();
        for tag in tags {
            inner.forget_tag(name, &tag).await;
            if keep {
                inner.record_tag(name, &tag, TagRecord { digest: digest.clone(), checked }).await;
            }
        }
    }

    /// The registry has deleted the manifest, and with it every tag that led there.
    pub async fn deleted_manifest(&self, name: &CanonicalName, digest: &Digest) {
        let inner = &self.0;
        inner.changed(name, Reference::Digest(digest.clone()));
        for (tag, _) in inner.provisional.take(name, digest) {
            inner.forget_tag(name, &tag).await;
        }
        note(inner.store.records().drop_tags_of(name, digest).await);
        note(inner.store.records().drop_member(name, digest).await);
    }

    /// The registry has deleted the tag.
    pub async fn deleted_tag(&self, name: &CanonicalName, tag: &Tag) {
        self.0.forget_tag(name, tag).await;
    }

    /// Nobody knows what became of a write to the tag: what is known of it is old at once, and may
    /// only stand in for a registry that does not answer (DESIGN §14.2).
    pub async fn doubted_tag(&self, name: &CanonicalName, tag: &Tag) {
        let inner = &self.0;
        inner.provisional.drop_tag(name, tag);
        let Ok(Some(record)) = inner.store.records().tag(name, tag).await else { return };
        let old = inner.clock.now().unix().saturating_sub(inner.ages.load().tag_ttl);
        let checked = record.checked.min(Timestamp::from_unix(old));
        inner.record_tag(name, tag, TagRecord { checked, ..record }).await;
    }

    /// The registry has deleted the blob from this repository; others may have it still.
    pub async fn deleted_blob(&self, name: &CanonicalName, digest: &Digest) {
        self.0.absences.changed(Subject::Blob(digest.clone()), name);
        note(self.0.store.records().drop_member(name, digest).await);
    }
}

impl Inner {
    fn changed(&self, name: &CanonicalName, reference: Reference) {
        self.absences.changed(Subject::Manifest(reference), name);
        self.absences.changed(Subject::Tags, name);
    }

    async fn forget_tag(&self, name: &CanonicalName, tag: &Tag) {
        self.changed(name, Reference::Tag(tag.clone()));
        self.provisional.drop_tag(name, tag);
        note(self.store.records().drop_tag(name, tag).await);
    }
}

/// Logs a failure of the records.
fn note(result: Result<(), store::Error>) {
    if let Err(error) = result {
        tracing::warn!(%error, "the records are behind what was written");
    }
}
