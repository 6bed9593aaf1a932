//! Pages of tags and referrers, written so that the client comes back to us (TAG-1, TAG-3, REF-1).

use super::respond::{self, Answer};
use crate::oci::Digest;
use crate::pull::{Referrers, TagPage};
use crate::route::Route;

pub(super) fn tags(route: &Route, page: TagPage) -> Answer {
    let name = route.visible_name();
    let body = serde_json::json!({ "name": name.as_str(), "tags": page.tags });
    let next =
        page.next.map(|query| route.visible_target(&format!("/v2/{name}/tags/list?{query}")));
    respond::tags(body.to_string(), next)
}

pub(super) fn referrers(route: &Route, digest: &Digest, referrers: Referrers) -> Answer {
    let name = route.visible_name();
    let address = |query: &String| format!("/v2/{name}/referrers/{digest}?{query}");
    let next = referrers.next.as_ref().map(|query| route.visible_target(&address(query)));
    respond::referrers(referrers, next)
}
