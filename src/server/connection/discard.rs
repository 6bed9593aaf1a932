//! The rest of a request body that is refused before it was read.

use std::time::Duration;

use bytes::Bytes;
use http::header::EXPECT;
use http::{Method, Request};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::server::error::{Extra, Refusal};

/// Bytes of an unwanted body that are read: enough for a manifest that is somewhat larger than the
/// 4 MiB that it may have (MAN-8), so that its client sees the 413.
const DISCARD_BYTES_MAX: usize = 8 << 20;

/// How long an unwanted body is read before the refusal is sent.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a body that had been asked for is read on beside the refusal.
const LINGER_TIMEOUT: Duration = Duration::from_secs(30);

/// Marks a request whose body was wanted before it was refused.
#[derive(Clone, Copy, Debug)]
pub(in crate::server) struct BodyWanted;

/// Reads a little of what is left of a refused write. Clients send the whole body before they read
/// the answer; if the connection is closed under them they report a broken pipe instead of the
/// refusal (UPL-11).
///
/// Of somebody who may push, and whose layer was on its way when the registry refused it or stopped
/// to read, all is read that comes within a while, beside the refusal: what looks at answers while
/// it sends sees it at once, all others at their end.
///
/// That is not for a client whose own fault ends the connection, with `Extra::Close`.
///
/// A client that sent `Expect: 100-continue` and was not asked for the body is not read from: it
/// waits for our word before it sends that, and takes the refusal for a no.
pub(in crate::server) async fn discard_unread_body(request: Request<Incoming>, refusal: &Refusal) {
    let writes = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    if !writes || request.body().is_end_stream() || request.headers().contains_key(EXPECT) {
        return;
    }
    let is_wanted =
        request.extensions().get::<BodyWanted>().is_some() && refusal.extra != Extra::Close;
    let mut body = request.into_body();
    // Whether it ends in time does not matter: hyper closes the connection if it does not.
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, discard(&mut body, DISCARD_BYTES_MAX)).await;
    if is_wanted && !body.is_end_stream() {
        // It ends with the connection.
        tokio::spawn(tokio::time::timeout(LINGER_TIMEOUT, async move {
            discard(&mut body, usize::MAX).await;
        }));
    }
}

async fn discard(body: &mut Incoming, bytes_max: usize) {
    let mut left = bytes_max;
    while left > 0
        && let Some(Ok(frame)) = body.frame().await
    {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
    }
}
