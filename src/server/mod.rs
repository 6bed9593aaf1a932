//! The clients' side: hyper on a listener that is already bound.
//!
//! Plain connections speak HTTP/1.1. A connection with TLS would choose its protocol by ALPN in `serve`, before hyper sees
//! it; nothing behind that point knows the version.

mod accept;
mod body;
mod error;
mod exchange;
mod generation;
mod listing;
mod respond;
mod service;
mod token;
mod visit;
mod wire;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

pub use accept::{Accepted, accept};
pub use generation::Generation;
pub use service::Service;

use crate::metrics::Counted;
use service::Connection;
use wire::Wire;

/// Bytes of a request head that are accepted, and of small frames that hyper gathers before it writes.
const HEAD: usize = 64 * 1024;

/// Header lines of a request.
const HEADERS: usize = 64;

/// Serves clients until `stop` resolves, then lets transfers end for up to `grace`, then cuts them off.
pub async fn run(listener: TcpListener, service: Arc<Service>, stop: impl Future<Output = ()>, grace: Duration) {
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
    if tokio::time::timeout(grace, connections.wait()).await.is_err() {
        tracing::warn!(left = connections.len(), "cutting off transfers that outlasted the grace period");
        cut.cancel();
        connections.wait().await;
    }
}

/// One connection, to its end; once `draining`, to the end of the request under way.
async fn serve(service: Arc<Service>, accepted: Accepted<TcpStream>, draining: CancellationToken) {
    let Accepted { stream, peer, permit } = accepted;
    let _permit = permit;
    let _counted = Counted::one(&service.metrics.http_connections);
    let (wire, outbound) = Wire::new(stream, service.limits.send_idle);
    let answer = {
        let service = Arc::clone(&service);
        let connection = Arc::new(Connection { peer: peer.ip(), secure: false, certificate: Vec::new() });
        service_fn(move |request| Arc::clone(&service).call(Arc::clone(&connection), outbound.clone(), request))
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(service.limits.request_idle);
    http.max_buf_size(HEAD).max_headers(HEADERS);
    let mut connection = std::pin::pin!(http.serve_connection(TokioIo::new(wire), answer));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = draining.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        // Clients that leave in the middle are everyday life (BLOB-9).
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}
