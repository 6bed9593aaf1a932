//! Accepting connections. Each needs a place; when all are taken, one that does nothing gives way,
//! and those behind it wait in the kernel's backlog (`places`).
//!
//! Where descriptors or memory run out first, connections that do nothing give theirs back.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::places::{ConnectionPlace, ConnectionPlaces};
use crate::shortage::is_shortage;

/// Pause after a failed accept. With no descriptor left, `accept` fails at once and again; a loop
/// without a pause would take a whole core until connections end and give descriptors back.
const ACCEPT_RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How often it is logged that connections cannot be accepted.
const ACCEPT_LOG_PAUSE: Duration = Duration::from_secs(5);

/// A connection and its place among the others.
#[derive(Debug)]
pub(crate) struct Accepted<S> {
    pub stream: S,
    pub peer: SocketAddr,
    /// Free again when this is dropped.
    pub place: ConnectionPlace,
}

/// Spawns `serve` for every connection that gets one of `places`, until `stop` resolves. Returns the
/// connections that are still open then.
///
/// Failures to accept are logged and retried. After those for want of descriptors or memory,
/// `make_room` may give some back.
pub(crate) async fn accept<F>(
    listener: &TcpListener,
    places: &Arc<ConnectionPlaces>,
    stop: impl Future<Output = ()>,
    make_room: impl Fn(),
    serve: impl Fn(Accepted<TcpStream>) -> F,
) -> TaskTracker
where
    F: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    let mut stop = std::pin::pin!(stop);
    let mut logged: Option<Instant> = None;
    let mut failed = |error: io::Error| {
        if logged.is_none_or(|logged| logged.elapsed() >= ACCEPT_LOG_PAUSE) {
            logged = Some(Instant::now());
            tracing::warn!(%error, "cannot accept a connection");
        }
        if is_shortage(&error) {
            make_room();
        }
    };
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = accept_one(listener, places, &mut failed) => {
                connections.spawn(serve(accepted));
            }
        }
    }
    connections.close();
    connections
}

async fn accept_one(
    listener: &TcpListener,
    places: &Arc<ConnectionPlaces>,
    failed: &mut impl FnMut(io::Error),
) -> Accepted<TcpStream> {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it, Nagle's algorithm holds small answers back until the client
                // acknowledges earlier ones. If it cannot be set, answers are only slower.
                let _ = stream.set_nodelay(true);
                if let Some(place) = places.take(peer.ip()).await {
                    return Accepted { stream, peer, place };
                }
                tracing::debug!(%peer, "a connection of an address that has its share of all");
            }
            Err(error) => {
                failed(error);
                tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
            }
        }
    }
}
