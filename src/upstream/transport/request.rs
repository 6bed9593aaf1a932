//! One request on the wire: through the gate, by the client it picks, counted; and what errors of
//! the wire mean.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::body::Incoming;
use super::dial::Clients;
use super::gate::{Dial, Gate, Refusal, shown};
use crate::metrics::{Counter, Metrics};
use crate::oci::UpstreamName;
use crate::upstream::error::{ErrorKind, Failure, Operation, Symptom};

/// Everything a single request needs; shared by the operations of one upstream and its token
/// requests.
#[derive(Debug)]
pub(in crate::upstream) struct Wire {
    pub(in crate::upstream) name: UpstreamName,
    pub(in crate::upstream) gate: Gate,
    clients: Clients,
    metrics: Arc<Metrics>,
    received: Counter,
    idle: Duration,
}

/// One request; its headers come from an allow-list, never from a client.
#[derive(Debug)]
pub(in crate::upstream) struct Outbound {
    pub(in crate::upstream) method: Method,
    pub(in crate::upstream) url: Url,
    pub(in crate::upstream) headers: HeaderMap,
    pub(in crate::upstream) payload: Payload,
}

/// What a request carries.
#[derive(Debug)]
pub(in crate::upstream) enum Payload {
    Nothing,
    /// Token requests alone have one.
    Form(String),
    Whole(Bytes),
    /// Bytes that come from a client; they cannot be sent a second time.
    Stream(reqwest::Body),
}

impl Wire {
    /// `idle` bounds the silence within a body.
    pub(in crate::upstream) fn new(
        name: UpstreamName,
        gate: Gate,
        clients: Clients,
        metrics: Arc<Metrics>,
        idle: Duration,
    ) -> Self {
        let received = metrics.upstream.received_bytes.with_label_values(&[name.as_str()]);
        Self { name, gate, clients, metrics, received, idle }
    }

    pub(in crate::upstream) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Sends one request and waits for the headers of its answer. The caller sets the deadline.
    pub(in crate::upstream) async fn send(
        &self,
        operation: Operation,
        outbound: Outbound,
    ) -> Result<Incoming, Failure> {
        let Outbound { method, url, headers, payload } = outbound;
        let client = match self.gate.judge(&url).map_err(|refusal| refused(&url, refusal))? {
            Dial::Configured => &self.clients.configured,
            Dial::Public => &self.clients.public,
        };
        let request = client
            .request(method, url.clone())
            .headers(headers)
            .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let request = match payload {
            Payload::Nothing => request,
            Payload::Form(form) => {
                request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)
            }
            Payload::Whole(bytes) => request.body(bytes),
            Payload::Stream(body) => request.body(body),
        };
        let mut sent =
            Sent { wire: self, operation, at: Instant::now(), outcome: Err("abandoned") };
        let answer = request.send().await;
        sent.outcome = answer.as_ref().map(reqwest::Response::status).map_err(|_| "error");
        drop(sent);
        let response = answer.map_err(|error| broken(&url, error))?;
        Ok(Incoming { response, idle: self.idle, received: self.received.clone() })
    }
}

/// A request under way; counted when it is answered, has failed, or was given up.
struct Sent<'a> {
    wire: &'a Wire,
    operation: Operation,
    at: Instant,
    outcome: Result<StatusCode, &'static str>,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        let Wire { name, metrics, .. } = self.wire;
        let (upstream, operation) = (name.as_str(), self.operation.as_str());
        let code = self.outcome.as_ref().map_or_else(|word| *word, StatusCode::as_str);
        metrics.upstream.requests.with_label_values(&[upstream, operation, code]).inc();
        let seconds = self.at.elapsed().as_secs_f64();
        metrics
            .upstream
            .request_duration
            .with_label_values(&[upstream, operation])
            .observe(seconds);
    }
}

/// The failure of a URL that the gate refused.
pub(in crate::upstream) fn refused(url: &Url, refusal: Refusal) -> Failure {
    let reason = format!("{} is not dialled: {refusal}", shown(url));
    Failure::new(ErrorKind::Refused, Symptom::Answered, reason).because(refusal)
}

/// What an error before the response headers means.
fn broken(url: &Url, error: reqwest::Error) -> Failure {
    let error = error.without_url();
    if let Some(refusal) = cause::<Refusal>(&error) {
        return refused(url, refusal.clone());
    }
    let (symptom, what) = match (error.is_connect(), error.is_timeout()) {
        (true, true) => (Symptom::Silence, "no connection in time to"),
        (true, false) => (Symptom::Connect, "no connection to"),
        (false, _) if cause::<hyper::Error>(&error).is_some_and(hyper::Error::is_parse) => {
            return Failure::protocol(format!("{} does not speak HTTP", shown(url))).because(error);
        }
        (false, _) => (Symptom::Reset, "no answer from"),
    };
    Failure::new(ErrorKind::Unreachable, symptom, format!("{what} {}", shown(url))).because(error)
}

/// The first error of type `E` in the chain.
fn cause<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}
