//! The clients' side: hyper on a listener that is already bound.
//!
//! Plain connections speak HTTP/1.1. A connection with TLS chooses its protocol by ALPN in `serve`,
//! before hyper sees it; nothing behind that point knows the version.

mod connection;
mod error;
mod exchange;
mod identify;
mod listing;
mod reads;
mod request;
mod respond;
mod service;
mod snapshot;
mod token;
mod writes;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

pub use connection::accept::{Accepted, accept};
pub use connection::tls::TlsContext;
pub use service::Service;
pub use snapshot::RequestConfig;

use crate::limits::Limits;
use crate::metrics::Counted;
use connection::body::Body;
use connection::delivery::{Outbound, Sending};
use connection::socket::ClientSocket;
use connection::streams::Streams;
use connection::tls;
use request::Connection;

/// Bytes of a request head that are accepted, and of small frames that hyper gathers before it
/// writes.
const HEAD: usize = 64 * 1024;

/// Header lines of a request.
const HEADERS: usize = 64;

/// Bytes that are encrypted ahead of the socket.
const ENCRYPTED: usize = 512 * 1024;

/// How often a quiet HTTP/2 connection is asked whether anybody is there, and how long the answer
/// may take.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 100;

/// Bytes of a request head; a licence or a token of ours takes a fraction.
const HEADER_LIST: u32 = 32 * 1024;

/// Bytes that wait for one slow HTTP/2 stream.
const SEND_BUFFER: usize = 128 * 1024;

/// Bytes that a client may send ahead on one stream, and on all of a connection: a body that is not
/// read leaves room for the others.
const STREAM_WINDOW: u32 = 256 * 1024;
const WINDOW: u32 = 1024 * 1024;

/// Streams that a client may open and reset before it is taken for an attacker.
const RESETS: usize = 20;

/// Serves clients until `stop` resolves, then lets transfers end for the grace period, then cuts
/// them off.
pub async fn run(listener: TcpListener, service: Arc<Service>, stop: impl Future<Output = ()>) {
    let draining = CancellationToken::new();
    let cut = CancellationToken::new();
    let connections = accept(&listener, service.limits.connections, stop, |accepted| {
        let (service, draining, cut) = (Arc::clone(&service), draining.clone(), cut.clone());
        async move {
            tokio::select! {
                () = serve(service, accepted, draining) => {}
                () = cut.cancelled() => {}
            }
        }
    })
    .await;
    drop(listener);
    draining.cancel();
    let grace = service.config.load().grace;
    tracing::info!(grace_s = grace.as_secs(), "draining");
    if tokio::time::timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "cutting off transfers that outlasted the grace period"
        );
        cut.cancel();
        connections.wait().await;
    }
}

/// What all requests on a connection share.
struct Client {
    service: Arc<Service>,
    connection: Arc<Connection>,
    sending: Sending,
}

/// One connection, to its end; once `draining`, to the end of the requests under way.
async fn serve(service: Arc<Service>, accepted: Accepted<TcpStream>, draining: CancellationToken) {
    let Accepted { stream, peer, permit } = accepted;
    let _permit = permit;
    let _counted = Counted::one(&service.metrics.http.connections);
    let context = service.tls.load_full();
    let sending = Sending::new(context.is_some());
    let socket = ClientSocket::new(stream, sending.clone(), service.limits.send_idle);
    let plain = Connection { peer: peer.ip(), secure: false, certificate: None };
    let client = |connection| Client {
        service: Arc::clone(&service),
        connection: Arc::new(connection),
        sending,
    };
    let ended = match context {
        None => http_1(client(plain), socket, draining).await,
        Some(context) => match handshake(&service.limits, &context, socket).await {
            Err(error) => Err(error.into()),
            Ok(stream) => {
                let (_, session) = stream.get_ref();
                let certificate = context.certificate(session.peer_certificates());
                let client = client(Connection { secure: true, certificate, ..plain });
                if tls::is_http_2(session.alpn_protocol()) {
                    http_2(client, stream, draining).await
                } else {
                    http_1(client, stream, draining).await
                }
            }
        },
    };
    if let Err(error) = ended {
        // Clients that leave in the middle are everyday life (BLOB-9).
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}

type Ended = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// The handshake, and where it agrees on HTTP/2 the first bytes after it: its client speaks at once
/// (RFC 9113 §3.4).
async fn handshake(
    limits: &Limits,
    context: &TlsContext,
    socket: ClientSocket,
) -> io::Result<TlsStream<ClientSocket>> {
    let acceptor = TlsAcceptor::from(Arc::clone(context.config()));
    let handshake = async {
        let mut stream = acceptor
            .accept_with(socket, |session| session.set_buffer_limit(Some(ENCRYPTED)))
            .await?;
        if tls::is_http_2(stream.get_ref().1.alpn_protocol()) {
            stream.fill_buf().await?;
        }
        Ok(stream)
    };
    tokio::time::timeout(limits.handshake, handshake)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn http_1<S>(client: Client, stream: S, draining: CancellationToken) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(client.service.limits.request_idle);
    http.max_buf_size(HEAD).max_headers(HEADERS);
    let answer = service_fn(move |request| client.answer(client.sending.answer(), request));
    let connection = http.serve_connection(TokioIo::new(stream), answer);
    // hyper itself ends one that waits.
    to_its_end(connection, draining.cancelled(), std::future::pending()).await
}

async fn http_2<S>(client: Client, stream: S, draining: CancellationToken) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let limits = &client.service.limits;
    let (idle, last) = (limits.request_idle, limits.handshake);
    let streams = Streams::new(limits.send_idle);
    let mut http = http2::Builder::new(streams.clone());
    http.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PONG);
    http.max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_LIST)
        .max_send_buf_size(SEND_BUFFER);
    http.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(WINDOW);
    http.max_pending_accept_reset_streams(RESETS);
    let watched = streams.clone();
    let answer = service_fn(move |request| {
        let outbound = client.sending.answer();
        streams.expect(&outbound);
        client.answer(outbound, request)
    });
    let connection = http.serve_connection(TokioIo::new(stream), answer);
    let enough = async {
        tokio::select! {
            () = draining.cancelled() => {}
            () = watched.quiet(idle) => {}
        }
    };
    to_its_end(connection, enough, watched.quiet(last)).await
}

/// After `enough`, what is under way may end, and nothing new begins; then it is over, at the
/// latest at `last`.
async fn to_its_end<C>(
    connection: C,
    enough: impl Future<Output = ()>,
    last: impl Future<Output = ()>,
) -> Ended
where
    C: GracefulConnection<Error = hyper::Error>,
{
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = &mut connection => return Ok(ended?),
        () = enough => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = connection => Ok(ended?),
        () = last => Err("the client does not take the goodbye".into()),
    }
}

impl Client {
    fn answer(
        &self,
        outbound: Outbound,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
        Arc::clone(&self.service).call(Arc::clone(&self.connection), outbound, request)
    }
}
