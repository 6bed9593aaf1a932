//! The story of what refers to a manifest: passed through page by page where upstream has the API;
//! where it has not, the tag under which clients list it instead is the answer (distribution-spec,
//! "Referrers Tag Schema"), and no such tag is an empty list.
//!
//! A client that has once seen 200 from a registry does not look for the tag any more. So whatever
//! upstream can do, what has no referrers is an empty list, and never a 404 (REF-4).

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::Value;
use tokio::time::Instant;

use super::answers::{ManifestAnswer, Want};
use super::core::PullThrough;
use super::error::{Error, Missing, UpstreamFault};
use super::facts::lists::PageKey;
use super::facts::subject::Subject;
use super::listings::ListAnswer;
use super::outcome::Outcome;
use crate::oci::{CanonicalName, Digest, MediaType, OCI_INDEX, PageQuery, Reference, Tag};
use crate::upstream::{FailureClass, Page};

/// What there is to list where nothing is.
const NOTHING: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// One page of what refers to a manifest: an image index.
#[derive(Clone, Debug)]
pub struct Referrers {
    pub index: Bytes,
    /// The query of the next page, if there is one.
    pub next: Option<String>,
    /// `OCI-Filters-Applied` (REF-2).
    pub filters_applied: Option<String>,
    pub source: ReferrersSource,
    pub outcome: Outcome,
}

/// Where a list of referrers comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReferrersSource {
    Api,
    /// The tag that stands in for an API that upstream does not have.
    FallbackTag,
}

/// What asking the API came to.
enum FromApi {
    Listed(Referrers),
    /// Upstream has none, or refuses it; the tag may be there all the same.
    Unusable(Option<Error>),
}

impl PullThrough {
    /// One page of referrers. That upstream has no API for them is remembered for a moment, because
    /// nearly every pull asks (REF-5).
    ///
    /// # Errors
    /// What upstream says; see [`Error`]. That there are none is no error.
    pub async fn referrers(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        page: &PageQuery,
        deadline: Instant,
    ) -> Result<Referrers, Error> {
        if self.0.sources.is_sealed(name) {
            return self.kept_referrers(name, digest, page).await;
        }
        let subject = Subject::Referrers(digest.clone());
        let key = PageKey { name: name.clone(), subject, page: page.clone() };
        let remembered = self.0.negative.contains(&key.subject, name);
        let refusal = if remembered {
            None
        } else {
            match self.referrers_from_api(&key, digest, deadline).await? {
                FromApi::Listed(referrers) => return Ok(referrers),
                FromApi::Unusable(refusal) => refusal,
            }
        };
        if let Some(listed) = self.referrers_from_tag(name, digest, page).await? {
            return Ok(listed);
        }
        let outcome = if remembered { Outcome::Negative } else { Outcome::Absent };
        let nothing = Bytes::from_static(NOTHING);
        // A refusal of the API says nothing about whether there are any.
        refusal.map_or(Ok(from_tag(nothing, page, outcome)), Err)
    }

    /// What the referrers API says, or the fallback tag while that fails.
    async fn referrers_from_api(
        &self,
        key: &PageKey,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<FromApi, Error> {
        let PageKey { name, subject, page } = key;
        let tag = Tag::of_referrers(digest);
        let tag_is_known = matches!(self.0.store.records().tag(name, &tag).await, Ok(Some(_)));
        let (sent_at, deadline) =
            (self.0.clock.now(), self.list_deadline(key, tag_is_known, deadline));
        let upstream =
            self.0.sources.ask(name, Missing::Manifest, &self.1.interest(), deadline).await?;
        let answer = upstream.referrers(&name.repository, digest, page, deadline).await;
        // What stands in for it may be another question.
        drop(upstream);
        // Some answer 200 with something else than a list.
        let answer = answer.map(|page| page.filter(is_list));
        let settled = self.0.membership.settle(name, subject.clone(), answer, Missing::Manifest);
        match settled.await {
            Ok(None) => {
                self.0.negative.remember(subject.clone(), name, &self.0.limits);
                self.0.lists.drop_list(key);
                Ok(FromApi::Unusable(None))
            }
            Ok(Some(page)) => {
                let listed = self.given(key, page, sent_at);
                Ok(FromApi::Listed(from_api(listed)))
            }
            Err(error) if error.class() == FailureClass::Refused => {
                self.0.lists.drop_list(key);
                Ok(FromApi::Unusable(Some(error)))
            }
            Err(error) if tag_is_known && error.may_serve_stale() => {
                // As with any tag, the failure is the answer where nothing can stand in.
                let stale = self.referrers_from_tag(name, digest, page).await.ok().flatten();
                let stale = stale.ok_or(error)?;
                Ok(FromApi::Listed(Referrers { outcome: Outcome::Stale, ..stale }))
            }
            Err(error) => {
                self.stale_list(key, error).map(|listed| FromApi::Listed(from_api(listed)))
            }
        }
    }

    /// What the fallback tag lists; `None` without such a tag, or if it leads to something else
    /// than an image index: nothing that is no list of referrers may be answered as one.
    async fn referrers_from_tag(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        page: &PageQuery,
    ) -> Result<Option<Referrers>, Error> {
        let tag = Tag::of_referrers(digest);
        let answer = match self.manifest(name, &Reference::Tag(tag.clone()), Want::Body).await {
            // Some registries take such a tag for the digest itself. That is the subject.
            Ok(answer) if answer.digest == *digest => return Ok(None),
            Ok(answer) => answer,
            Err(error) if error.is_told_absent(Missing::Manifest) => return Ok(None),
            Err(error) if is_malformed(&error) => {
                tracing::debug!(%error, image = %name, %tag,
                    "the fallback tag of referrers cannot be used");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let (types, outcome) = (page.artifact_types(), answer.outcome);
        let index = index_bytes(answer, self.0.limits.manifest)
            .await?
            .and_then(|bytes| filtered(bytes, &types));
        if index.is_none() {
            tracing::debug!(image = %name, %tag,
                "the fallback tag of referrers leads to no list of them");
        }
        Ok(index.map(|index| from_tag(index, page, outcome)))
    }
}

fn from_api(ListAnswer { page, outcome }: ListAnswer) -> Referrers {
    let Page { bytes: index, next, filters_applied, .. } = page;
    Referrers { index, next, filters_applied, source: ReferrersSource::Api, outcome }
}

/// A list that was filtered here (REF-2).
fn from_tag(index: Bytes, page: &PageQuery, outcome: Outcome) -> Referrers {
    let filters_applied = (!page.artifact_types().is_empty()).then(|| "artifactType".to_owned());
    let source = ReferrersSource::FallbackTag;
    Referrers { index, next: None, filters_applied, source, outcome }
}

/// Whether a 200 is a list of referrers: registries without the API may answer with a page of
/// anything.
fn is_list(page: &Page) -> bool {
    let is_index = page.media_type.as_ref().map(MediaType::as_str) == Some(OCI_INDEX);
    is_index && serde_json::from_slice::<Value>(&page.bytes).is_ok_and(|list| list.is_object())
}

/// Whether upstream has answered, but with something that cannot be an answer.
fn is_malformed(error: &Error) -> bool {
    matches!(
        error,
        Error::Untrue { .. }
            | Error::Upstream { fault: UpstreamFault::Malformed | UpstreamFault::TooLarge, .. }
    )
}

/// The bytes of an image index; `None` if it is another manifest.
async fn index_bytes(manifest: ManifestAnswer, limit: usize) -> Result<Option<Bytes>, Error> {
    if manifest.media_type.as_str() != OCI_INDEX {
        return Ok(None);
    }
    manifest.content.bytes(limit).await
}

/// `index` with those of its entries that have one of `types`, or as it is if none are given
/// (REF-2); `None` if it has no entries to choose from.
fn filtered(index: Bytes, types: &[Cow<'_, str>]) -> Option<Bytes> {
    let mut document: Value = serde_json::from_slice(&index).ok()?;
    let listed = document.get_mut("manifests")?.as_array_mut()?;
    if types.is_empty() {
        return Some(index);
    }
    listed.retain(|entry| {
        entry["artifactType"].as_str().is_some_and(|of| types.iter().any(|wanted| wanted == of))
    });
    Some(document.to_string().into())
}
