//! Pages of tags and referrers, written so that the client comes back to us (TAG-1, TAG-3, REF-1).

use bytes::Bytes;
use http::StatusCode;

use super::error::Refusal;
use super::respond::{self, Answer};
use crate::oci::{Digest, ErrorCode};
use crate::pull::{self, Referrers, TagPage};
use crate::route::Route;

pub(super) fn tags(route: &Route, page: TagPage) -> Answer {
    let name = route.visible_name();
    // In pieces, so that the tags, which may be many megabytes, are not copied for each client.
    let opening = format!("{{\"name\":{},\"tags\":", serde_json::json!(name.as_str()));
    let body = [opening.into(), page.tags, Bytes::from_static(b"}")];
    let next =
        page.next.map(|query| route.visible_target(&format!("/v2/{name}/tags/list?{query}")));
    respond::tags(body, next, page.outcome)
}

pub(super) fn referrers(route: &Route, digest: &Digest, referrers: Referrers) -> Answer {
    let name = route.visible_name();
    let address = |query: &String| format!("/v2/{name}/referrers/{digest}?{query}");
    let next = referrers.next.as_ref().map(|query| route.visible_target(&address(query)));
    respond::referrers(referrers, next)
}

/// A registry that refuses its referrers may have the image: `NAME_UNKNOWN` would say that there is
/// no such repository, and 404 that there are none (REF-4).
pub(super) fn referrers_failed(error: pull::Error) -> Refusal {
    let refused = matches!(error, pull::Error::Refused(_));
    let refusal = Refusal::from(error);
    if refused {
        let message = "the upstream registry refuses to list what refers to this";
        let (status, code) = (StatusCode::FORBIDDEN, ErrorCode::Denied);
        Refusal { status, code, message: message.to_owned(), ..refusal }
    } else {
        refusal
    }
}
