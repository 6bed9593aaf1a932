//! What each command is answered with (docs/control.md): one file for each beside this one.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde::de::DeserializeOwned;

use super::documents::{Unanswered, document};
use super::{listed_images, purging};
use crate::clock::Clock;
use crate::store::BlobStore;

#[derive(Debug)]
pub(super) struct Answers {
    store: BlobStore,
    clock: Clock,
}

impl Answers {
    pub(super) fn new(store: BlobStore, clock: Clock) -> Self {
        Self { store, clock }
    }

    pub(super) async fn answer(&self, request: &Request<Bytes>) -> Response<Full<Bytes>> {
        self.find(request).await.unwrap_or_else(Unanswered::response)
    }

    async fn find(&self, request: &Request<Bytes>) -> Result<Response<Full<Bytes>>, Unanswered> {
        let query = request.uri().query().unwrap_or_default();
        match (request.uri().path(), request.method()) {
            ("/v1/images", &Method::GET) => {
                let listed = listed_images::listed(&self.store, query).await?;
                Ok(document(StatusCode::OK, &listed))
            }
            ("/v1/images", _) => Err(wrong_method("GET")),
            ("/v1/purge", &Method::POST) => {
                let order = read(request.body())?;
                let purged = purging::purge(&self.store, order, self.clock.now()).await?;
                Ok(document(StatusCode::OK, &purged))
            }
            ("/v1/purge", _) => Err(wrong_method("POST")),
            (path, _) => Err(Unanswered(StatusCode::NOT_FOUND, format!("there is no {path}"))),
        }
    }
}

fn wrong_method(right: &str) -> Unanswered {
    Unanswered(StatusCode::METHOD_NOT_ALLOWED, format!("{right} only"))
}

/// What a POST sends.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Unanswered> {
    serde_json::from_slice(body)
        .map_err(|error| Unanswered::bad_request(format!("this cannot be read: {error}")))
}
