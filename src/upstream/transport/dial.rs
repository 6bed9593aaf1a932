//! The two HTTP clients of an upstream.
//!
//! Both look names up the same way. The client for configured hosts takes any address; the one for
//! hosts that somebody else named takes public addresses only. Behind a proxy, which looks names up
//! by itself, the gate has looked at the name.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::RootCertStore;
use tokio_rustls::TlsConnector;

use super::connect::{Connector, ConnectorParts, ProxyRest};
use super::feed::UploadBody;
use super::resolve::{Lookup, Resolver};
use super::tls::{self, BoxError};
use super::way::WaysOut;
use crate::clock::Clock;
use crate::config;
use crate::limits::Limits;
use crate::upstream::seal::Seal;

/// Below the 60 s after which load balancers commonly drop an idle connection.
const POOL_IDLE_TIME: Duration = Duration::from_secs(50);
/// Idle connections that are kept for each host.
const POOL_IDLE_CONNECTIONS: usize = 32;
/// Silence of a peer after which its system is asked whether the connection is still there.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// What a request carries.
pub(super) type OutgoingBody = Either<Full<Bytes>, UploadBody>;

/// A pool of connections. It does nothing on its own: no redirects, decompression or headers, each
/// of which would be a request or a change of bytes that the gate, the retry policy or the digest
/// does not see. It sends a request again only if the connection from the pool was closed before
/// any of it had left.
pub(super) type HttpClient = Client<Connector, OutgoingBody>;

/// The clients of one upstream; [`DialVia`](super::gate::DialVia) says which is for what.
#[derive(Debug)]
pub(in crate::upstream) struct HttpClients {
    pub(super) configured: HttpClient,
    pub(super) public: HttpClient,
    /// Of both.
    pub(super) seal: Arc<Seal>,
}

impl HttpClients {
    /// Builds both clients. The operator's leave not to verify holds for configured hosts only.
    pub(in crate::upstream) fn new(
        config: &config::Upstream,
        roots: &RootCertStore,
        world: &DialContext<'_>,
        seal: Arc<Seal>,
    ) -> Result<Self, BoxError> {
        let ways = || WaysOut::new(config);
        let proxy_rest = Arc::new(ProxyRest::new(world.clock.clone()));
        let proxy_tls = world.proxy_tls(&ways())?;
        let client = |verify: bool, only_public: bool| -> Result<HttpClient, BoxError> {
            let tls = Arc::new(tls::client_config(roots.clone(), verify)?);
            Ok(pool(Connector::new(ConnectorParts {
                ways: ways(),
                sockets: world.sockets(only_public),
                proxy_sockets: world.sockets(false),
                tls: tls.into(),
                proxy_tls: proxy_tls.clone(),
                proxy_rest: Arc::clone(&proxy_rest),
                time: world.limits.connect,
                seal: Arc::clone(&seal),
            })))
        };
        // Two, since a client has one resolver and one TLS configuration.
        let (configured, public) = (client(config.tls_verify, false)?, client(true, true)?);
        Ok(Self { configured, public, seal })
    }
}

/// What the connections of every upstream are made with.
#[derive(Debug)]
pub(in crate::upstream) struct DialContext<'a> {
    pub(in crate::upstream) system_roots: &'a RootCertStore,
    pub(in crate::upstream) limits: &'a Limits,
    pub(in crate::upstream) lookup: &'a Lookup,
    pub(in crate::upstream) clock: &'a Clock,
}

impl DialContext<'_> {
    /// An upstream's `ca` says nothing about a proxy, which has its own.
    fn proxy_tls(&self, ways: &WaysOut) -> Result<TlsConnector, BoxError> {
        let mut roots = self.system_roots.clone();
        if let Some(ca) = ways.any_proxy().and_then(|proxy| proxy.ca.as_ref()) {
            tls::add_pem(&mut roots, ca)?;
        }
        Ok(Arc::new(tls::client_config(roots, true)?).into())
    }

    fn sockets(&self, only_public: bool) -> HttpConnector<Resolver> {
        let resolver = Resolver { lookup: self.lookup.clone(), only_public };
        let mut sockets = HttpConnector::new_with_resolver(resolver);
        sockets.set_nodelay(true);
        // Divided among the addresses of a name, so that one that is silent does not keep us from
        // the next.
        sockets.set_connect_timeout(Some(self.limits.connect));
        // A peer that is gone without a word is noticed before an idle limit is.
        sockets.set_keepalive(Some(KEEP_ALIVE));
        sockets.set_keepalive_interval(Some(KEEP_ALIVE));
        sockets.set_keepalive_retries(Some(3));
        sockets.set_tcp_user_timeout(Some(2 * KEEP_ALIVE));
        sockets
    }
}

fn pool(connector: Connector) -> HttpClient {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_TIME)
        .pool_max_idle_per_host(POOL_IDLE_CONNECTIONS)
        .build(connector)
}
