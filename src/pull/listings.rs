//! Tags and referrers: passed through, page by page. Where upstream has no referrers API, the tag
//! under which clients list them instead is the answer (distribution-spec, "Referrers Tag Schema").

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use serde_json::Value;

use super::Error;
use super::ManifestAnswer;
use super::ManifestContent;
use super::Outcome;
use super::PullThrough;
use super::Want;
use super::facts::negative::Subject;
use crate::oci::{CanonicalName, Digest, OCI_INDEX, PageQuery, Reference, Tag};
use crate::upstream::{ErrorKind, Page};
use tokio::time::Instant;

/// What refers to a manifest.
#[derive(Clone, Debug)]
pub struct Referrers {
    pub page: Page,
    /// What the cache did for the fallback tag, if the page is from there.
    pub fallback: Option<Outcome>,
}

impl PullThrough {
    /// One page of tags, as upstream gives it.
    ///
    /// # Errors
    /// What upstream says; see [`Error`].
    pub async fn tags(&self, name: &CanonicalName, page: &PageQuery) -> Result<Page, Error> {
        self.absent_before(&Subject::Tags, name, Error::NameUnknown)?;
        let upstream = self.0.upstream(name)?;
        let answer = upstream
            .list_tags(&name.repository, page, Instant::now() + self.0.limits.flight_head)
            .await;
        self.0.membership.settle(name, Subject::Tags, answer, Error::NameUnknown).await
    }

    /// One page of referrers. That upstream has no API for them is remembered, because most pulls
    /// ask (REF-5).
    ///
    /// # Errors
    /// [`Error::NoReferrers`] if there is neither an API nor a fallback tag, which says nothing
    /// about the repository (REF-4); else what upstream says.
    pub async fn referrers(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        page: &PageQuery,
    ) -> Result<Referrers, Error> {
        let tag = Tag::of_referrers(digest);
        if !self.0.absences.contains(&Subject::Referrers(digest.clone()), name) {
            let known = matches!(self.0.store.records().tag(name, &tag).await, Ok(Some(_)));
            match self.listed(name, digest, page, known).await {
                Ok(page) => return Ok(Referrers { page, fallback: None }),
                Err(Error::NoReferrers) => {}
                Err(error) if known && error.may_serve_stale() => {
                    // As with any tag, the failure is the answer where nothing can stand in.
                    let stale =
                        self.fallback(name, &tag, page).await.ok().flatten().ok_or(error)?;
                    return Ok(Referrers { fallback: Some(Outcome::Stale), ..stale });
                }
                Err(error) => return Err(error),
            }
        }
        self.fallback(name, &tag, page).await?.ok_or(Error::NoReferrers)
    }

    /// What the API says; it has less time if the fallback tag is `known`, which could stand in for
    /// it.
    async fn listed(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        page: &PageQuery,
        known: bool,
    ) -> Result<Page, Error> {
        let limits = &self.0.limits;
        let patience = if known { limits.revalidate } else { limits.flight_head };
        let answer = self
            .0
            .upstream(name)?
            .referrers(&name.repository, digest, page, Instant::now() + patience)
            .await;
        self.0
            .membership
            .settle(name, Subject::Referrers(digest.clone()), answer, Error::NoReferrers)
            .await
    }

    /// What the fallback tag lists; `None` without such a tag, or if it leads to something else
    /// than a list.
    async fn fallback(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        page: &PageQuery,
    ) -> Result<Option<Referrers>, Error> {
        let answer = match self.manifest(name, &Reference::Tag(tag.clone()), Want::Body).await {
            Ok(answer) => answer,
            Err(Error::ManifestUnknown) => return Ok(None),
            Err(error) if is_wrong(&error) => {
                tracing::debug!(%error, image = %name, %tag, "the fallback tag of referrers cannot be used");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let types = page.artifact_types();
        let (outcome, media_type) = (answer.outcome, answer.media_type.clone());
        let Some(bytes) =
            list(answer, self.0.limits.page).await?.and_then(|bytes| filtered(bytes, &types))
        else {
            tracing::debug!(image = %name, %tag, "the fallback tag of referrers leads to no list of them");
            return Ok(None);
        };
        let filters_applied = (!types.is_empty()).then(|| "artifactType".to_owned());
        let page = Page { media_type: Some(media_type), bytes, next: None, filters_applied };
        Ok(Some(Referrers { page, fallback: Some(outcome) }))
    }
}

/// Whether upstream has answered, but with something that cannot be an answer.
fn is_wrong(error: &Error) -> bool {
    matches!(error, Error::Untrue { .. })
        || matches!(error, Error::Upstream(error) if matches!(error.kind(), ErrorKind::Protocol))
}

/// The bytes of an image index of at most `limit` bytes; `None` if it is another manifest, or
/// larger.
async fn list(manifest: ManifestAnswer, limit: usize) -> Result<Option<Bytes>, Error> {
    if manifest.media_type.as_str() != OCI_INDEX || manifest.size > limit as u64 {
        return Ok(None);
    }
    match manifest.content {
        ManifestContent::None => Ok(None),
        ManifestContent::Memory(bytes) => Ok(Some(bytes)),
        ManifestContent::Stored(blob) => {
            let mut bytes = BytesMut::new();
            while (bytes.len() as u64) < blob.size() {
                bytes.extend_from_slice(&blob.read(&(bytes.len() as u64..blob.size())).await?);
            }
            Ok(Some(bytes.freeze()))
        }
    }
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
