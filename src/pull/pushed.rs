//! What the cache learns from a write that was passed through. All of it is recorded before the
//! client is told that the write is done, so that a pull after a push finds what was pushed
//! (UPL-8).
//!
//! A 201 that was passed on is the registry's own word that the repository has the content, and so
//! a proof (DESIGN §14.1).

use bytes::Bytes;

use super::core::{PullCore, PullThrough};
use super::facts::provisional::CheckedTag;
use super::facts::subject::Subject;
use super::{Error, Missing};
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, Manifest, MediaType, Reference, Tag};
use crate::store::{self, ContentSender, TagRecord};

/// A manifest that the registry has accepted.
#[derive(Clone, Debug)]
pub struct PushedManifest {
    pub digest: Digest,
    /// The tags that lead to it now.
    pub tags: Vec<Tag>,
    /// Requested tags that the registry did not confirm: it may have set them or not.
    pub unconfirmed_tags: Vec<Tag>,
    pub media_type: MediaType,
    pub bytes: Bytes,
}

impl PullThrough {
    /// Asks upstream, whatever is known here, whether it has the blob, and its size in bytes.
    ///
    /// A client that is about to push does not upload what it is told is there. If upstream has
    /// removed the blob meanwhile, its manifest is then refused, and no retry helps (UPL-12).
    ///
    /// # Errors
    /// What upstream says; see [`Error`].
    pub async fn blob_upstream(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        let size = self.membership().prove_blob(name, digest).await;
        size.map_err(|error| self.0.sources.or_sealed(name, Missing::Blob, error))
    }

    /// The registry has accepted the blob, or mounted it.
    pub async fn pushed_blob(&self, name: &CanonicalName, digest: &Digest) {
        self.0.written(&Subject::Blob(digest.clone()), name);
        self.membership().prove(name, digest, None).await;
    }

    /// The registry has accepted the manifest. With `keep` it is stored, and served from here at
    /// once; without, only what was known before is dropped.
    pub async fn pushed_manifest(&self, name: &CanonicalName, pushed: PushedManifest, keep: bool) {
        let PushedManifest { digest, tags, unconfirmed_tags, media_type, bytes } = pushed;
        let core = &self.0;
        core.manifest_written(name, Reference::Digest(digest.clone()));
        let manifest = Manifest::inspect(&bytes, &media_type).ok();
        // It refers to its subject, whose referrers may have been remembered as none.
        if let Some(subject) = manifest.as_ref().and_then(Manifest::subject) {
            core.written(&Subject::Referrers(subject.clone()), name);
        }
        // What a pull would refuse to serve is not kept either.
        let keep = keep && manifest.is_some();
        if let Some(manifest) = manifest.filter(|_| keep) {
            core.sizes.note(name, &manifest);
            let sender = ContentSender { upstream: name.upstream.clone(), is_public: false };
            core.store_manifest(&digest, bytes, sender).await;
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

    /// The registry has deleted the manifest, and with it every tag that leads to it.
    pub async fn deleted_manifest(&self, name: &CanonicalName, digest: &Digest) {
        let core = &self.0;
        core.manifest_written(name, Reference::Digest(digest.clone()));
        for CheckedTag { tag, .. } in core.provisional.take(name, digest) {
            core.forget_tag(name, &tag).await;
        }
        log_failure(core.store.records().drop_tags_of(name, digest).await);
        core.membership.take_back(name, digest).await;
    }

    /// The registry has deleted the tag.
    pub async fn deleted_tag(&self, name: &CanonicalName, tag: &Tag) {
        self.0.forget_tag(name, tag).await;
    }

    /// Makes what is known of the tag old at once, because a write to it may have succeeded or not.
    /// The next pull asks; the old digest may only stand in for a registry that does not answer
    /// (DESIGN §14.2).
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
        self.0.membership.take_back(name, digest).await;
    }
}

impl PullCore {
    /// Notes that a thing has been written or deleted just now: answers to earlier questions about
    /// it say nothing any more, and neither does a remembered absence.
    fn written(&self, subject: &Subject, name: &CanonicalName) {
        // In this order: in the other, an answer from before the write could be remembered between
        // the two steps, because whoever remembers an absence looks for recent writes first.
        self.writes.note(subject.clone(), name);
        self.negative.forget(subject, name);
    }

    /// Every write of a manifest or tag also changes the tags of its repository.
    fn manifest_written(&self, name: &CanonicalName, reference: Reference) {
        self.written(&Subject::Manifest(reference), name);
        self.written(&Subject::Tags, name);
    }

    async fn forget_tag(&self, name: &CanonicalName, tag: &Tag) {
        self.manifest_written(name, Reference::Tag(tag.clone()));
        self.provisional.drop_tag(name, tag);
        log_failure(self.store.records().drop_tag(name, tag).await);
    }
}

/// Logs a failure of the records. The write itself has succeeded at the registry, so the client is
/// told so all the same.
fn log_failure(result: Result<(), store::Error>) {
    if let Err(error) = result {
        tracing::warn!(%error, "the records are behind what was written");
    }
}
