//! The stories of a sealed upstream, which nobody can ask: what is here is all that there is (SEAL-3,
//! SEAL-5).
//!
//! Lists say what can be had. What a registry listed once may lead to content that is not here, and
//! whoever picks the newest tag out of such a list could not pull it.

use serde_json::{Value, json};

use super::answers::{ManifestAnswer, Want};
use super::core::PullThrough;
use super::error::{Error, Missing};
use super::listings::TagPage;
use super::outcome::Outcome;
use super::referrers::{Referrers, ReferrersSource};
use crate::oci::{CanonicalName, Digest, Manifest, MediaType, OCI_INDEX, PageQuery, Tag};
use crate::store::{Found, Use};

/// Tags of a page for which nobody asks for less.
const PAGE_MAX: usize = 10_000;

/// Records that are read at once.
const ROWS: usize = 1000;

/// Manifests of a repository that are looked through for those that refer to another.
const LOOKED_THROUGH_MAX: usize = 10_000;

impl PullThrough {
    /// What the tag led to when upstream was last asked, however long ago that was.
    pub(super) async fn kept_tag(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        want: Want,
    ) -> Result<ManifestAnswer, Error> {
        let record = self.0.store.records().tag(name, tag).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the record of a tag");
            None
        });
        let record = record.ok_or(Error::Sealed { what: Missing::Manifest })?;
        let answer = self.manifest_by_digest(name, &record.digest, want).await?;
        Ok(answer.with(Outcome::Fresh))
    }

    /// One page of the tags that are here, with their manifests, in lexical order.
    pub(super) async fn kept_tags(
        &self,
        name: &CanonicalName,
        page: &PageQuery,
    ) -> Result<TagPage, Error> {
        let max = page.n.and_then(|n| usize::try_from(n).ok()).unwrap_or(PAGE_MAX).min(PAGE_MAX);
        let (mut tags, mut after) = (Vec::new(), page.last().unwrap_or_default().into_owned());
        while tags.len() <= max {
            let records = self.0.store.records().tags_after(name, after.clone(), ROWS).await?;
            let Some((last, _)) = records.last() else { break };
            after = last.to_string();
            let here = records.into_iter().filter(|(_, digest)| self.0.store.holds(digest));
            tags.extend(here.map(|(tag, _)| tag));
        }
        let is_unknown = || async {
            let any = self.0.store.records().tags_after(name, String::new(), 1).await;
            any.is_ok_and(|any| any.is_empty())
        };
        if tags.is_empty() && is_unknown().await {
            return Err(Error::Sealed { what: Missing::Repository });
        }
        let has_more = tags.len() > max;
        tags.truncate(max);
        let last = tags.last().filter(|_| has_more);
        let next = last.map(|last| format!("n={max}&last={last}"));
        let tags = tags.iter().map(Tag::as_str).collect::<Vec<_>>();
        Ok(TagPage { tags: json!(tags).to_string().into(), next, outcome: Outcome::Fresh })
    }

    /// The manifests here that refer to `digest`.
    pub(super) async fn kept_referrers(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        page: &PageQuery,
    ) -> Result<Referrers, Error> {
        let types = page.artifact_types();
        let is_wanted = |entry: &Value| {
            types.is_empty()
                || entry["artifactType"].as_str().is_some_and(|of| types.iter().any(|it| it == of))
        };
        let manifests = self.0.store.records().manifests(name, LOOKED_THROUGH_MAX).await?;
        let mut entries = Vec::new();
        for (of, media_type) in manifests {
            let Ok(Some(Found::Memory(bytes))) = self.0.store.open(&of, Use::Part).await else {
                continue;
            };
            let entry = referrer(&of, &media_type, &bytes, digest);
            if let Some(entry) = entry.filter(is_wanted)
                && self.0.may_use(name, &of).await
            {
                entries.push(entry);
            }
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        Ok(Referrers {
            index: index.to_string().into(),
            next: None,
            filters_applied: (!types.is_empty()).then(|| "artifactType".to_owned()),
            source: ReferrersSource::Api,
            outcome: Outcome::Fresh,
        })
    }
}

/// The entry of a manifest in the list of those that refer to `subject`; `None` if it does not
/// (distribution-spec, "Listing Referrers").
fn referrer(
    digest: &Digest,
    media_type: &MediaType,
    bytes: &[u8],
    subject: &Digest,
) -> Option<Value> {
    let manifest = Manifest::inspect(bytes, media_type).ok()?;
    if manifest.subject() != Some(subject) {
        return None;
    }
    let document: Value = serde_json::from_slice(bytes).ok()?;
    let mut entry = json!({
        "mediaType": media_type.as_str(), "digest": digest.as_str(), "size": bytes.len(),
    });
    let artifact_type = [&document["artifactType"], &document["config"]["mediaType"]];
    if let Some(kind) = artifact_type.into_iter().find(|kind| kind.is_string()) {
        entry["artifactType"] = kind.clone();
    }
    if document["annotations"].is_object() {
        entry["annotations"] = document["annotations"].clone();
    }
    Some(entry)
}
