//! What is left of a request that is refused before it was read.

use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{Method, Request};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// How much of a body that nobody wants is read, so that its sender gets to see the answer
/// (UPL-11): also that of a manifest which is somewhat too large.
const DRAINED: usize = 8 << 20;
const DRAIN: Duration = Duration::from_secs(1);

/// Reads a little of what is left of a write; not of one whose sender waits to be asked for it.
pub(crate) async fn drain(request: &mut Request<Incoming>) {
    let writes = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    if writes && !request.body().is_end_stream() && !request.headers().contains_key(EXPECT) {
        // Whether it ends in time does not matter: the connection is closed if it does not.
        let _ = tokio::time::timeout(DRAIN, discard(request.body_mut())).await;
    }
}

async fn discard(body: &mut Incoming) {
    let mut left = DRAINED;
    while left > 0
        && let Some(Ok(frame)) = body.frame().await
    {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
    }
}
