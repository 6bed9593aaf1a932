//! Connections from the first byte to the last: TLS, the version of HTTP, and the end of the
//! process.

use std::future::Future;
use std::io;
use std::sync::Arc;

use tokio::io::AsyncBufReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::accept::{Accepted, accept};
use super::delivery::ConnectionOutput;
use super::http::{ConnectionResult, ConnectionService, serve_http_1, serve_http_2};
use super::socket::ClientSocket;
use super::tls::{self, TlsContext};
use crate::limits::Limits;
use crate::metrics::Counted;
use crate::server::request::Connection;
use crate::server::service::Service;

/// Bytes that rustls encrypts ahead of the socket: two of the 256 KiB pieces that stored bodies are
/// read in. rustls's own bound is 64 KiB, a quarter of one piece.
const TLS_BUFFER_MAX: usize = 512 * 1024;

/// Serves clients on `listener` until `stop` resolves. Then transfers may end within the grace
/// period of the configuration, and those that outlast it are cut off.
pub(crate) async fn run(
    listener: TcpListener,
    service: Arc<Service>,
    stop: impl Future<Output = ()>,
) {
    let draining = CancellationToken::new();
    let grace_over = CancellationToken::new();
    let connections = accept(&listener, service.limits.connections, stop, |accepted| {
        let service = Arc::clone(&service);
        let (draining, grace_over) = (draining.clone(), grace_over.clone());
        async move {
            tokio::select! {
                () = serve(service, accepted, draining) => {}
                () = grace_over.cancelled() => {}
            }
        }
    })
    .await;
    // Closes the port, so that new clients go elsewhere at once.
    drop(listener);
    draining.cancel();
    let grace = service.config.load().grace;
    tracing::info!(grace_s = grace.as_secs(), "draining");
    if tokio::time::timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!(
            left = connections.len(),
            "cutting off transfers that outlasted the grace period"
        );
        grace_over.cancel();
        connections.wait().await;
    }
}

/// Serves one connection until it ends. Once `draining`, it ends with the requests under way.
async fn serve(service: Arc<Service>, accepted: Accepted<TcpStream>, draining: CancellationToken) {
    let Accepted { stream, peer, permit } = accepted;
    let _permit = permit;
    let _counted = Counted::one(&service.metrics.http.connections);
    // A reload that comes now is for the connections after this one.
    let context = service.tls.load_full();
    let output = ConnectionOutput::new(context.is_some());
    let socket = ClientSocket::new(stream, output.clone(), service.limits.send_idle);
    let connection = Arc::new(Connection { peer: peer.ip(), secure: false, certificate: None });
    let plain = ConnectionService { service, connection, output };
    let ended = match context {
        None => serve_http_1(plain, socket, draining).await,
        Some(context) => serve_tls(&context, plain, socket, draining).await,
    };
    if let Err(error) = ended {
        // Clients that leave in the middle are everyday life (BLOB-9).
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}

/// Serves a connection that has to begin with a TLS handshake; `plain` is its service before that.
async fn serve_tls(
    context: &TlsContext,
    plain: ConnectionService,
    socket: ClientSocket,
    draining: CancellationToken,
) -> ConnectionResult {
    let stream = handshake(&plain.service.limits, context, socket).await?;
    let (_, session) = stream.get_ref();
    let http_2 = tls::is_http_2(session.alpn_protocol());
    let certificate = context.client_certificate(session.peer_certificates());
    let connection = Connection { peer: plain.connection.peer, secure: true, certificate };
    let service = ConnectionService { connection: Arc::new(connection), ..plain };
    if http_2 {
        serve_http_2(service, stream, draining).await
    } else {
        serve_http_1(service, stream, draining).await
    }
}

/// The TLS handshake and, where it agrees on HTTP/2, the first bytes after it, all within
/// `limits.handshake`. An HTTP/2 client speaks at once (RFC 9113 §3.4), and hyper would wait for it
/// without a deadline; over HTTP/1.1 hyper's timer for heads begins here.
async fn handshake(
    limits: &Limits,
    context: &TlsContext,
    socket: ClientSocket,
) -> io::Result<TlsStream<ClientSocket>> {
    let acceptor = TlsAcceptor::from(Arc::clone(context.config()));
    let handshake = async {
        let mut stream = acceptor
            .accept_with(socket, |session| session.set_buffer_limit(Some(TLS_BUFFER_MAX)))
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
