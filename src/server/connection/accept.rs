//! Accepting connections: a place first, then the connection; a full table of descriptors is waited
//! out.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

/// Pause after a failed accept: descriptors come back as connections end.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection and its place among the others.
#[derive(Debug)]
pub struct Accepted<S> {
    pub stream: S,
    pub peer: SocketAddr,
    pub permit: OwnedSemaphorePermit,
}

/// Spawns `serve` for every connection until `stop` resolves; gives the connections that are still
/// open.
pub async fn accept<F>(
    listener: &TcpListener,
    places: usize,
    stop: impl Future<Output = ()>,
    serve: impl Fn(Accepted<TcpStream>) -> F,
) -> TaskTracker
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(places));
    let connections = TaskTracker::new();
    let mut stop = std::pin::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            accepted = next(listener, &places) => {
                connections.spawn(serve(accepted));
            }
        }
    }
    connections.close();
    connections
}

async fn next(listener: &TcpListener, places: &Arc<Semaphore>) -> Accepted<TcpStream> {
    loop {
        // The semaphore is never closed; without a place there is nothing to accept.
        let Ok(permit) = Arc::clone(places).acquire_owned().await else {
            return std::future::pending().await;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Without it, small answers wait for acknowledgements; failing to set it only costs
                // time.
                let _ = stream.set_nodelay(true);
                return Accepted { stream, peer, permit };
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
