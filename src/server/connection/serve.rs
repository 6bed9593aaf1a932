//! Connections from the first byte to the last: TLS, the version of HTTP, and the end of the
//! process.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::AsyncBufReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::accept::{Accepted, accept};
use super::delivery::{ConnectionOutput, TLS_BUFFER_MAX};
use super::http::{ConnectionResult, ConnectionService, serve_http_1, serve_http_2};
use super::places::{Activity, ConnectionPlaces};
use super::socket::ClientSocket;
use super::tls::{self, TlsContext};
use crate::access::is_trusted;
use crate::clock::Clock;
use crate::limits::Limits;
use crate::metrics::Counted;
use crate::server::request::Connection;
use crate::server::service::Service;

/// Serves clients on `listener` until `stop` resolves, and for the drain delay of the configuration
/// after that. Then transfers may end within its grace period, and those that outlast it are cut
/// off.
pub(crate) async fn run(
    listener: TcpListener,
    service: Arc<Service>,
    stop: impl Future<Output = ()>,
) {
    let draining = CancellationToken::new();
    let grace_over = CancellationToken::new();
    let stop = async {
        stop.await;
        // A balancer that sees "not ready" needs a moment to send its clients elsewhere; whoever it
        // still sends here meanwhile is served.
        tokio::time::sleep(service.config.load().drain_delay).await;
    };
    let generations = Generations::new(&draining);
    let config = Arc::clone(&service);
    let places = ConnectionPlaces::new(service.limits.connections, move |peer| {
        is_trusted(peer, &config.config.load().trusted_proxies)
    });
    let connections = accept(
        &listener,
        &places,
        stop,
        || generations.age(&draining),
        |accepted| {
            let service = Arc::clone(&service);
            let (draining, grace_over) = (generations.newest(), grace_over.clone());
            async move {
                let (gives_way, first_request) =
                    (accepted.place.ended(), service.limits.first_request);
                let silent = silent(Arc::clone(accepted.place.activity()), first_request);
                tokio::select! {
                    () = serve(service, accepted, draining) => {}
                    () = grace_over.cancelled() => {}
                    () = gives_way.cancelled() => {}
                    () = silent => {}
                }
            }
        },
    )
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

/// The connections before and since descriptors last ran short.
struct Generations(Mutex<[CancellationToken; 2]>);

impl Generations {
    fn new(draining: &CancellationToken) -> Self {
        Self(Mutex::new([draining.child_token(), draining.child_token()]))
    }

    /// Ends the older ones as in a drain, at once if they are idle. The others may have come this
    /// moment, and not be heard yet.
    fn age(&self, draining: &CancellationToken) {
        let [before, since] = &mut *self.lock();
        std::mem::replace(before, std::mem::replace(since, draining.child_token())).cancel();
    }

    fn newest(&self) -> CancellationToken {
        self.lock()[1].clone()
    }

    fn lock(&self) -> MutexGuard<'_, [CancellationToken; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves if a connection is older than `first_request` and has sent no whole request: no client
/// dials before it has something to ask, and whoever sends its head byte by byte takes a place.
async fn silent(activity: Arc<Activity>, first_request: Duration) {
    tokio::time::sleep(first_request).await;
    if activity.has_asked() {
        std::future::pending::<()>().await;
    }
}

/// Serves one connection until it ends. Once `draining`, it ends with the requests under way.
async fn serve(service: Arc<Service>, accepted: Accepted<TcpStream>, draining: CancellationToken) {
    let Accepted { stream, peer, place } = accepted;
    let _counted = Counted::one(&service.metrics.http.connections);
    // A reload that comes now is for the connections after this one.
    let contexts = service.tls.subscribe();
    let context = contexts.borrow().clone();
    let output = ConnectionOutput::new(
        context.is_some(),
        service.memory.connection(),
        Arc::clone(place.activity()),
    );
    let socket = ClientSocket::new(stream, output.clone(), service.limits.send_idle);
    let connection = Arc::new(Connection { peer: peer.ip(), secure: false, certificate: None });
    let plain = ConnectionService { service, connection, output };
    let ended = match context {
        None => serve_http_1(plain, socket, draining).await,
        Some(context) => {
            let tls = TlsAccepted { context, contexts, draining };
            serve_tls(tls, plain, socket).await
        }
    };
    if let Err(error) = ended {
        // Clients that leave in the middle are everyday life (BLOB-9).
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}

/// What a connection with TLS begins with, and what may end it.
struct TlsAccepted {
    context: Arc<TlsContext>,
    /// `context`, and those that replace it.
    contexts: watch::Receiver<Option<Arc<TlsContext>>>,
    draining: CancellationToken,
}

/// Serves a connection that has to begin with a TLS handshake; `plain` is its service before that.
async fn serve_tls(
    accepted: TlsAccepted,
    plain: ConnectionService,
    socket: ClientSocket,
) -> ConnectionResult {
    let TlsAccepted { context, contexts, draining } = accepted;
    let stream = handshake(&plain.service.limits, &context, socket).await?;
    let (_, session) = stream.get_ref();
    let http_2 = tls::is_http_2(session.alpn_protocol());
    let chain: Option<Vec<_>> = session
        .peer_certificates()
        .map(|chain| chain.iter().map(|one| one.clone().into_owned()).collect());
    let certificate = context.client_certificate(chain.as_deref());
    let connection = Connection { peer: plain.connection.peer, secure: true, certificate };
    let service = ConnectionService { connection: Arc::new(connection), ..plain };
    let (ending, clock) = (draining.child_token(), service.service.clock.clone());
    let serving = async {
        if http_2 {
            serve_http_2(service, stream, ending.clone()).await
        } else {
            serve_http_1(service, stream, ending.clone()).await
        }
    };
    let mut serving = std::pin::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = distrusted(contexts, chain, &clock) => ending.cancel(),
    }
    serving.await
}

/// Resolves once a reload has brought authorities that do not vouch for the client's certificate:
/// whoever was taken off the list shall not go on for as long as a connection lives.
async fn distrusted(
    mut contexts: watch::Receiver<Option<Arc<TlsContext>>>,
    chain: Option<Vec<CertificateDer<'static>>>,
    clock: &Clock,
) {
    let Some(chain) = chain else { return std::future::pending().await };
    while contexts.changed().await.is_ok() {
        let context = contexts.borrow_and_update().clone();
        if context.is_none_or(|context| !context.vouches_for(&chain, clock.now())) {
            return;
        }
    }
    // The sender lives as long as the service.
    std::future::pending::<()>().await;
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
