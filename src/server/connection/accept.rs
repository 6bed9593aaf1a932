//! Accepting connections. A place among `limits.connections` is taken before a connection is, so
//! those beyond the bound wait in the kernel's backlog.
//!
//! Where descriptors or memory run out first, connections that do nothing give theirs back.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

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
    /// The place, free again when this is dropped.
    pub permit: OwnedSemaphorePermit,
}

/// Spawns `serve` for every connection, at most `max_connections` at once, until `stop` resolves.
/// Returns the connections that are still open then.
///
/// Failures to accept are logged and retried. After those for want of descriptors or memory,
/// `make_room` may give some back.
pub(crate) async fn accept<F>(
    listener: &TcpListener,
    max_connections: usize,
    stop: impl Future<Output = ()>,
    make_room: impl Fn(),
    serve: impl Fn(Accepted<TcpStream>) -> F,
) -> TaskTracker
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(max_connections));
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
            accepted = accept_one(listener, &places, &mut failed) => {
                connections.spawn(serve(accepted));
            }
        }
    }
    connections.close();
    connections
}

async fn accept_one(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    failed: &mut impl FnMut(io::Error),
) -> Accepted<TcpStream> {
    loop {
        let Ok(permit) = Arc::clone(places).acquire_owned().await else {
            // Unreachable: the semaphore is never closed. Without a place nothing is accepted.
            return std::future::pending().await;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it, Nagle's algorithm holds small answers back until the client
                // acknowledges earlier ones. If it cannot be set, answers are only slower.
                let _ = stream.set_nodelay(true);
                return Accepted { stream, peer, permit };
            }
            Err(error) => {
                failed(error);
                tokio::time::sleep(ACCEPT_RETRY_PAUSE).await;
            }
        }
    }
}
