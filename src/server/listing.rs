//! Pages of tags and referrers, written so that the client comes back to us (TAG-1, TAG-3, REF-1).

use serde::Deserialize;

use super::error::Refusal;
use super::respond::{self, Answer};
use crate::oci::{Digest, MediaType, OCI_INDEX};
use crate::pull::{self, Referrers};
use crate::route::Route;
use crate::upstream::Page;

/// What is read of upstream's list; `null` counts as empty.
#[derive(Deserialize)]
struct TagList {
    tags: Option<Vec<String>>,
}

pub(super) fn tags(route: &Route, page: Page) -> Result<Answer, Refusal> {
    let list: TagList = serde_json::from_slice(&page.bytes)
        .map_err(|_| untrue(route, "a tag list that is none"))?;
    let name = route.visible_name();
    let body = serde_json::json!({ "name": name.as_str(), "tags": list.tags.unwrap_or_default() });
    let next =
        page.next.map(|query| route.visible_target(&format!("/v2/{name}/tags/list?{query}")));
    Ok(respond::tags(body.to_string(), next))
}

pub(super) fn referrers(
    route: &Route,
    digest: &Digest,
    referrers: Referrers,
) -> Result<Answer, Refusal> {
    let page = &referrers.page;
    if page.media_type.as_ref().map(MediaType::as_str) != Some(OCI_INDEX) {
        return Err(untrue(route, "referrers that are no image index"));
    }
    let name = route.visible_name();
    let next = page
        .next
        .as_ref()
        .map(|query| route.visible_target(&format!("/v2/{name}/referrers/{digest}?{query}")));
    Ok(respond::referrers(referrers, next))
}

fn untrue(route: &Route, reason: &str) -> Refusal {
    pull::Error::Untrue { upstream: route.upstream.clone(), reason: reason.into() }.into()
}
