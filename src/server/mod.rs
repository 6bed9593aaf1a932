//! The clients' side: hyper on a listener that is already bound.
//!
//! Plain connections speak HTTP/1.1. A connection with TLS chooses its protocol by ALPN in `serve`, before hyper sees it;
//! nothing behind that point knows the version.

mod accept;
mod body;
mod error;
mod exchange;
mod generation;
mod listing;
mod reads;
mod respond;
mod service;
mod tls;
mod token;
mod visit;
mod wire;
mod writes;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

pub use accept::{Accepted, accept};
pub use generation::Generation;
pub use service::Service;
pub use tls::TlsContext;

use crate::metrics::Counted;
use service::Connection;
use wire::{Transport, Wire};

/// Bytes of a request head that are accepted, and of small frames that hyper gathers before it writes.
const HEAD: usize = 64 * 1024;

/// Header lines of a request.
const HEADERS: usize = 64;

/// Bytes that are encrypted ahead of the socket.
const ENCRYPTED: usize = 512 * 1024;

/// How often a quiet HTTP/2 connection is asked whether anybody is there, and how long the answer may take.
const PING: Duration = Duration::from_secs(30);
const PONG: Duration = Duration::from_secs(20);

/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 100;

/// Bytes of a request head; a licence or a token of ours takes a fraction.
const HEADER_LIST: u32 = 32 * 1024;

/// Bytes that wait for one slow HTTP/2 stream.
const SEND_BUFFER: usize = 128 * 1024;

/// Streams that a client may open and reset before it is taken for an attacker.
const RESETS: usize = 20;

/// Serves clients until `stop` resolves, then lets transfers end for the grace period, then cuts them off.
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
    let grace = service.generation.load().grace;
    tracing::info!(grace_s = grace.as_secs(), "draining");
    if tokio::time::timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "cutting off transfers that outlasted the grace period");
        cut.cancel();
        connections.wait().await;
    }
}

/// One connection, to its end; once `draining`, to the end of the requests under way.
async fn serve(service: Arc<Service>, accepted: Accepted<TcpStream>, draining: CancellationToken) {
    let Accepted { stream, peer, permit } = accepted;
    let _permit = permit;
    let _counted = Counted::one(&service.metrics.http_connections);
    let context = service.tls.load_full();
    let plain = Connection { peer: peer.ip(), secure: false, certificate: Vec::new() };
    let ended = match context {
        None => http_1(service, stream, plain, draining).await,
        Some(context) => match handshake(&service, &context, stream).await {
            Err(error) => Err(error.into()),
            Ok(stream) => {
                let (_, session) = stream.get_ref();
                let certificate = tls::names(session.peer_certificates());
                let connection = Connection { secure: true, certificate, ..plain };
                if tls::is_http_2(session.alpn_protocol()) {
                    http_2(service, stream, connection, draining).await
                } else {
                    http_1(service, stream, connection, draining).await
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

async fn handshake(service: &Service, context: &TlsContext, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let acceptor = TlsAcceptor::from(Arc::clone(context.config()));
    let handshake = acceptor.accept_with(stream, |session| session.set_buffer_limit(Some(ENCRYPTED)));
    tokio::time::timeout(service.limits.handshake, handshake)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn http_1<S>(service: Arc<Service>, stream: S, connection: Connection, draining: CancellationToken) -> Ended
where
    S: Transport + Send + 'static,
{
    let (wire, outbound) = Wire::new(stream, service.limits.send_idle);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(service.limits.request_idle);
    http.max_buf_size(HEAD).max_headers(HEADERS);
    let connection = Arc::new(connection);
    let answer =
        service_fn(move |request| Arc::clone(&service).call(Arc::clone(&connection), outbound.clone(), request));
    to_its_end(http.serve_connection(TokioIo::new(wire), answer), draining).await
}

async fn http_2<S>(service: Arc<Service>, stream: S, connection: Connection, draining: CancellationToken) -> Ended
where
    S: Transport + Send + 'static,
{
    let (wire, outbound) = Wire::new(stream, service.limits.send_idle);
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new()).keep_alive_interval(PING).keep_alive_timeout(PONG);
    http.max_concurrent_streams(STREAMS).max_header_list_size(HEADER_LIST).max_send_buf_size(SEND_BUFFER);
    http.max_pending_accept_reset_streams(RESETS);
    let connection = Arc::new(connection);
    let answer =
        service_fn(move |request| Arc::clone(&service).call(Arc::clone(&connection), outbound.clone(), request));
    to_its_end(http.serve_connection(TokioIo::new(wire), answer), draining).await
}

/// Once `draining`, what is under way may end, and nothing new begins.
async fn to_its_end<C>(connection: C, draining: CancellationToken) -> Ended
where
    C: GracefulConnection<Error = hyper::Error>,
{
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = &mut connection => ended?,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await?;
        }
    }
    Ok(())
}
