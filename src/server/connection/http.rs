//! hyper on one connection, in the version that TLS has agreed on, with the bounds of each version.
//!
//! hyper-util's `auto` server is not used: it guesses the version from the first bytes and has no
//! timeout while it does, so that a client that stays silent would stay connected for ever.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::body::Body;
use super::delivery::{ConnectionOutput, ResponseOutput};
use super::memory::ReceiveWindow;
use super::streams::StreamExecutor;
use crate::server::request::Connection;
use crate::server::service::Service;

/// Bytes of an HTTP/1.1 request head. hyper has one bound for this and for the frames that it
/// queues before it writes; a slice of a mapping is larger, so each is written before the next is
/// asked for.
const HTTP_1_BUFFER_MAX: usize = 64 * 1024;

/// Header lines of an HTTP/1.1 request.
const HTTP_1_HEADER_LINES_MAX: usize = 64;

/// Bytes of an HTTP/2 request head; a licence or a token of ours takes a fraction.
const HTTP_2_HEADER_LIST_MAX: u32 = 32 * 1024;

/// Requests at once on one HTTP/2 connection.
const HTTP_2_STREAMS_MAX: u32 = 100;

/// Bytes that h2 buffers for one HTTP/2 stream whose client is slow before it takes another piece:
/// one frame. hyper's own bound is 400 KiB, which a client has a hundred of.
const HTTP_2_SEND_BUFFER_MAX: usize = 16 * 1024;

/// Streams that a client may open and reset before they are served. h2 keeps a record of each, so
/// that a flood of them could take all memory (RUSTSEC-2023-0034); with more, it ends the
/// connection with `ENHANCE_YOUR_CALM`.
const HTTP_2_RESETS_MAX: usize = 20;

/// How often a quiet HTTP/2 connection is pinged, and how long the answer may take. A client that
/// has vanished without closing is noticed after both.
const HTTP_2_PING_INTERVAL: Duration = Duration::from_secs(30);
const HTTP_2_PING_TIMEOUT: Duration = Duration::from_secs(20);

/// How a connection ended; an error is a client that left early or broke the protocol.
pub(super) type ConnectionResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The service, as hyper calls it for the requests of one connection.
pub(super) struct ConnectionService {
    pub(super) service: Arc<Service>,
    pub(super) connection: Arc<Connection>,
    pub(super) output: ConnectionOutput,
}

/// Boxed: hyper keeps the place of a request's future for as long as its body lasts, or its
/// connection, and that is ten times what a body takes.
type ServiceFuture = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl ConnectionService {
    fn call(&self, output: ResponseOutput, mut request: Request<Incoming>) -> ServiceFuture {
        if !request.body().is_end_stream() {
            request.extensions_mut().insert(Arc::clone(self.output.memory()));
        }
        Box::pin(Arc::clone(&self.service).call(Arc::clone(&self.connection), output, request))
    }
}

/// Serves one HTTP/1.1 connection. Once `draining`, a request under way is finished and no other is
/// taken.
pub(super) async fn serve_http_1<S>(
    service: ConnectionService,
    stream: S,
    draining: CancellationToken,
) -> ConnectionResult
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    // hyper's timer for heads also runs between two requests (DESIGN §15).
    http.timer(TokioTimer::new()).header_read_timeout(service.service.limits.request_idle);
    http.max_buf_size(HTTP_1_BUFFER_MAX).max_headers(HTTP_1_HEADER_LINES_MAX);
    let respond = service_fn(move |request| service.call(service.output.response(), request));
    let connection = http.serve_connection(TokioIo::new(stream), respond);
    // No close timeout: hyper itself closes an idle connection, and the socket fails for a client
    // that takes nothing.
    run_connection(connection, draining.cancelled(), std::future::pending()).await
}

/// Serves one HTTP/2 connection. Once `draining`, or after `request_idle` without a stream, streams
/// under way are finished and no other is taken.
pub(super) async fn serve_http_2<S>(
    service: ConnectionService,
    stream: S,
    draining: CancellationToken,
) -> ConnectionResult
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &service.service.limits;
    let (request_idle, close_timeout) = (limits.request_idle, limits.handshake);
    let executor = StreamExecutor::new(limits.send_idle);
    let window = service.output.memory().receive_window();
    let http = http_2_builder(executor.clone(), &window);
    let streams = executor.clone();
    let respond = service_fn(move |request| {
        let output = service.output.response();
        executor.set_next_delivery(Arc::clone(output.delivery()));
        service.call(output, request)
    });
    let connection = http.serve_connection(TokioIo::new(stream), respond);
    // hyper has no idle timeout for HTTP/2: a client that answers pings could stay for ever.
    let shutdown_requested = async {
        tokio::select! {
            () = draining.cancelled() => {}
            () = streams.idle_for(request_idle) => {}
        }
    };
    run_connection(connection, shutdown_requested, streams.idle_for(close_timeout)).await
}

fn http_2_builder(
    executor: StreamExecutor,
    window: &ReceiveWindow,
) -> http2::Builder<StreamExecutor> {
    let mut http = http2::Builder::new(executor);
    http.timer(TokioTimer::new())
        .keep_alive_interval(HTTP_2_PING_INTERVAL)
        .keep_alive_timeout(HTTP_2_PING_TIMEOUT)
        .max_concurrent_streams(HTTP_2_STREAMS_MAX)
        .max_header_list_size(HTTP_2_HEADER_LIST_MAX)
        .max_send_buf_size(HTTP_2_SEND_BUFFER_MAX)
        .initial_stream_window_size(window.stream)
        .initial_connection_window_size(window.connection)
        .max_pending_accept_reset_streams(HTTP_2_RESETS_MAX);
    http
}

/// Runs a connection until it ends. After `shutdown_requested` it takes no new requests and ends
/// with those under way; when `close_timeout` resolves after that, it is dropped.
async fn run_connection<C>(
    connection: C,
    shutdown_requested: impl Future<Output = ()>,
    close_timeout: impl Future<Output = ()>,
) -> ConnectionResult
where
    C: GracefulConnection<Error = hyper::Error>,
{
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = &mut connection => return Ok(ended?),
        () = shutdown_requested => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = connection => Ok(ended?),
        () = close_timeout => Err("the client does not close the connection".into()),
    }
}
