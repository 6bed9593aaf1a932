//! One HTTP request: through the gate, by the client it picks, counted; and what the errors of that
//! client mean.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::body::HttpResponse;
use super::dial::HttpClients;
use super::gate::{DialVia, ForbiddenUrl, OutboundGate, origin_of};
use super::reachability::Reachability;
use crate::clock::Clock;
use crate::config;
use crate::limits::Limits;
use crate::metrics::{Counter, Metrics};
use crate::oci::UpstreamName;
use crate::upstream::cause::{Cause, find};
use crate::upstream::error::{ErrorKind, Fault, Operation, Symptom};

/// The way to one upstream: which URLs may be dialled, by which clients, and what is counted. Its
/// operations and its token requests share it.
#[derive(Debug)]
pub(in crate::upstream) struct Transport {
    pub(in crate::upstream) name: UpstreamName,
    pub(in crate::upstream) gate: OutboundGate,
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
    Stream(reqwest::Body),
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
    /// `ForbiddenAddress` if the gate says no, `Protocol` if what answers does not speak HTTP,
    /// else `Unreachable`. Any status is an answer.
    pub(super) async fn exchange(
        &self,
        operation: Operation,
        request: HttpRequest,
    ) -> Result<HttpResponse, Fault> {
        let url = request.url.clone();
        let client = match self.gate.check(&url).map_err(|reason| forbidden(&url, reason))? {
            DialVia::Configured => &self.clients.configured,
            DialVia::Public => &self.clients.public,
        };
        let mut counted = CountedRequest {
            transport: self,
            operation,
            sent_at: Instant::now(),
            outcome: Err("abandoned"),
        };
        let answer = request.with(client).send().await;
        counted.outcome = answer.as_ref().map(reqwest::Response::status).map_err(|_| "error");
        // Counted here, at the headers: how long a body takes depends on who reads it.
        drop(counted);
        let response = answer.map_err(|error| self.unanswered(&url, error))?;
        let received = self.received_bytes.clone();
        Ok(HttpResponse { response, idle: self.body_idle, received })
    }

    fn unanswered(&self, url: &Url, error: reqwest::Error) -> Fault {
        let fault = unanswered(url, error);
        if let Some(cause) = fault.cause {
            let labels = [self.name.as_str(), cause.as_str()];
            self.metrics.upstream.unanswered.with_label_values(&labels).inc();
        }
        fault
    }
}

impl HttpRequest {
    fn with(self, client: &reqwest::Client) -> reqwest::RequestBuilder {
        let Self { method, url, headers, body } = self;
        // Bytes that are decoded on the way would not have the digest (BLOB-3).
        let identity = HeaderValue::from_static("identity");
        let request =
            client.request(method, url).headers(headers).header(ACCEPT_ENCODING, identity);
        match body {
            RequestBody::Empty => request,
            RequestBody::Form(form) => {
                request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)
            }
            RequestBody::Bytes(bytes) => request.body(bytes),
            RequestBody::Stream(body) => request.body(body),
        }
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
        let code = self.outcome.as_ref().map_or_else(|word| *word, StatusCode::as_str);
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
fn unanswered(url: &Url, error: reqwest::Error) -> Fault {
    // The URL of a redirect may hold a signature that must not be logged.
    let error = error.without_url();
    // The filtering resolver found internal addresses only; reqwest wraps what it said.
    if let Some(reason) = find::<ForbiddenUrl>(&error) {
        return forbidden(url, reason.clone());
    }
    let origin = origin_of(url);
    let (symptom, what) = match (error.is_connect(), error.is_timeout()) {
        (true, true) => {
            let text = format!("no connection to {origin}");
            let fault = Fault::new(ErrorKind::Unreachable, Symptom::Silence, text);
            return fault.caused_by(Cause::TimedOut).because(error);
        }
        (true, false) => (Symptom::Connect, "no connection to"),
        (false, _) if find::<hyper::Error>(&error).is_some_and(hyper::Error::is_parse) => {
            return Fault::protocol(format!("{origin} does not speak HTTP")).because(error);
        }
        (false, _) => (Symptom::Reset, "no answer from"),
    };
    Fault::new(ErrorKind::Unreachable, symptom, format!("{what} {origin}")).because(error)
}
