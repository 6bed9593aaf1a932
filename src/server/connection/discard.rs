//! The rest of a request body that is refused before it was read.

use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{Method, Request};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Bytes of an unwanted body that are read: enough for a manifest that is somewhat larger than the
/// 4 MiB that it may have (MAN-8), so that its client sees the 413.
const DISCARD_BYTES_MAX: usize = 8 << 20;

/// How long an unwanted body is read.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads a little of what is left of a refused write. Clients send the whole body before they read
/// the answer; if the connection is closed under them they report a broken pipe instead of the
/// refusal (UPL-11).
///
/// A client that sent `Expect: 100-continue` is not read from: it waits for our word before it
/// sends the body, and takes the refusal for a no.
pub(in crate::server) async fn discard_unread_body(request: &mut Request<Incoming>) {
    let writes = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    if writes && !request.body().is_end_stream() && !request.headers().contains_key(EXPECT) {
        // Whether it ends in time does not matter: hyper closes the connection if it does not.
        let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard(request.body_mut())).await;
    }
}

async fn discard(body: &mut Incoming) {
    let mut left = DISCARD_BYTES_MAX;
    while left > 0
        && let Some(Ok(frame)) = body.frame().await
    {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
    }
}
