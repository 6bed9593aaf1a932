//! Tags and referrers: passed through, page by page. Where upstream has no referrers API, the tag
//! under which clients list them instead is the answer (distribution-spec, "Referrers Tag Schema").

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;

use super::answers::{ManifestAnswer, Want};
use super::core::PullThrough;
use super::error::{Error, Missing, UpstreamFault};
use super::facts::subject::Subject;
use super::outcome::Outcome;
use crate::oci::{CanonicalName, Digest, MediaType, OCI_INDEX, PageQuery, Reference, Tag};
use crate::upstream::Page;

/// One page of the tags of a repository.
#[derive(Clone, Debug)]
pub struct TagPage {
    /// As upstream wrote them.
    pub tags: Vec<String>,
    /// The query of the next page, if there is one (TAG-3).
    pub next: Option<String>,
    pub outcome: Outcome,
}

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

/// What is read of upstream's list; `null` counts as no tags (TAG-1).
#[derive(Deserialize)]
struct TagDocument {
    tags: Option<Vec<String>>,
}

impl PullThrough {
    /// One page of tags, as upstream gives it; no page is followed on the client's behalf (TAG-4).
    ///
    /// # Errors
    /// What upstream says; see [`Error`].
    pub async fn tags(
        &self,
        name: &CanonicalName,
        page: &PageQuery,
        deadline: Instant,
    ) -> Result<TagPage, Error> {
        self.check_negative_cache(&Subject::Tags, name, Missing::Repository)?;
        let upstream = self.0.sources.upstream(name)?;
        let answer = upstream.list_tags(&name.repository, page, deadline).await;
        let settled = self.0.membership.settle(name, Subject::Tags, answer, Missing::Repository);
        let Page { bytes, next, .. } = settled.await?;
        let document: TagDocument = serde_json::from_slice(&bytes)
            .map_err(|_| Error::untrue(&name.upstream, "a tag list that is none"))?;
        let tags = document.tags.unwrap_or_default();
        Ok(TagPage { tags, next, outcome: Outcome::Relay })
    }

    /// One page of referrers. That upstream has no API for them is remembered for minutes, because
    /// nearly every pull asks (REF-5).
    ///
    /// # Errors
    /// [`Missing::Referrers`] if there is neither an API nor a fallback tag, which says nothing
    /// about the repository (REF-4); else what upstream says.
    pub async fn referrers(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        page: &PageQuery,
        deadline: Instant,
    ) -> Result<Referrers, Error> {
        let tag = Tag::of_referrers(digest);
        let remembered = self.0.negative.contains(&Subject::Referrers(digest.clone()), name);
        if !remembered {
            let known = matches!(self.0.store.records().tag(name, &tag).await, Ok(Some(_)));
            // The API gets less time if the fallback tag is known, which can stand in for it, as a
            // known tag does for a revalidation (DESIGN §14.2).
            let soon = Instant::now() + self.0.limits.revalidate;
            let deadline = if known { deadline.min(soon) } else { deadline };
            match self.referrers_from_api(name, digest, page, deadline).await {
                // There is no API. Where none is known to a registry, its answer is often a page.
                Err(error) if error.is_told_absent(Missing::Referrers) => {}
                Err(error) if known && error.may_serve_stale() => {
                    // As with any tag, the failure is the answer where nothing can stand in.
                    let stale = self.referrers_from_tag(name, &tag, page).await.ok().flatten();
                    let stale = stale.ok_or(error)?;
                    return Ok(Referrers { outcome: Outcome::Stale, ..stale });
                }
                answer => return answer,
            }
        }
        let absent = Error::Absent { what: Missing::Referrers, remembered };
        self.referrers_from_tag(name, &tag, page).await?.ok_or(absent)
    }

    /// What the referrers API says.
    async fn referrers_from_api(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        page: &PageQuery,
        deadline: Instant,
    ) -> Result<Referrers, Error> {
        let upstream = self.0.sources.upstream(name)?;
        let answer = upstream.referrers(&name.repository, digest, page, deadline).await;
        let subject = Subject::Referrers(digest.clone());
        let settled = self.0.membership.settle(name, subject, answer, Missing::Referrers);
        let Page { media_type, bytes, next, filters_applied } = settled.await?;
        if media_type.as_ref().map(MediaType::as_str) != Some(OCI_INDEX) {
            return Err(Error::untrue(&name.upstream, "referrers that are no image index"));
        }
        let (source, outcome) = (ReferrersSource::Api, Outcome::Relay);
        Ok(Referrers { index: bytes, next, filters_applied, source, outcome })
    }

    /// What the fallback tag lists; `None` without such a tag, or if it leads to something else
    /// than an image index: nothing that is no list of referrers may be answered as one.
    async fn referrers_from_tag(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        page: &PageQuery,
    ) -> Result<Option<Referrers>, Error> {
        let answer = match self.manifest(name, &Reference::Tag(tag.clone()), Want::Body).await {
            Ok(answer) => answer,
            Err(error) if error.is_told_absent(Missing::Manifest) => return Ok(None),
            Err(error) if is_malformed(&error) => {
                tracing::debug!(%error, image = %name, %tag,
                    "the fallback tag of referrers cannot be used");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let types = page.artifact_types();
        let outcome = answer.outcome;
        let Some(index) = index_bytes(answer, self.0.limits.page)
            .await?
            .and_then(|bytes| filtered(bytes, &types))
        else {
            tracing::debug!(image = %name, %tag,
                "the fallback tag of referrers leads to no list of them");
            return Ok(None);
        };
        let filters_applied = (!types.is_empty()).then(|| "artifactType".to_owned());
        let source = ReferrersSource::FallbackTag;
        Ok(Some(Referrers { index, next: None, filters_applied, source, outcome }))
    }
}

/// Whether upstream has answered, but with something that cannot be an answer.
fn is_malformed(error: &Error) -> bool {
    matches!(error, Error::Untrue { .. } | Error::Upstream { fault: UpstreamFault::Malformed, .. })
}

/// The bytes of an image index of at most `limit` bytes; `None` if it is another manifest, or
/// larger.
async fn index_bytes(manifest: ManifestAnswer, limit: usize) -> Result<Option<Bytes>, Error> {
    if manifest.media_type.as_str() != OCI_INDEX || manifest.size > limit as u64 {
        return Ok(None);
    }
    manifest.content.bytes().await
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
