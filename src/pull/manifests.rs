//! The story of a manifest: by digest it is served like a small blob, but buffered whole; by tag it
//! takes what is known of the tag first (`tags`).

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::answers::{ManifestAnswer, ManifestContent, Want, head_answer};
use super::core::{ManifestGetKey, PullCore, PullThrough};
use super::error::{Error, Missing};
use super::facts::freshness::Known;
use super::facts::provisional::Provisional;
use super::facts::subject::Subject;
use super::interest::Interest;
use super::outcome::Outcome;
use super::single_flight::Unwanted;
use crate::clock::Timestamp;
use crate::oci::{Algorithm, CanonicalName, Digest, Manifest, Reference};
use crate::store::{ContentSender, EvictionClass, Found, RoomOwner, StageError, Use};
use crate::upstream::FetchedManifest;

/// Manifests of a repository that are looked through for sizes after a start.
const LEARNED_MAX: usize = 100;

/// A manifest as upstream sent it, and when the GET was sent.
struct DatedManifest {
    manifest: FetchedManifest,
    sent_at: Timestamp,
    sender: ContentSender,
}

/// A manifest that the store has.
pub(super) struct StoredManifest {
    /// Bytes.
    pub(super) size: u64,
    pub(super) content: ManifestContent,
}

impl PullThrough {
    /// The manifest that `reference` names in `name`.
    ///
    /// # Errors
    /// What upstream says, or our own failure; see [`Error`].
    pub async fn manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        let subject = Subject::Manifest(reference.clone());
        self.check_negative_cache(&subject, name, Missing::Manifest)?;
        let answer = match reference {
            Reference::Digest(digest) => self.manifest_by_digest(name, digest, want).await,
            Reference::Tag(tag) if self.0.sources.is_sealed(name) => {
                self.kept_tag(name, tag, want).await
            }
            Reference::Tag(tag) => self.manifest_by_tag(name, tag, want).await,
        };
        answer.map_err(|error| self.0.sources.or_sealed(name, Missing::Manifest, error))
    }

    pub(super) async fn manifest_by_digest(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        let error = match self.known_or_fetched_manifest(name, digest, want).await {
            Err(error) if error.is_told_absent(Missing::Manifest) => error,
            answer => return answer,
        };
        // Some registries serve a tag and do not know the digest that they give it, for a while or
        // for good. The bytes decide whether it is the same manifest (UP-11).
        let Some(tag) = self.0.provisional.leading_to(name, digest) else { return Err(error) };
        let fetched = self.fetch_manifest(name, &Reference::Tag(tag)).await;
        let fetched = fetched.ok().filter(|answer| answer.digest == *digest).ok_or(error)?;
        let subject = Subject::Manifest(Reference::Digest(digest.clone()));
        self.0.negative.forget(&subject, name);
        Ok(fetched)
    }

    async fn known_or_fetched_manifest(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        let proven = self.membership().proven(name, digest).await?;
        let (media_type, outcome) = match proven.and_then(|member| member.media_type) {
            Some(media_type) => (Some(media_type), Outcome::Hit),
            // The bytes were stored for another repository. One HEAD proves them for this one, and
            // tells the type that goes with them here (MAN-4).
            None if self.0.stored_manifest(name, digest).await.is_some() => (
                self.membership().prove_manifest(name, digest).await?.media_type,
                Outcome::Revalidated,
            ),
            None => (None, Outcome::Miss),
        };
        if let Some(media_type) = media_type
            && let Some(StoredManifest { size, content }) =
                self.0.stored_manifest(name, digest).await
        {
            let digest = digest.clone();
            return Ok(ManifestAnswer { digest, media_type, size, content, outcome });
        }
        // A HEAD of what is not stored fetches nothing, if upstream's HEAD says enough for an
        // answer.
        if want == Want::Head {
            let head = self.membership().prove_manifest(name, digest).await?;
            if let Some(answer) = head_answer(digest.clone(), head, Outcome::Miss) {
                return Ok(answer);
            }
        }
        self.fetch_manifest(name, &Reference::Digest(digest.clone())).await
    }

    /// One GET for everybody who asks.
    pub(super) async fn fetch_manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
    ) -> Result<ManifestAnswer, Error> {
        // Any write of a manifest or tag in the repository begins a new question, because a
        // manifest that is deleted takes tags with it, and which ones is not always known.
        let epoch = self.0.writes.epoch(&Subject::Tags, name);
        let core = Arc::clone(&self.0);
        let key = ManifestGetKey { name: name.clone(), reference: reference.clone(), epoch };
        let fetched = self.0.manifest_gets.run(
            key.clone(),
            &self.1,
            Unwanted::Cancelled,
            |interest| async move {
                let ManifestGetKey { name, reference, .. } = key;
                // A run may have ended after this caller looked at the store and before it came here.
                if let Some(answer) = core.known_manifest(&name, &reference).await {
                    return Ok(answer);
                }
                let fetched = core.get_manifest(&name, &reference, &interest).await?;
                let sent_at = fetched.sent_at;
                let answer = core.keep_manifest(&name, &reference, fetched).await?;
                if let Reference::Tag(tag) = &reference {
                    core.note_head(&name, tag, named_by(&answer, sent_at));
                    core.make_durable(&name, &answer.digest).await;
                }
                Ok(answer)
            },
        );
        fetched.await.unwrap_or(Err(Error::Abandoned))
    }
}

impl PullCore {
    /// Asks upstream for the whole manifest. A refusal takes back what was believed of it.
    async fn get_manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        interest: &Interest,
    ) -> Result<DatedManifest, Error> {
        let deadline = Instant::now() + self.limits.shared_question();
        let upstream = self.sources.ask(name, Missing::Manifest, interest, deadline).await?;
        let (sent_at, sender) = (self.clock.now(), upstream.sender(name));
        let answer = upstream.get_manifest(&name.repository, reference, deadline).await;
        let manifest = match reference {
            Reference::Tag(tag) => self.settle_tag(name, tag, answer).await?,
            Reference::Digest(_) => {
                let subject = Subject::Manifest(reference.clone());
                self.membership.settle(name, subject, answer, Missing::Manifest).await?
            }
        };
        Ok(DatedManifest { manifest, sent_at, sender })
    }

    /// The manifest, if it is proven and stored by now.
    async fn known_manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
    ) -> Option<ManifestAnswer> {
        let Reference::Digest(digest) = reference else { return None };
        let member = self.store.records().member(name, digest).await.ok()??;
        if member.doubted.is_some() {
            return None;
        }
        let StoredManifest { size, content } = self.stored_manifest(name, digest).await?;
        let (media_type, outcome) = (member.media_type?, Outcome::Joined);
        Some(ManifestAnswer { digest: digest.clone(), media_type, size, content, outcome })
    }

    /// The manifest, if it is stored, may be used for `name`, and can be read. This says nothing
    /// about anybody's right to it.
    pub(super) async fn stored_manifest(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Option<StoredManifest> {
        let found = self.store.open(digest, Use::Whole).await.unwrap_or_else(|error| {
            tracing::error!(%error, %digest, "cannot open a stored manifest; fetching it");
            None
        });
        let found = found?;
        if !self.may_use(name, digest).await {
            return None;
        }
        match found {
            Found::Memory(body) => Some(StoredManifest {
                size: body.len() as u64,
                content: ManifestContent::Memory(body),
            }),
            Found::File(blob) => {
                Some(StoredManifest { size: blob.size(), content: ManifestContent::Stored(blob) })
            }
            // Larger than any manifest: small files are hashed when they are opened.
            Found::Unchecked(_) => None,
        }
    }

    /// The size that manifests of `name` say, those that an earlier process has stored among them.
    pub(super) async fn described_size(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Option<u64> {
        let known = self.sizes.get(name, digest);
        if known.is_some() || !self.sizes.begin_to_learn(name) {
            return known;
        }
        let manifests = self.store.records().manifests(name, LEARNED_MAX).await;
        for (of, media_type) in manifests.unwrap_or_default() {
            // No use of them, and what is large or suspect is not worth a hint.
            if let Ok(Some(Found::Memory(bytes))) = self.store.open(&of, Use::Part).await
                && self.may_use(name, &of).await
                && let Ok(manifest) = Manifest::inspect(&bytes, &media_type)
            {
                self.sizes.note(name, &manifest);
            }
        }
        self.sizes.get(name, digest)
    }

    /// Verifies what was fetched, stores it, and records what it proves.
    async fn keep_manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        fetched: DatedManifest,
    ) -> Result<ManifestAnswer, Error> {
        let DatedManifest { manifest, sent_at, sender } = fetched;
        let FetchedManifest { digest: reported, media_type, bytes } = manifest;
        let digest = verified_digest(reference, reported.as_ref(), &bytes).map_err(|actual| {
            Error::untrue(&name.upstream, format!("a manifest that hashes to {actual}"))
        })?;
        let manifest = Manifest::inspect(&bytes, &media_type).map_err(|error| {
            Error::untrue(&name.upstream, format!("something that is no manifest: {error}"))
        })?;
        self.sizes.note(name, &manifest);
        self.store_manifest(&digest, bytes.clone(), sender).await;
        self.membership.prove_as_of(sent_at, name, &digest, Some(media_type.clone())).await;
        self.make_durable(name, &digest).await;
        let (size, content) = (bytes.len() as u64, ManifestContent::Memory(bytes));
        Ok(ManifestAnswer { digest, media_type, size, content, outcome: Outcome::Miss })
    }

    /// Stores bytes that hash to `digest`. Without room, or if the disk fails, the next request
    /// asks upstream again.
    pub(super) async fn store_manifest(
        &self,
        digest: &Digest,
        bytes: Bytes,
        sender: ContentSender,
    ) {
        if let Err(StageError::Failed(error)) = self.stage_manifest(digest, bytes, sender).await {
            tracing::error!(%error, %digest, "cannot store a manifest");
        }
    }

    async fn stage_manifest(
        &self,
        digest: &Digest,
        bytes: Bytes,
        sender: ContentSender,
    ) -> Result<(), StageError> {
        let mut staged =
            self.store.stage(digest, Some(bytes.len() as u64), RoomOwner::default()).await?;
        staged.append(vec![bytes], |_| {}).await?;
        // The digest was computed from these very bytes.
        if let Ok(verified) = staged.verify() {
            verified.publish(EvictionClass::Manifest, self.clock.now(), sender).await?;
        }
        Ok(())
    }
}

/// What a manifest that was fetched by tag says of that tag.
fn named_by(answer: &ManifestAnswer, checked: Timestamp) -> Provisional {
    let known = Known { digest: answer.digest.clone(), checked };
    let (media_type, size) = (Some(answer.media_type.clone()), Some(answer.size));
    Provisional { known, media_type, size, held_since: None }
}

/// The digest of `bytes`, if neither the reference nor the upstream's header contradicts it
/// (MAN-9). Digests of different algorithms cannot contradict each other.
///
/// # Errors
/// What the bytes hash to instead.
fn verified_digest(
    reference: &Reference,
    reported: Option<&Digest>,
    bytes: &[u8],
) -> Result<Digest, Digest> {
    let named = match reference {
        Reference::Digest(digest) => Some(digest),
        Reference::Tag(_) => None,
    };
    let algorithm = named.or(reported).map_or(Algorithm::Sha256, Digest::algorithm);
    let actual = Digest::of(algorithm, bytes);
    let contradicts = |claim: &&Digest| claim.algorithm() == algorithm && **claim != actual;
    if named.iter().chain(reported.iter()).any(contradicts) { Err(actual) } else { Ok(actual) }
}
