//! The operator's side, on a listener of its own: metrics, licences in use, health, readiness.

mod expiry;
mod process;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::access::LastPull;
use crate::licence::{LicenceId, calendar};
use crate::server::{ConnectionPlaces, Service, accept};
use crate::store::BlobStore;

pub(crate) use expiry::Expiries;

/// Open connections: scrapers and probes, nobody else has business here. When all are taken, the
/// longest silent gives way, so that health is always told.
const CONNECTIONS_MAX: usize = 64;
/// Waiting for a request, the first one and between two, as on the listener for clients
/// (`Limits::request_idle`).
const REQUEST_IDLE: Duration = Duration::from_secs(95);

/// How long a scrape waits for the disk to tell how full it is; the figures stay as they were then.
const MEASURE_MAX: Duration = Duration::from_secs(1);

/// What the operator's side shows.
#[derive(Debug)]
pub(crate) struct Admin {
    service: Arc<Service>,
    /// Set once the proxy should get no more new work.
    draining: CancellationToken,
    store: BlobStore,
    expiries: Arc<Expiries>,
}

impl Admin {
    pub(crate) fn new(
        service: Arc<Service>,
        draining: CancellationToken,
        store: BlobStore,
        expiries: Arc<Expiries>,
    ) -> Self {
        let process = Box::new(process::ProcessCollector::new());
        if let Err(error) = service.metrics.registry().register(process) {
            tracing::warn!(%error, "no metrics of the process itself");
        }
        Self { service, draining, store, expiries }
    }

    /// Serves until `stop` resolves; open connections are dropped then.
    pub(crate) async fn run(
        self: Arc<Self>,
        listener: TcpListener,
        stop: impl Future<Output = ()>,
    ) {
        let cut = CancellationToken::new();
        let connections = accept(
            &listener,
            &ConnectionPlaces::new(CONNECTIONS_MAX, |_| false),
            stop,
            || (),
            |accepted| {
                let (this, cut) = (Arc::clone(&self), cut.clone());
                async move {
                    let place = accepted.place;
                    let (activity, gives_way) = (Arc::clone(place.activity()), place.ended());
                    let answer = service_fn(move |request: Request<Incoming>| {
                        let (this, (head, _)) = (Arc::clone(&this), request.into_parts());
                        // Until the answer is there: whoever does not read it gives way, too.
                        let busy = activity.begin();
                        async move {
                            let _busy = busy;
                            Ok::<_, Infallible>(this.answer(&head).await)
                        }
                    });
                    let mut http = http1::Builder::new();
                    http.timer(TokioTimer::new()).header_read_timeout(REQUEST_IDLE);
                    let connection = http.serve_connection(TokioIo::new(accepted.stream), answer);
                    tokio::select! {
                        // A scraper that leaves early is its own business.
                        _ = connection => {}
                        () = cut.cancelled() => {}
                        () = gives_way.cancelled() => {}
                    }
                    drop(place);
                }
            },
        )
        .await;
        cut.cancel();
        connections.wait().await;
    }

    async fn answer(&self, head: &Parts) -> Response<Full<Bytes>> {
        // What is no text is no name of ours.
        let host = head.headers.get(HOST).map(|host| host.to_str().unwrap_or("?"));
        if !self.service.config.load().virtual_hosts.is_for_operators(host) {
            let why = "this is no name of this listener; list it under admin_hosts\n";
            return text(StatusCode::MISDIRECTED_REQUEST, why.into());
        }
        if !matches!(head.method, Method::GET | Method::HEAD) {
            return text(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD\n".into());
        }
        match head.uri.path() {
            "/metrics" => self.metrics().await,
            "/licences" => text(StatusCode::OK, self.licences()),
            "/healthz" => text(StatusCode::OK, "ok\n".into()),
            "/readyz" if self.draining.is_cancelled() => {
                text(StatusCode::SERVICE_UNAVAILABLE, "draining\n".into())
            }
            "/readyz" => text(StatusCode::OK, "ready\n".into()),
            _ => text(StatusCode::NOT_FOUND, "/metrics, /licences, /healthz or /readyz\n".into()),
        }
    }

    async fn metrics(&self) -> Response<Full<Bytes>> {
        // What changes without an event is looked at when somebody asks.
        let _late = tokio::time::timeout(MEASURE_MAX, self.store.measure()).await;
        self.expiries.measure();
        match self.service.metrics.render() {
            Ok(metrics) => text(StatusCode::OK, metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }

    /// The licences that were used since the start: JSON, by id.
    fn licences(&self) -> String {
        let entry = |(id, pull): &(LicenceId, LastPull)| {
            serde_json::json!({
                "id": id.to_string(),
                "last_pull": calendar::format(pull.at),
                "image": pull.image.to_string(),
                "expires": pull.expires.map(calendar::format),
            })
        };
        let list: Vec<_> = self.service.ledger.entries().iter().map(entry).collect();
        format!("{}\n", serde_json::Value::from(list))
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}
