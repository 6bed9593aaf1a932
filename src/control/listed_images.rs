//! `GET /v1/images`: what is kept, as images.

use serde_json::{Value, json};

use super::documents::Unanswered;
use super::parts::ControlParts;
use crate::images::{self, CachedImage, CachedPlatform, ImageFilter, PlatformState};
use crate::licence::calendar;
use crate::oci::{Digest, Pattern};

pub(super) async fn listed(parts: &ControlParts, query: &str) -> Result<Value, Unanswered> {
    let filter = filter(query).map_err(Unanswered::bad_request)?;
    let survey = parts.store.survey();
    let list = move || images::list(&survey, &filter);
    let listed = tokio::task::spawn_blocking(list).await;
    let listed = listed.map_err(|error| Unanswered::failed(&error))?;
    let images = listed.map_err(|error| Unanswered::failed(&error))?;
    Ok(json!({ "images": images.iter().map(image).collect::<Vec<_>>() }))
}

fn filter(query: &str) -> Result<ImageFilter, String> {
    let mut filter = ImageFilter::default();
    for (key, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match key.as_ref() {
            "pattern" => filter.pattern = Some(Pattern::parse(&value)?),
            "digest" => {
                let digest = Digest::parse(&value);
                filter.digest = Some(digest.map_err(|error| format!("digest: {error}"))?);
            }
            "incomplete" => {
                filter.incomplete =
                    value.parse().map_err(|_| "incomplete is true or false".to_owned())?;
            }
            other => return Err(format!("there is no parameter {other}")),
        }
    }
    Ok(filter)
}

fn image(image: &CachedImage) -> Value {
    json!({
        "name": image.name.to_string(),
        "tag": image.tag.as_ref().map(ToString::to_string),
        "digest": image.digest.as_str(),
        "complete": image.is_complete(),
        "platforms": image.platforms.iter().map(platform).collect::<Vec<_>>(),
        "size": image.size,
        "own": image.own,
        "shared": image.size - image.own,
        "pinned": image.pinned,
        "last_used": image.last_used.map(calendar::format),
    })
}

fn platform(platform: &CachedPlatform) -> Value {
    let (state, missing) = match &platform.state {
        PlatformState::Complete => ("complete", &[][..]),
        PlatformState::Lacks(missing) => ("incomplete", missing.as_slice()),
        PlatformState::Absent => ("absent", &[][..]),
    };
    json!({
        "platform": platform.name,
        "digest": platform.digest.as_str(),
        "state": state,
        "missing": missing.iter().map(Digest::as_str).collect::<Vec<_>>(),
    })
}
