//! What each command is answered with (docs/control.md): one file for each beside this one.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Either, Limited};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::documents::{AnswerBody, Unanswered, document, read, with_type, wrong_method};
use super::lines::{LINES_TYPE, Lines, LinesBody};
use super::parts::ControlParts;
use super::{
    checking, importing, listed_images, missed, pinning, purging, receiving, sealing, warming,
};

/// Commands that take long, and are answered in lines, at once. They leave places to the others.
const LONG_COMMANDS_MAX: usize = 4;

/// Bytes of what a command sends: the names of some 100,000 images, or a bundle's statement.
const ORDER_MAX: usize = 256 << 20;

#[derive(Debug)]
pub(super) struct Answers {
    parts: ControlParts,
    long: Arc<Semaphore>,
}

impl Answers {
    pub(super) fn new(parts: ControlParts) -> Self {
        Self { parts, long: Arc::new(Semaphore::new(LONG_COMMANDS_MAX)) }
    }

    pub(super) async fn answer<B>(&self, request: Request<B>) -> Response<AnswerBody>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let answered = if request.uri().path().starts_with(receiving::PATH) {
            self.take(request).await
        } else {
            self.read_and_find(request).await
        };
        answered.unwrap_or_else(Unanswered::response)
    }

    /// Takes content, however much it is.
    async fn take<B>(&self, request: Request<B>) -> Result<Response<AnswerBody>, Unanswered>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        if request.method() != Method::PUT {
            return Err(wrong_method("PUT"));
        }
        let (head, body) = request.into_parts();
        let stored = receiving::receive(&self.parts, &head.uri, body).await?;
        Ok(document(StatusCode::OK, &stored))
    }

    async fn read_and_find<B>(
        &self,
        request: Request<B>,
    ) -> Result<Response<AnswerBody>, Unanswered>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let body = Limited::new(body, ORDER_MAX).collect().await.map_err(|error| {
            Unanswered(StatusCode::PAYLOAD_TOO_LARGE, format!("this is not read: {error}"))
        })?;
        self.find(&Request::from_parts(head, body.to_bytes())).await
    }

    async fn find(&self, request: &Request<Bytes>) -> Result<Response<AnswerBody>, Unanswered> {
        let query = request.uri().query().unwrap_or_default();
        match (request.uri().path(), request.method()) {
            ("/v1/images", &Method::GET) => {
                let listed = listed_images::listed(&self.parts, query).await?;
                Ok(document(StatusCode::OK, &listed))
            }
            ("/v1/purge", &Method::POST) => {
                let purged = purging::purge(&self.parts, read(request.body())?).await?;
                Ok(document(StatusCode::OK, &purged))
            }
            ("/v1/pins", &Method::GET) => {
                Ok(document(StatusCode::OK, &pinning::states(&self.parts.pins).await?))
            }
            ("/v1/images" | "/v1/pins", _) => Err(wrong_method("GET")),
            ("/v1/pin", &Method::POST) => {
                let pinned = pinning::pin(&self.parts.pins, read(request.body())?).await?;
                Ok(document(StatusCode::OK, &pinned))
            }
            ("/v1/unpin", &Method::POST) => {
                let unpinned = pinning::unpin(&self.parts.pins, read(request.body())?).await?;
                Ok(document(StatusCode::OK, &unpinned))
            }
            ("/v1/fsck", &Method::POST) => {
                let (store, order) = (self.parts.store.clone(), read(request.body())?);
                self.lines(|told| checking::fsck(store, order, told))
            }
            ("/v1/warm", &Method::POST) => {
                let order = warming::order(&self.parts.names, &read(request.body())?)?;
                let parts = self.parts.clone();
                self.lines(|told| warming::warm(parts, order, told))
            }
            ("/v1/fsck" | "/v1/purge" | "/v1/pin" | "/v1/unpin" | "/v1/warm", _) => {
                Err(wrong_method("POST"))
            }
            ("/v1/seal", &Method::GET) => {
                Ok(document(StatusCode::OK, &sealing::listed(self.parts.serving()?)))
            }
            ("/v1/seal", &Method::POST) => {
                let changed = sealing::change(self.parts.serving()?, &read(request.body())?)?;
                Ok(document(StatusCode::OK, &changed))
            }
            ("/v1/misses", &Method::GET) => {
                let listed = missed::listed(&self.parts.misses, &self.parts.store).await?;
                Ok(document(StatusCode::OK, &listed))
            }
            ("/v1/misses", &Method::POST) => {
                let cleared = missed::clear(&self.parts.misses, &read(request.body())?).await;
                Ok(document(StatusCode::OK, &cleared))
            }
            ("/v1/seal" | "/v1/misses", _) => Err(wrong_method("GET and POST")),
            _ => self.find_of_bundles(request).await,
        }
    }

    /// What carries images over a gap.
    async fn find_of_bundles(
        &self,
        request: &Request<Bytes>,
    ) -> Result<Response<AnswerBody>, Unanswered> {
        let parts = &self.parts;
        match (request.uri().path(), request.method()) {
            ("/v1/inventory", &Method::GET) => {
                Ok(document(StatusCode::OK, &importing::inventory(&parts.store).await?))
            }
            ("/v1/inventory", _) => Err(wrong_method("GET")),
            ("/v1/import/missing", &Method::POST) => {
                let missing = importing::missing(parts, read(request.body())?)?;
                Ok(document(StatusCode::OK, &missing))
            }
            ("/v1/import", &Method::POST) => {
                let imported = importing::import(parts, read(request.body())?).await?;
                Ok(document(StatusCode::OK, &imported))
            }
            ("/v1/import" | "/v1/import/missing", _) => Err(wrong_method("POST")),
            (path, _) => Err(Unanswered(StatusCode::NOT_FOUND, format!("there is no {path}"))),
        }
    }

    /// Answers in lines while the work goes on.
    fn lines<W>(&self, work: impl FnOnce(Lines) -> W) -> Result<Response<AnswerBody>, Unanswered>
    where
        W: Future<Output = Result<Value, String>> + Send + 'static,
    {
        let place = Arc::clone(&self.long).try_acquire_owned().map_err(|_| {
            let sentence = format!("{LONG_COMMANDS_MAX} commands that take long are under way");
            Unanswered(StatusCode::SERVICE_UNAVAILABLE, sentence)
        })?;
        let body = LinesBody::of(work, place);
        Ok(with_type(LINES_TYPE, Response::new(Either::Right(body))))
    }
}
