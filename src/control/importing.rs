//! `POST /v1/import`, `POST /v1/import/missing` and `GET /v1/inventory`: what a bundle says is taken
//! over, once its content has come.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::documents::Unanswered;
use super::parts::ControlParts;
use crate::import::{self, ImportImage, ImportOrder, ImportOutcome};
use crate::licence::calendar;
use crate::oci::{CanonicalName, Digest, MediaType, Tag};
use crate::store::BlobStore;

/// What a statement says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ImportRequest {
    images: Vec<ImageFields>,
    contents: Vec<ContentFields>,
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ImageFields {
    name: String,
    tag: Option<String>,
    digest: String,
    seen: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ContentFields {
    digest: String,
    media_type: Option<String>,
}

/// Whose content is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MissingRequest {
    digests: Vec<String>,
    names: Vec<String>,
}

/// Which content is not here, and which names lead nowhere.
pub(super) fn missing(parts: &ControlParts, request: MissingRequest) -> Result<Value, Unanswered> {
    let mut missing = Vec::new();
    for digest in request.digests {
        if !parts.store.holds(&parsed(Digest::parse(&digest))?) {
            missing.push(digest);
        }
    }
    let mut unknown = Vec::new();
    for name in request.names {
        if parts.names.find(&parsed(CanonicalName::parse(&name))?).is_none() {
            unknown.push(name);
        }
    }
    Ok(json!({ "missing": missing, "unknown": unknown }))
}

/// Takes over what the statement says, as far as its content is here.
pub(super) async fn import(
    parts: &ControlParts,
    request: ImportRequest,
) -> Result<Value, Unanswered> {
    let ImportRequest { images, contents, force } = request;
    let contents = contents.into_iter().map(ContentFields::read);
    let contents: HashMap<_, _> = contents.collect::<Result<_, _>>()?;
    let (mut found, mut outcomes) = (Vec::new(), Vec::new());
    for image in images {
        let (name, image) = image.read()?;
        if let Some(here) = parts.names.find(&name) {
            found.push(ImportImage { name: here, ..image });
        } else {
            let refusal = format!("no upstream {} is configured", name.upstream);
            outcomes.push(outcome(&image, &ImportOutcome::Refused(refusal)));
        }
    }
    let order = ImportOrder { images: found, contents, force };
    let imported = import::import(&parts.pull, &parts.store, order).await;
    let imported = imported.map_err(|error| Unanswered::failed(&error))?;
    outcomes.extend(imported.iter().map(|(image, became)| outcome(image, became)));
    Ok(json!({ "images": outcomes }))
}

/// Everything that is kept.
pub(super) async fn inventory(store: &BlobStore) -> Result<Value, Unanswered> {
    let survey = store.survey();
    let listed = tokio::task::spawn_blocking(move || survey.digests()).await;
    let listed = listed.map_err(|error| Unanswered::failed(&error))?;
    let digests = listed.map_err(|error| Unanswered::failed(&error))?;
    Ok(json!({ "contents": digests.iter().map(Digest::as_str).collect::<Vec<_>>() }))
}

fn outcome(image: &ImportImage, outcome: &ImportOutcome) -> Value {
    let (word, why) = match outcome {
        ImportOutcome::New => ("new", None),
        ImportOutcome::Present => ("present", None),
        ImportOutcome::Moved => ("moved", None),
        ImportOutcome::Refused(why) => ("refused", Some(why)),
    };
    json!({
        "name": image.name.to_string(),
        "tag": image.tag.as_ref().map(Tag::as_str),
        "digest": image.digest.as_str(),
        "outcome": word,
        "why": why,
    })
}

impl ImageFields {
    /// The name as the bundle has it, and the image under that name.
    fn read(self) -> Result<(CanonicalName, ImportImage), Unanswered> {
        let name = parsed(CanonicalName::parse(&self.name))?;
        let image = ImportImage {
            name: name.clone(),
            tag: parsed(self.tag.as_deref().map(Tag::parse).transpose())?,
            digest: parsed(Digest::parse(&self.digest))?,
            seen: parsed(calendar::parse(&self.seen))?,
        };
        Ok((name, image))
    }
}

impl ContentFields {
    fn read(self) -> Result<(Digest, Option<MediaType>), Unanswered> {
        let kind = |text: String| {
            MediaType::parse(&text).ok_or_else(|| format!("{text:?} is no media type"))
        };
        let media_type = parsed(self.media_type.map(kind).transpose())?;
        Ok((parsed(Digest::parse(&self.digest))?, media_type))
    }
}

fn parsed<T, E: ToString>(result: Result<T, E>) -> Result<T, Unanswered> {
    result.map_err(|error| Unanswered::bad_request(error.to_string()))
}
