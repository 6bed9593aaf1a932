//! The story of a manifest: by digest like a small blob, buffered whole; by tag through what is known
//! of the tag (`tags`).

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::answers::{ManifestAnswer, ManifestContent, Want, head_answer};
use super::core::{PullCore, PullThrough};
use super::error::{Error, Missing};
use super::facts::subject::Subject;
use super::outcome::Outcome;
use crate::clock::Timestamp;
use crate::oci::{Algorithm, CanonicalName, Digest, Manifest, Reference};
use crate::store::{EvictionClass, Found, StageError, TagRecord};
use crate::upstream::FetchedManifest;

/// A manifest as upstream sent it, and when it was asked for.
struct Fetched {
    manifest: FetchedManifest,
    sent_at: Timestamp,
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
        match reference {
            Reference::Digest(digest) => self.by_digest(name, digest, want).await,
            Reference::Tag(tag) => self.by_tag(name, tag, want).await,
        }
    }

    pub(super) async fn by_digest(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        let standing = self.0.membership.standing(name, digest).await?;
        let (media_type, outcome) = match standing.and_then(|member| member.media_type) {
            Some(media_type) => (Some(media_type), Outcome::Hit),
            // The bytes are there for others: one HEAD proves them for this repository and tells
            // their type.
            None if self.0.stored_manifest(digest).await.is_some() => (
                self.0.membership.prove_manifest(name, digest).await?.media_type,
                Outcome::Revalidated,
            ),
            None => (None, Outcome::Miss),
        };
        if let Some(media_type) = media_type
            && let Some((size, content)) = self.0.stored_manifest(digest).await
        {
            let digest = digest.clone();
            return Ok(ManifestAnswer { digest, media_type, size, content, outcome });
        }
        if want == Want::Head {
            let head = self.0.membership.prove_manifest(name, digest).await?;
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
        let epoch = self.0.writes.epoch(&Subject::Tags, name);
        let (core, key) = (Arc::clone(&self.0), (name.clone(), reference.clone(), epoch));
        let fetched = self.0.manifest_gets.run(key.clone(), || async move {
            let (name, reference, _) = key;
            if let Some(answer) = core.known_manifest(&name, &reference).await {
                return Ok(answer); // brought by a run that has just ended
            }
            let fetched = core.get_manifest(&name, &reference).await?;
            let sent_at = fetched.sent_at;
            let answer = core.keep_manifest(&name, &reference, fetched).await?;
            if let Reference::Tag(tag) = &reference {
                let record = TagRecord { digest: answer.digest.clone(), checked: sent_at };
                core.put_tag(&name, tag, record).await;
            }
            Ok(answer)
        });
        fetched.await.unwrap_or(Err(Error::Abandoned))
    }
}

impl PullCore {
    /// Asks upstream for the whole manifest, and believes what it says if that is no.
    async fn get_manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
    ) -> Result<Fetched, Error> {
        let (sent_at, upstream) = (self.clock.now(), self.sources.upstream(name)?);
        let deadline = Instant::now() + self.limits.flight_head;
        let answer = upstream.get_manifest(&name.repository, reference, deadline).await;
        let manifest = match reference {
            Reference::Tag(tag) => self.settle_tag(name, tag, answer).await?,
            Reference::Digest(_) => {
                let subject = Subject::Manifest(reference.clone());
                self.membership.settle(name, subject, answer, Missing::Manifest).await?
            }
        };
        Ok(Fetched { manifest, sent_at })
    }

    /// The manifest, if it is proven and stored by now.
    async fn known_manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
    ) -> Option<ManifestAnswer> {
        let Reference::Digest(digest) = reference else { return None };
        let member = self.store.records().member(name, digest).await.ok()??;
        let (size, content) = self.stored_manifest(digest).await?;
        let (media_type, outcome) = (member.media_type?, Outcome::Joined);
        Some(ManifestAnswer { digest: digest.clone(), media_type, size, content, outcome })
    }

    /// Stored manifest bytes and their size.
    pub(super) async fn stored_manifest(&self, digest: &Digest) -> Option<(u64, ManifestContent)> {
        let found = self.store.open(digest).await.unwrap_or_else(|error| {
            tracing::error!(%error, %digest, "cannot open a stored manifest; fetching it");
            None
        });
        match found? {
            Found::Memory(body) => Some((body.len() as u64, ManifestContent::Memory(body))),
            Found::File(blob) => Some((blob.size(), ManifestContent::Stored(blob))),
            // Larger than any manifest.
            Found::Unchecked(_) => None,
        }
    }

    /// Verifies what was fetched, stores it, and records what it proves.
    async fn keep_manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        fetched: Fetched,
    ) -> Result<ManifestAnswer, Error> {
        let Fetched { manifest: FetchedManifest { digest: told, media_type, bytes }, sent_at } =
            fetched;
        let digest = true_digest(reference, told.as_ref(), &bytes).map_err(|actual| {
            Error::untrue(&name.upstream, format!("a manifest that hashes to {actual}"))
        })?;
        let manifest = Manifest::inspect(&bytes, &media_type).map_err(|error| {
            Error::untrue(&name.upstream, format!("something that is no manifest: {error}"))
        })?;
        self.sizes.note(name, &manifest);
        self.store_manifest(&digest, bytes.clone()).await;
        self.membership.prove_as_of(sent_at, name, &digest, Some(media_type.clone())).await;
        self.make_durable(name, &digest).await;
        let (size, content) = (bytes.len() as u64, ManifestContent::Memory(bytes));
        Ok(ManifestAnswer { digest, media_type, size, content, outcome: Outcome::Miss })
    }

    /// Stores bytes that hash to `digest`; without room, or a disk, it is served from upstream.
    pub(super) async fn store_manifest(&self, digest: &Digest, bytes: Bytes) {
        if let Err(StageError::Failed(error)) = self.stage_manifest(digest, bytes).await {
            tracing::error!(%error, %digest, "cannot store a manifest");
        }
    }

    async fn stage_manifest(&self, digest: &Digest, bytes: Bytes) -> Result<(), StageError> {
        let mut staged = self.store.stage(digest, Some(bytes.len() as u64)).await?;
        staged.append(vec![bytes], |_| {}).await?;
        // The digest was computed from these very bytes.
        if let Ok(verified) = staged.verify() {
            verified.publish(EvictionClass::Manifest, self.clock.now()).await?;
        }
        Ok(())
    }
}

/// The digest of `bytes`, if neither the reference nor the upstream's header contradicts it (MAN-9).
///
/// # Errors
/// What the bytes hash to instead.
fn true_digest(
    reference: &Reference,
    told: Option<&Digest>,
    bytes: &[u8],
) -> Result<Digest, Digest> {
    let named = match reference {
        Reference::Digest(digest) => Some(digest),
        Reference::Tag(_) => None,
    };
    let algorithm = named.or(told).map_or(Algorithm::Sha256, Digest::algorithm);
    let actual = Digest::of(algorithm, bytes);
    let contradicts = |claim: &&Digest| claim.algorithm() == algorithm && **claim != actual;
    if named.iter().chain(told.iter()).any(contradicts) { Err(actual) } else { Ok(actual) }
}
