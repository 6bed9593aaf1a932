//! `POST /v1/purge`: images and what only they need go.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::documents::Unanswered;
use super::parts::ControlParts;
use crate::clock::Timestamp;
use crate::images::{Amount, GoingImage, ImageSelection, PurgeOrder, PurgePlan, Purged};

/// What the request says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PurgeRequest {
    images: Option<String>,
    /// Seconds.
    unused_for: Option<u64>,
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn purge(
    parts: &ControlParts,
    request: PurgeRequest,
) -> Result<Value, Unanswered> {
    let (order, dry_run) = (order(&request, parts.clock.now())?, request.dry_run);
    if !parts.store.is_loaded() {
        let sentence = "what is cached is still being looked at; try again in a moment";
        return Err(Unanswered(StatusCode::SERVICE_UNAVAILABLE, sentence.to_owned()));
    }
    let (store, pins) = (parts.store.clone(), parts.pins.clone());
    let purge = move || {
        let plan = PurgePlan::make(&store.survey(), &order, &pins)?;
        if dry_run { Ok(plan.describe()) } else { plan.carry_out(&store) }
    };
    let purged = tokio::task::spawn_blocking(purge).await;
    let purged = purged.map_err(|error| Unanswered::failed(&error))?;
    let purged = purged.map_err(|error: crate::store::Error| Unanswered::failed(&error))?;
    Ok(as_json(&purged, dry_run))
}

fn order(request: &PurgeRequest, now: Timestamp) -> Result<PurgeOrder, Unanswered> {
    let images = request.images.as_deref().map(ImageSelection::parse).transpose();
    let images = images.map_err(Unanswered::bad_request)?;
    let since = |seconds| now.unix().saturating_sub(Duration::from_secs(seconds));
    let unused_since = request.unused_for.map(|seconds| Timestamp::from_unix(since(seconds)));
    if images.is_none() && unused_since.is_none() {
        return Err(Unanswered::bad_request("say which images are to go"));
    }
    Ok(PurgeOrder { images, unused_since })
}

fn as_json(purged: &Purged, dry_run: bool) -> Value {
    json!({
        "dry_run": dry_run,
        "images": purged.images.iter().map(image).collect::<Vec<_>>(),
        "pinned": purged.pinned.iter().map(image).collect::<Vec<_>>(),
        "freed": amount(purged.freed),
        "shared": amount(purged.shared),
        "refused": purged.refused,
    })
}

fn image(image: &GoingImage) -> Value {
    json!({
        "name": image.name.to_string(),
        "tag": image.tag.as_ref().map(ToString::to_string),
        "digest": image.digest.as_str(),
    })
}

fn amount(amount: Amount) -> Value {
    json!({ "files": amount.files, "bytes": amount.bytes })
}
