//! One HTTP request: through the gate, by the client it picks, counted; and what the errors of that
//! client mean.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, PROXY_AUTHORIZATION, USER_AGENT,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use tokio::net::TcpSocket;
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use url::Url;

use super::body::HttpResponse;
use super::connect::{authorization, of_proxy};
use super::dial::{HttpClients, OutgoingBody};
use super::feed::UploadBody;
use super::gate::{DialVia, ForbiddenUrl, OutboundGate, origin_of};
use super::reachability::Reachability;
use super::tunnel::{OUR_NAME, refusal};
use super::way::Way;
use crate::clock::Clock;
use crate::config;
use crate::limits::Limits;
use crate::metrics::{Counter, Metrics, status_label};
use crate::oci::UpstreamName;
use crate::shortage::is_shortage;
use crate::upstream::cause::{Cause, ProxyError, ProxyFault, find};
use crate::upstream::error::{ErrorKind, Fault, Operation, Symptom};
use crate::upstream::seal::Seal;

/// The way to one upstream: which URLs may be dialled, by which clients, and what is counted. Its
/// operations and its token requests share it.
#[derive(Debug)]
pub(in crate::upstream) struct Transport {
    pub(in crate::upstream) name: UpstreamName,
    pub(in crate::upstream) gate: OutboundGate,
    /// Whether anything may be sent at all.
    pub(in crate::upstream) seal: Arc<Seal>,
    clients: HttpClients,
    metrics: Arc<Metrics>,
    received_bytes: Counter,
    body_idle: Duration,
    pub(super) reachability: Reachability,
    /// How long a ping may take.
    pub(super) ping_time: Duration,
}

/// One request; its headers come from an allow-list, never from a client (DESIGN §8).
#[derive(Debug)]
pub(in crate::upstream) struct HttpRequest {
    pub(in crate::upstream) method: Method,
    pub(in crate::upstream) url: Url,
    pub(in crate::upstream) headers: HeaderMap,
    pub(in crate::upstream) body: RequestBody,
}

#[derive(Debug)]
pub(in crate::upstream) enum RequestBody {
    Empty,
    /// `application/x-www-form-urlencoded`; only token requests have one.
    Form(String),
    Bytes(Bytes),
    /// Bytes that come from a client; they cannot be sent a second time.
    Stream(UploadBody),
}

impl Transport {
    pub(in crate::upstream) fn new(
        config: &config::Upstream,
        clients: HttpClients,
        clock: Clock,
        limits: &Limits,
        metrics: Arc<Metrics>,
    ) -> Self {
        let name = config.name.clone();
        let received_bytes = metrics.upstream.received_bytes.with_label_values(&[name.as_str()]);
        // At 0 from the start, so that a rate sees the first one.
        for cause in Cause::ALL {
            metrics.upstream.unanswered.with_label_values(&[name.as_str(), cause.as_str()]);
        }
        Self {
            gate: OutboundGate::new(config),
            seal: Arc::clone(&clients.seal),
            clients,
            received_bytes,
            body_idle: limits.upstream_idle,
            reachability: Reachability::new(name.clone(), clock, metrics.clone()),
            ping_time: limits.ping,
            metrics,
            name,
        }
    }

    pub(in crate::upstream) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Sends one request and waits for the headers of its answer, whoever is left alone. The caller
    /// sets the deadline.
    ///
    /// # Errors
    /// `Sealed` while it is, `ForbiddenAddress` if the gate says no, `Protocol` if what answers does not speak HTTP,
    /// else `Unreachable`. Any status is an answer.
    pub(super) async fn exchange(
        &self,
        operation: Operation,
        request: HttpRequest,
    ) -> Result<HttpResponse, Fault> {
        self.seal.check()?;
        let url = request.url.clone();
        let client = match self.gate.check(&url).map_err(|reason| forbidden(&url, reason))? {
            DialVia::Configured => &self.clients.configured,
            DialVia::Public => &self.clients.public,
        };
        let way = self.gate.way(&url);
        let request = request.through(way)?;
        let mut counted = CountedRequest {
            transport: self,
            operation,
            sent_at: Instant::now(),
            outcome: Err("abandoned"),
        };
        let answer = client.request(request).await;
        counted.outcome = answer.as_ref().map(Response::status).map_err(|_| "error");
        // Counted here, at the headers: how long a body takes depends on who reads it.
        drop(counted);
        let answer = answer.map_err(|error| self.seal.or_sealed(ours(unanswered(&url, error))));
        let answer = answer.and_then(|response| of_registry(&url, way, response));
        let response = answer.inspect_err(|fault| self.count_unanswered(fault))?;
        let (received, seal) = (self.received_bytes.clone(), Arc::clone(&self.seal));
        Ok(HttpResponse { response, idle: self.body_idle, received, seal })
    }

    fn count_unanswered(&self, fault: &Fault) {
        if let Some(cause) = fault.cause {
            let labels = [self.name.as_str(), cause.as_str()];
            self.metrics.upstream.unanswered.with_label_values(&labels).inc();
        }
    }
}

impl HttpRequest {
    /// As it is sent on this way.
    fn through(self, way: Way<'_>) -> Result<Request<OutgoingBody>, Fault> {
        let Self { method, url, mut headers, body } = self;
        headers.insert(USER_AGENT, OUR_NAME);
        headers.entry(ACCEPT).or_insert(HeaderValue::from_static("*/*"));
        // Bytes that are decoded on the way would not have the digest (BLOB-3).
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        // Through a tunnel the proxy has seen it already, and the registry is not to.
        if let Way::Forward(proxy) = way {
            headers.extend(authorization(proxy).map(|value| (PROXY_AUTHORIZATION, value)));
        }
        let whole = |bytes| Either::Left(Full::new(bytes));
        let body = match body {
            RequestBody::Empty => whole(Bytes::new()),
            RequestBody::Form(form) => {
                let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
                headers.insert(CONTENT_TYPE, form_type);
                whole(form.into())
            }
            RequestBody::Bytes(bytes) => whole(bytes),
            RequestBody::Stream(body) => Either::Right(body),
        };
        let unusable = |_| Fault::protocol(format!("{} has a URL of no use", origin_of(&url)));
        let request = Request::builder().method(method).uri(url.as_str()).body(body);
        let mut request = request.map_err(unusable)?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Tells the registry's answer from one of a proxy that is told whole URLs: 407 is no registry's,
/// and neither is a page that refuses or says that the host is not reached.
fn of_registry(
    url: &Url,
    way: Way<'_>,
    response: Response<Incoming>,
) -> Result<Response<Incoming>, Fault> {
    let Way::Forward(proxy) = way else { return Ok(response) };
    let status = response.status();
    let content_type = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    let is_page = content_type.is_some_and(|value| value.starts_with(b"text/html"));
    let refused = || {
        let error = of_proxy(proxy, refusal(status));
        let text = format!("no answer from {}", origin_of(url));
        Fault::new(ErrorKind::Unreachable, symptom_of(&error), text).because(error)
    };
    match status.as_u16() {
        407 => Err(refused()),
        403 | 502..=504 if is_page => Err(refused()),
        _ => Ok(response),
    }
}

/// A request under way. It is counted on drop, since its caller may give it up at any time: then
/// the outcome is `abandoned`.
struct CountedRequest<'a> {
    transport: &'a Transport,
    operation: Operation,
    sent_at: Instant,
    outcome: Result<StatusCode, &'static str>,
}

impl Drop for CountedRequest<'_> {
    fn drop(&mut self) {
        let Transport { name, metrics, .. } = self.transport;
        let (upstream, operation) = (name.as_str(), self.operation.as_str());
        let code = self.outcome.as_ref().map_or_else(|word| *word, status_label);
        metrics.upstream.requests.with_label_values(&[upstream, operation, code]).inc();
        let duration = &metrics.upstream.request_duration;
        let seconds = self.sent_at.elapsed().as_secs_f64();
        duration.with_label_values(&[upstream, operation]).observe(seconds);
    }
}

/// The fault of a URL that the gate does not allow.
pub(in crate::upstream) fn forbidden(url: &Url, reason: ForbiddenUrl) -> Fault {
    let text = format!("{} is not dialled: {reason}", origin_of(url));
    Fault::new(ErrorKind::ForbiddenAddress, Symptom::Answered, text).because(reason)
}

/// What an error before the response headers means.
fn unanswered(url: &Url, error: legacy::Error) -> Fault {
    // The filtering resolver found internal addresses only; the client wraps what it said.
    if let Some(reason) = find::<ForbiddenUrl>(&error) {
        return forbidden(url, reason.clone());
    }
    let origin = origin_of(url);
    let (symptom, what) = match find::<ProxyError>(&error) {
        Some(proxy) => (symptom_of(proxy), "no connection to"),
        None if find::<Elapsed>(&error).is_some() => (Symptom::Silence, "no connection to"),
        None if error.is_connect() => (Symptom::Connect, "no connection to"),
        None if find::<hyper::Error>(&error).is_some_and(hyper::Error::is_parse) => {
            return Fault::protocol(format!("{origin} does not speak HTTP")).because(error);
        }
        None => (Symptom::Reset, "no answer from"),
    };
    Fault::new(ErrorKind::Unreachable, symptom, format!("{what} {origin}")).because(error)
}

/// The fault of our own that it may be. Whoever was to be asked knows nothing of that: it is no
/// matter of the breaker, and nothing is remembered.
fn ours(mut fault: Fault) -> Fault {
    let is_name = matches!(fault.cause, Some(Cause::NameFailed | Cause::NameNotFound));
    // The system's resolver does not say that it could open no socket.
    if is_name && TcpSocket::new_v4().is_err_and(|error| is_shortage(&error)) {
        fault.cause = Some(Cause::OurShortage);
    }
    if fault.cause == Some(Cause::OurShortage) {
        (fault.kind, fault.symptom) = (ErrorKind::OutOfResources, Symptom::Local);
    }
    fault
}

/// A proxy that is down, or that does not let us through, is no fault of the upstream.
fn symptom_of(error: &ProxyError) -> Symptom {
    if error.fault.is_its_own() {
        Symptom::Local
    } else if matches!(error.fault, ProxyFault::Silent) {
        Symptom::Silence
    } else {
        Symptom::Connect
    }
}
