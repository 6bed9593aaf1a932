//! What each command is answered with (docs/control.md).

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Response, StatusCode, Uri};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::images::{self, CachedImage, CachedPlatform, ImageFilter, PlatformState};
use crate::licence::calendar;
use crate::oci::{Digest, Pattern};
use crate::store::BlobStore;

#[derive(Debug)]
pub(super) struct Answers {
    store: BlobStore,
}

/// A request that is answered with this status and sentence.
struct Unanswered(StatusCode, String);

impl Answers {
    pub(super) fn new(store: BlobStore) -> Self {
        Self { store }
    }

    pub(super) async fn answer(&self, method: &Method, uri: &Uri) -> Response<Full<Bytes>> {
        let answered = match (method, uri.path()) {
            (&Method::GET, "/v1/images") => self.images(uri.query().unwrap_or_default()).await,
            (_, "/v1/images") => {
                Err(Unanswered(StatusCode::METHOD_NOT_ALLOWED, "GET only".to_owned()))
            }
            (_, path) => Err(Unanswered(StatusCode::NOT_FOUND, format!("there is no {path}"))),
        };
        match answered {
            Ok(value) => json_response(StatusCode::OK, &value),
            Err(Unanswered(status, error)) => json_response(status, &json!({ "error": error })),
        }
    }

    async fn images(&self, query: &str) -> Result<Value, Unanswered> {
        let filter = filter(query).map_err(|error| Unanswered(StatusCode::BAD_REQUEST, error))?;
        let survey = self.store.survey();
        let list = move || images::list(&survey, &filter);
        let failed = |error: String| Unanswered(StatusCode::INTERNAL_SERVER_ERROR, error);
        let listed = tokio::task::spawn_blocking(list).await;
        let listed = listed.map_err(|error| failed(error.to_string()))?;
        let images = listed.map_err(|error| failed(error.to_string()))?;
        Ok(json!({ "images": images.iter().map(image).collect::<Vec<_>>() }))
    }
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

fn json_response(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
