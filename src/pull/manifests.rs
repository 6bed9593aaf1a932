//! The story of a manifest: by digest like a small blob, by tag through what is known about the
//! tag.

use std::sync::Arc;

use bytes::Bytes;

use super::Error;
use super::Inner;
use super::Outcome;
use super::PullThrough;
use super::facts::freshness::{self, Decision, Known};
use super::facts::negative::{Provisional, Subject};
use crate::clock::Timestamp;
use crate::oci::{Algorithm, CanonicalName, Digest, Manifest, MediaType, Reference, Tag};
use crate::store::{Blob, EvictionClass, Found, StageError, TagRecord};
use crate::upstream::{FetchedManifest, ManifestHead};
use tokio::time::Instant;

/// A manifest, ready to be sent.
#[derive(Clone, Debug)]
pub struct ManifestAnswer {
    pub digest: Digest,
    pub media_type: MediaType,
    /// In bytes.
    pub size: u64,
    pub content: ManifestContent,
    pub outcome: Outcome,
}

#[derive(Clone, Debug)]
pub enum ManifestContent {
    /// Only HEAD was asked, and upstream has answered it.
    None,
    Memory(Bytes),
    Stored(Blob),
}

/// Whether the bytes are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    Head,
    Body,
}

/// A tag that is asked for.
#[derive(Clone, Copy)]
struct AskedTag<'a> {
    name: &'a CanonicalName,
    tag: &'a Tag,
    want: Want,
    /// When the HEAD was sent that was known when it was decided to ask.
    seen: Option<Timestamp>,
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
        self.absent_before(&Subject::Manifest(reference.clone()), name, Error::ManifestUnknown)?;
        match reference {
            Reference::Digest(digest) => self.by_digest(name, digest, want).await,
            Reference::Tag(tag) => self.by_tag(name, tag, want).await,
        }
    }

    async fn by_digest(
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
            None if self.0.stored(digest).await.is_some() => (
                self.0.membership.prove_manifest(name, digest).await?.media_type,
                Outcome::Revalidated,
            ),
            None => (None, Outcome::Miss),
        };
        if let Some(media_type) = media_type
            && let Some((size, content)) = self.0.stored(digest).await
        {
            return Ok(ManifestAnswer {
                digest: digest.clone(),
                media_type,
                size,
                content,
                outcome,
            });
        }
        let reference = Reference::Digest(digest.clone());
        if want == Want::Head {
            let head = self.0.membership.prove_manifest(name, digest).await?;
            if let Some(answer) = head_answer(digest.clone(), head, Outcome::Miss) {
                return Ok(answer);
            }
        }
        self.fetch(name, &reference).await
    }

    async fn by_tag(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        let durable = match self.0.store.records().tag(name, tag).await {
            Ok(record) => {
                record.map(|record| Known { digest: record.digest, checked: record.checked })
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the record of a tag; asking upstream");
                None
            }
        };
        let provisional = self.0.provisional.get(name, tag);
        let provisional = provisional.map(|provisional| provisional.known);
        let asked =
            AskedTag { name, tag, want, seen: provisional.as_ref().map(|known| known.checked) };
        match freshness::decide(
            durable,
            provisional,
            self.0.ages.load().tag_ttl,
            self.0.clock.now(),
        ) {
            Decision::Serve(digest) => self.serve_tag(asked, &digest).await,
            Decision::Revalidate(known) => self.revalidate(asked, known).await,
            Decision::Fetch => {
                self.resolve_tag(asked, Instant::now() + self.0.limits.flight_head).await
            }
        }
    }

    /// The tag is fresh; its bytes may be here, or only what a HEAD said about them.
    async fn serve_tag(
        &self,
        asked: AskedTag<'_>,
        digest: &Digest,
    ) -> Result<ManifestAnswer, Error> {
        let AskedTag { name, tag, want, .. } = asked;
        let head = self
            .0
            .provisional
            .get(name, tag)
            .filter(|provisional| provisional.known.digest == *digest);
        if let (Want::Head, Some(head)) = (want, head)
            && self.0.stored(digest).await.is_none()
        {
            let head = ManifestHead { digest: None, media_type: head.media_type, size: head.size };
            if let Some(answer) = head_answer(digest.clone(), head, Outcome::Fresh) {
                return Ok(answer);
            }
        }
        match self.by_digest(name, digest, want).await {
            // The tag has moved before its time, and its old manifest is gone upstream.
            Err(Error::ManifestUnknown) => {
                self.resolve_tag(asked, Instant::now() + self.0.limits.flight_head).await
            }
            answer => answer.map(|answer| answer.with(Outcome::Fresh)),
        }
    }

    /// Asks whether the tag still has the digest; what is known stands in where upstream does not
    /// answer.
    async fn revalidate(&self, asked: AskedTag<'_>, known: Known) -> Result<ManifestAnswer, Error> {
        let AskedTag { name, tag, want, .. } = asked;
        // What is known stands in for an answer that takes long, be it the HEAD or the GET that
        // follows from it.
        let patience = self.0.limits.revalidate;
        let deadline = Instant::now() + patience;
        let resolved = tokio::time::timeout_at(deadline, self.resolve_tag(asked, deadline)).await;
        let error = match resolved.unwrap_or(Err(Error::Late(patience))) {
            Ok(answer) if answer.digest == known.digest => {
                return Ok(answer.with(Outcome::Revalidated));
            }
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let in_time = freshness::may_stand_in(
            known.checked,
            self.0.ages.load().stale_if_error,
            self.0.clock.now(),
        );
        if !error.may_serve_stale() || !in_time {
            return Err(error);
        }
        tracing::debug!(%error, image = %name, %tag, "serving a tag although upstream does not confirm it");
        // Without the bytes there is nothing to stand in, and upstream's failure is the answer.
        let stale = self.by_digest(name, &known.digest, want).await.map_err(|_| error)?;
        Ok(stale.with(Outcome::Stale))
    }

    /// HEAD, then GET by the digest it names; GET by tag where HEAD does not tell (Hub counts GETs
    /// only).
    async fn resolve_tag(
        &self,
        asked: AskedTag<'_>,
        deadline: Instant,
    ) -> Result<ManifestAnswer, Error> {
        let AskedTag { name, tag, want, .. } = asked;
        let head = self.head_tag(asked, deadline).await?;
        let Some(digest) = head.digest.clone() else {
            return self.fetch(name, &Reference::Tag(tag.clone())).await;
        };
        if self.0.stored(&digest).await.is_none()
            && want == Want::Head
            && let Some(answer) = head_answer(digest.clone(), head, Outcome::Miss)
        {
            return Ok(answer);
        }
        let answer = self.by_digest(name, &digest, want).await?;
        self.0.make_durable(name, &digest).await;
        Ok(answer.with(Outcome::Miss))
    }

    /// One HEAD by tag for all who ask; what it says is provisional until the bytes are verified.
    async fn head_tag(
        &self,
        asked: AskedTag<'_>,
        deadline: Instant,
    ) -> Result<ManifestHead, Error> {
        let (inner, seen) = (Arc::clone(&self.0), asked.seen);
        let (name, tag) = (asked.name.clone(), asked.tag.clone());
        let era = self.0.absences.era(&Subject::Tags, &name);
        let head = self.0.tag_heads.run((name.clone(), tag.clone(), era), || async move {
            // Others may have asked, and got their answer, since this was decided.
            let known = inner
                .provisional
                .get(&name, &tag)
                .filter(|known| Some(known.known.checked) != seen);
            if let Some(Provisional { known, media_type, size }) = known {
                return Ok(ManifestHead { digest: Some(known.digest), media_type, size });
            }
            inner.ask_tag(&name, &tag, deadline).await
        });
        head.await.unwrap_or(Err(Error::Abandoned))
    }

    /// One GET for all who ask.
    async fn fetch(
        &self,
        name: &CanonicalName,
        reference: &Reference,
    ) -> Result<ManifestAnswer, Error> {
        let era = self.0.absences.era(&Subject::Tags, name);
        let (inner, key) = (Arc::clone(&self.0), (name.clone(), reference.clone(), era));
        let fetched = self.0.manifest_gets.run(key.clone(), || async move {
            let (name, reference, _) = key;
            if let Some(answer) = inner.known_manifest(&name, &reference).await {
                return Ok(answer); // brought by a run that has just ended
            }
            let asked = inner.clock.now();
            let answer = inner
                .upstream(&name)?
                .get_manifest(
                    &name.repository,
                    &reference,
                    Instant::now() + inner.limits.flight_head,
                )
                .await;
            let fetched = match (&reference, answer) {
                (_, Ok(fetched)) => fetched,
                (Reference::Tag(tag), Err(error)) => {
                    inner.settle_tag(&name, tag, Err(error)).await?
                }
                (Reference::Digest(_), Err(error)) => {
                    let error = Error::from_upstream(error, Error::ManifestUnknown);
                    inner.membership.withdraw(&name, Subject::Manifest(reference), &error).await;
                    return Err(error);
                }
            };
            let answer = inner.keep(&name, &reference, (fetched, asked)).await?;
            if let Reference::Tag(tag) = &reference {
                inner
                    .put_tag(
                        &name,
                        tag,
                        TagRecord { digest: answer.digest.clone(), checked: asked },
                    )
                    .await;
            }
            Ok(answer)
        });
        fetched.await.unwrap_or(Err(Error::Abandoned))
    }
}

impl Inner {
    async fn ask_tag(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        deadline: Instant,
    ) -> Result<ManifestHead, Error> {
        let asked = self.clock.now();
        let reference = Reference::Tag(tag.clone());
        let head = self.upstream(name)?.head_manifest(&name.repository, &reference, deadline).await;
        let head = self.settle_tag(name, tag, head).await?;
        if let Some(digest) = &head.digest {
            let known = Known { digest: digest.clone(), checked: asked };
            let (media_type, size) = (head.media_type.clone(), head.size);
            self.membership.prove_as_of(asked, name, digest, head.media_type.clone()).await;
            if !self.absences.outdated(&Subject::Tags, name, asked) {
                self.provisional.put(name, tag, Provisional { known, media_type, size });
            }
        }
        Ok(head)
    }

    /// The manifest, if it is proven and stored by now.
    async fn known_manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
    ) -> Option<ManifestAnswer> {
        let Reference::Digest(digest) = reference else { return None };
        let member = self.store.records().member(name, digest).await.ok()??;
        let (size, content) = self.stored(digest).await?;
        let outcome = Outcome::Joined;
        Some(ManifestAnswer {
            digest: digest.clone(),
            media_type: member.media_type?,
            size,
            content,
            outcome,
        })
    }

    /// Stored manifest bytes and their size.
    async fn stored(&self, digest: &Digest) -> Option<(u64, ManifestContent)> {
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

    /// Verifies what was fetched, and when it was asked for, stores it, and records what it proves.
    async fn keep(
        &self,
        name: &CanonicalName,
        reference: &Reference,
        (fetched, asked): (FetchedManifest, Timestamp),
    ) -> Result<ManifestAnswer, Error> {
        let FetchedManifest { digest: told, media_type, bytes } = fetched;
        let digest = true_digest(reference, told.as_ref(), &bytes).map_err(|actual| {
            Error::untrue(&name.upstream, format!("a manifest that hashes to {actual}"))
        })?;
        let manifest = Manifest::inspect(&bytes, &media_type).map_err(|error| {
            Error::untrue(&name.upstream, format!("something that is no manifest: {error}"))
        })?;
        self.note_sizes(name, &manifest);
        self.store_manifest(&digest, bytes.clone()).await;
        self.membership.prove_as_of(asked, name, &digest, Some(media_type.clone())).await;
        self.make_durable(name, &digest).await;
        let size = bytes.len() as u64;
        Ok(ManifestAnswer {
            digest,
            media_type,
            size,
            content: ManifestContent::Memory(bytes),
            outcome: Outcome::Miss,
        })
    }

    /// Remembers what each listed blob should weigh (DESIGN §14.5).
    pub(super) fn note_sizes(&self, name: &CanonicalName, manifest: &Manifest) {
        for descriptor in manifest.descriptors() {
            self.sizes.put(name, descriptor.digest.clone(), descriptor.size);
        }
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

    /// Tags that a HEAD resolved to `digest` become durable, now that its bytes are verified
    /// (DESIGN §14.2).
    async fn make_durable(&self, name: &CanonicalName, digest: &Digest) {
        for (tag, checked) in self.provisional.take(name, digest) {
            self.put_tag(name, &tag, TagRecord { digest: digest.clone(), checked }).await;
        }
    }

    async fn put_tag(&self, name: &CanonicalName, tag: &Tag, record: TagRecord) {
        if self.absences.outdated(&Subject::Tags, name, record.checked) {
            return;
        }
        self.record_tag(name, tag, record).await;
    }

    pub(super) async fn record_tag(&self, name: &CanonicalName, tag: &Tag, record: TagRecord) {
        if let Err(error) = self.store.records().put_tag(name, tag, record).await {
            tracing::warn!(%error, image = %name, %tag, "cannot record a tag");
        }
    }

    /// Folds an answer about a tag; a 404 takes back what was known of it.
    async fn settle_tag<T>(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        answer: Result<T, crate::upstream::Error>,
    ) -> Result<T, Error> {
        let error = match answer {
            Ok(answer) => return Ok(answer),
            Err(error) => Error::from_upstream(error, Error::ManifestUnknown),
        };
        let subject = Subject::Manifest(Reference::Tag(tag.clone()));
        self.membership.withdraw(name, subject, &error).await;
        if !error.may_serve_stale() {
            self.provisional.drop_tag(name, tag);
            if let Err(error) = self.store.records().drop_tag(name, tag).await {
                tracing::warn!(%error, image = %name, %tag, "cannot drop the record of a tag");
            }
        }
        Err(error)
    }
}

impl ManifestAnswer {
    /// Says how a tag led here.
    fn with(self, outcome: Outcome) -> Self {
        Self { outcome, ..self }
    }
}

/// An answer to HEAD, if upstream told everything that it takes (MAN-2).
fn head_answer(digest: Digest, head: ManifestHead, outcome: Outcome) -> Option<ManifestAnswer> {
    let (media_type, size) = (head.media_type?, head.size?);
    Some(ManifestAnswer { digest, media_type, size, content: ManifestContent::None, outcome })
}

/// The digest of `bytes`, if neither the reference nor the upstream's header contradicts it
/// (MAN-9).
fn true_digest(
    reference: &Reference,
    told: Option<&Digest>,
    bytes: &[u8],
) -> Result<Digest, Digest> {
    let asked = match reference {
        Reference::Digest(digest) => Some(digest),
        Reference::Tag(_) => None,
    };
    let algorithm = asked.or(told).map_or(Algorithm::Sha256, Digest::algorithm);
    let actual = Digest::of(algorithm, bytes);
    let contradicts = |claim: &&Digest| claim.algorithm() == algorithm && **claim != actual;
    if asked.iter().chain(told.iter()).any(contradicts) { Err(actual) } else { Ok(actual) }
}
