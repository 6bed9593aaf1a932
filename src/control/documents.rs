//! What answers are made of.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{Either, Full};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::lines::LinesBody;

/// One document, or lines.
pub(super) type AnswerBody = Either<Full<Bytes>, LinesBody>;

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

    pub(super) fn response(self) -> Response<AnswerBody> {
        let Self(status, error) = self;
        document(status, &json!({ "error": error }))
    }
}

pub(super) fn wrong_method(right: &str) -> Unanswered {
    Unanswered(StatusCode::METHOD_NOT_ALLOWED, format!("{right} only"))
}

/// What a POST sends.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Unanswered> {
    serde_json::from_slice(body)
        .map_err(|error| Unanswered::bad_request(format!("this cannot be read: {error}")))
}

pub(super) fn document(status: StatusCode, value: &Value) -> Response<AnswerBody> {
    let mut response = Response::new(Either::Left(Full::from(format!("{value}\n"))));
    *response.status_mut() = status;
    with_type("application/json", response)
}

pub(super) fn with_type(
    media_type: &'static str,
    mut response: Response<AnswerBody>,
) -> Response<AnswerBody> {
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response
}
