//! What the cache learns from what is written through us, before the client is told that it is done
//! (UPL-8).
//!
//! A 201 that was relayed is the registry's own word that the repository has the content (DESIGN
//! §14.1).

use bytes::Bytes;

use super::Error;
use super::core::{PullCore, PullThrough};
use super::facts::subject::Subject;
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, Manifest, MediaType, Reference, Tag};
use crate::store::{self, TagRecord};

/// A manifest that the registry has taken.
#[derive(Clone, Debug)]
pub struct PushedManifest {
    pub digest: Digest,
    /// Every tag that it has now.
    pub tags: Vec<Tag>,
    /// Tags that were asked for and that the registry did not confirm; it may have set them or not.
    pub unconfirmed_tags: Vec<Tag>,
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
        self.0.written(&Subject::Blob(digest.clone()), name);
        self.0.membership.prove(name, digest, None).await;
    }

    /// The registry has taken the manifest; if `keep`, it is served from here at once.
    pub async fn pushed_manifest(&self, name: &CanonicalName, pushed: PushedManifest, keep: bool) {
        let PushedManifest { digest, tags, unconfirmed_tags, media_type, bytes } = pushed;
        let core = &self.0;
        core.manifest_written(name, Reference::Digest(digest.clone()));
        let manifest = Manifest::inspect(&bytes, &media_type).ok();
        if let Some(subject) = manifest.as_ref().and_then(Manifest::subject) {
            core.written(&Subject::Referrers(subject.clone()), name);
        }
        // What we would refuse to serve is not kept either.
        let keep = keep && manifest.is_some();
        if let Some(manifest) = manifest.filter(|_| keep) {
            core.sizes.note(name, &manifest);
            core.store_manifest(&digest, bytes).await;
            core.membership.prove(name, &digest, Some(media_type)).await;
        }
        for tag in unconfirmed_tags {
            core.forget_tag(name, &tag).await;
        }
        let checked = core.clock.now();
        for tag in tags {
            core.forget_tag(name, &tag).await;
            if keep {
                core.record_tag(name, &tag, TagRecord { digest: digest.clone(), checked }).await;
            }
        }
    }

    /// The registry has deleted the manifest, and with it every tag that led there.
    pub async fn deleted_manifest(&self, name: &CanonicalName, digest: &Digest) {
        let core = &self.0;
        core.manifest_written(name, Reference::Digest(digest.clone()));
        for (tag, _) in core.provisional.take(name, digest) {
            core.forget_tag(name, &tag).await;
        }
        note(core.store.records().drop_tags_of(name, digest).await);
        note(core.store.records().drop_member(name, digest).await);
    }

    /// The registry has deleted the tag.
    pub async fn deleted_tag(&self, name: &CanonicalName, tag: &Tag) {
        self.0.forget_tag(name, tag).await;
    }

    /// Nobody knows what became of a write to the tag: what is known of it is old at once, and may
    /// only stand in for a registry that does not answer (DESIGN §14.2).
    pub async fn expire_tag(&self, name: &CanonicalName, tag: &Tag) {
        let core = &self.0;
        core.provisional.drop_tag(name, tag);
        let Ok(Some(record)) = core.store.records().tag(name, tag).await else { return };
        let old = core.clock.now().unix().saturating_sub(core.settings.load().tag_ttl);
        let checked = record.checked.min(Timestamp::from_unix(old));
        core.record_tag(name, tag, TagRecord { checked, ..record }).await;
    }

    /// The registry has deleted the blob from this repository; others may have it still.
    pub async fn deleted_blob(&self, name: &CanonicalName, digest: &Digest) {
        self.0.written(&Subject::Blob(digest.clone()), name);
        note(self.0.store.records().drop_member(name, digest).await);
    }
}

impl PullCore {
    /// A thing has been written, or deleted, through us: answers from before it say nothing any more,
    /// and neither does "there is no such thing".
    fn written(&self, subject: &Subject, name: &CanonicalName) {
        // In this order: whoever remembers an absence looks at the writes first.
        self.writes.note(subject.clone(), name);
        self.negative.forget(subject, name);
    }

    fn manifest_written(&self, name: &CanonicalName, reference: Reference) {
        self.written(&Subject::Manifest(reference), name);
        self.written(&Subject::Tags, name);
    }

    async fn forget_tag(&self, name: &CanonicalName, tag: &Tag) {
        self.manifest_written(name, Reference::Tag(tag.clone()));
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
