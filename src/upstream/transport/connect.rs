//! Connections: the socket, the proxy in between if there is one, and TLS with whom the URL names.
//!
//! Each stage has the same time, and what goes wrong is told by stage: a proxy that is down or
//! refuses is no fault of the upstream.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::header::HeaderValue;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tower_service::Service;
use url::Url;

use super::gate::origin_of;
use super::resolve::Resolver;
use super::tls::BoxError;
use super::tunnel;
use super::way::{Way, WaysOut};
use super::wire::{BoxStream, Wire};
use crate::clock::{Clock, Moment};
use crate::config::{DialTarget, ForwardProxy};
use crate::upstream::cause::{ProxyError, ProxyFault};
use crate::upstream::seal::{IsSealed, Seal};

/// How long a proxy is left alone that could not be reached. Long enough that many requests do not
/// wait for it one after the other, short enough that nobody notices when it is back.
const PROXY_PAUSE: Duration = Duration::from_secs(2);

/// Opens the connections of one of the two clients.
#[derive(Clone)]
pub(super) struct Connector(Arc<ConnectorParts>);

pub(super) struct ConnectorParts {
    pub(super) ways: WaysOut,
    /// To the host itself; only where its addresses may be dialled.
    pub(super) sockets: HttpConnector<Resolver>,
    /// To a proxy, which the operator has named: any address will do.
    pub(super) proxy_sockets: HttpConnector<Resolver>,
    pub(super) tls: TlsConnector,
    /// Always verified, whatever holds for the upstream.
    pub(super) proxy_tls: TlsConnector,
    pub(super) proxy_rest: Arc<ProxyRest>,
    pub(super) time: Duration,
    pub(super) seal: Arc<Seal>,
}

impl Connector {
    pub(super) fn new(parts: ConnectorParts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Service<Uri> for Connector {
    type Response = Wire;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let parts = Arc::clone(&self.0);
        Box::pin(async move {
            let (url, cut) = (Url::parse(&uri.to_string())?, parts.seal.cut());
            tokio::select! {
                biased;
                () = cut.cancelled() => Err(IsSealed.into()),
                wire = parts.connect(&url, cut.clone()) => wire,
            }
        })
    }
}

impl ConnectorParts {
    /// The connection lasts until it is `cut`.
    async fn connect(&self, url: &Url, cut: CancellationToken) -> Result<Wire, BoxError> {
        let target = self.ways.target(url).ok_or("the URL has no host")?;
        match self.ways.way(url) {
            Way::Direct => {
                let whole =
                    async { self.secured(url, socket(&self.sockets, &target).await?).await };
                timeout(self.time, whole).await?.map(|stream| Wire::new(stream, cut))
            }
            Way::Forward(proxy) => Ok(Wire::forwarded(self.reach(proxy).await?, cut)),
            Way::Tunnel(proxy) => {
                let reached = self.reach(proxy).await?;
                let target = target.to_string();
                let opening = tunnel::open(reached, &target, authorization(proxy));
                let told = timeout(self.time, opening).await.unwrap_or(Err(ProxyFault::Silent));
                let stream = told.map_err(|fault| of_proxy(proxy, fault))?;
                let secured = timeout(self.time, self.secured(url, stream)).await?;
                secured.map(|stream| Wire::new(stream, cut))
            }
        }
    }

    /// With TLS, if the URL says so; the name is that of the URL, wherever it was dialled.
    async fn secured(&self, url: &Url, stream: BoxStream) -> Result<BoxStream, BoxError> {
        if url.scheme() == "https" { handshake(&self.tls, url, stream).await } else { Ok(stream) }
    }

    /// A connection to the proxy itself.
    async fn reach(&self, proxy: &ForwardProxy) -> Result<BoxStream, ProxyError> {
        let failed = |fault| of_proxy(proxy, fault);
        if self.proxy_rest.is_resting() {
            return Err(failed(ProxyFault::Resting));
        }
        let reached = timeout(self.time, self.reach_now(proxy)).await;
        let reached = reached.map_err(BoxError::from).flatten();
        reached.map_err(|error| {
            self.proxy_rest.begin();
            failed(ProxyFault::Unreachable(error))
        })
    }

    async fn reach_now(&self, proxy: &ForwardProxy) -> Result<BoxStream, BoxError> {
        let (host, port) = (proxy.url.host(), proxy.url.port_or_known_default());
        let (host, port) = host.zip(port).ok_or("the proxy has no host")?;
        let target = DialTarget { host: host.to_owned(), port };
        let stream = socket(&self.proxy_sockets, &target).await?;
        if proxy.url.scheme() == "https" {
            return handshake(&self.proxy_tls, &proxy.url, stream).await;
        }
        Ok(stream)
    }
}

async fn socket(
    connector: &HttpConnector<Resolver>,
    target: &DialTarget,
) -> Result<BoxStream, BoxError> {
    let uri: Uri = format!("http://{target}").parse()?;
    Ok(Box::new(connector.clone().call(uri).await?.into_inner()))
}

async fn handshake(
    tls: &TlsConnector,
    url: &Url,
    stream: BoxStream,
) -> Result<BoxStream, BoxError> {
    let host = url.host_str().unwrap_or_default();
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
    Ok(Box::new(tls.connect(name, stream).await?))
}

/// What is wrong with this proxy.
pub(super) fn of_proxy(proxy: &ForwardProxy, fault: ProxyFault) -> ProxyError {
    ProxyError { proxy: origin_of(&proxy.url), fault }
}

/// What the proxy is shown of our login for it.
pub(super) fn authorization(proxy: &ForwardProxy) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(proxy.authorization.as_ref()?.expose()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A proxy that could not be reached a moment ago. It is a pause of its own, since the upstream
/// behind it may be as it should.
#[derive(Debug)]
pub(super) struct ProxyRest {
    clock: Clock,
    until: Mutex<Option<Moment>>,
}

impl ProxyRest {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, until: Mutex::default() }
    }

    fn is_resting(&self) -> bool {
        let until = *self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| self.clock.moment() < until)
    }

    fn begin(&self) {
        let until = self.clock.moment().plus(PROXY_PAUSE);
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}
