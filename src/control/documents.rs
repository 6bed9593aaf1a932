//! An answer that is one document: what was asked for, or a sentence that says why not.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

/// A request that is answered with this status and sentence.
#[derive(Debug)]
pub(super) struct Unanswered(pub(super) StatusCode, pub(super) String);

impl Unanswered {
    pub(super) fn bad_request(error: impl Into<String>) -> Self {
        Self(StatusCode::BAD_REQUEST, error.into())
    }

    /// The work could not be done.
    pub(super) fn failed(error: &dyn std::error::Error) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
    }

    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let Self(status, error) = self;
        document(status, &json!({ "error": error }))
    }
}

pub(super) fn document(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(format!("{value}\n")));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
