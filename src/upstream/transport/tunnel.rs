//! CONNECT: has a proxy connect us to a host, and tells what it says otherwise.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::{self, Upgraded};
use hyper_util::rt::TokioIo;

use super::wire::BoxStream;
use crate::upstream::cause::ProxyFault;

/// Bytes of the head of a proxy's answer, at most.
const HEAD_MAX: usize = 16 * 1024;

/// Who we are, to registries and to proxies.
pub(super) const OUR_NAME: HeaderValue =
    HeaderValue::from_static(concat!("roadstead/", env!("CARGO_PKG_VERSION")));

/// A stream to `target`, `host:port`, through the proxy at the other end of `stream`. The caller
/// sets the deadline.
///
/// # Errors
/// What the proxy says instead, or that it broke off.
pub(super) async fn open(
    stream: BoxStream,
    target: &str,
    authorization: Option<HeaderValue>,
) -> Result<BoxStream, ProxyFault> {
    let request = request(target, authorization)?;
    let broken = |error: hyper::Error| ProxyFault::Broken(error.into());
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_MAX);
    let (mut sender, connection) =
        builder.handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await.map_err(broken)?;
    // The connection is run here and not by a task: whoever gives up drops it as well.
    let mut connection = pin!(connection.with_upgrades());
    let mut asked = pin!(async {
        let answer = sender.send_request(request).await.map_err(broken)?;
        upgraded(answer).await
    });
    let mut runs = true;
    let tunnel = poll_fn(|context| {
        // Its errors reach the request, too.
        if runs && connection.as_mut().poll(context).is_ready() {
            runs = false;
        }
        match asked.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => Poll::Pending,
        }
    });
    Ok(Box::new(TokioIo::new(tunnel.await?)))
}

fn request(
    target: &str,
    authorization: Option<HeaderValue>,
) -> Result<Request<Empty<Bytes>>, ProxyFault> {
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri(target)
        .header(HOST, target)
        .header(USER_AGENT, OUR_NAME)
        .body(Empty::new())
        .map_err(|error| ProxyFault::Broken(error.into()))?;
    let login = authorization.map(|value| (PROXY_AUTHORIZATION, value));
    request.headers_mut().extend(login);
    Ok(request)
}

async fn upgraded(answer: Response<Incoming>) -> Result<Upgraded, ProxyFault> {
    let status = answer.status();
    if !status.is_success() {
        return Err(refusal(status));
    }
    upgrade::on(answer).await.map_err(|error| ProxyFault::Broken(error.into()))
}

/// What a proxy says by a status of its own.
pub(super) fn refusal(status: StatusCode) -> ProxyFault {
    match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => ProxyFault::LoginNeeded,
        StatusCode::FORBIDDEN => ProxyFault::Forbidden,
        other => ProxyFault::Failed(other.as_u16()),
    }
}
