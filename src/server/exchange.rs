//! One request and its answer, from arrival to the last byte. When it ends, however it ends, its
//! access line and its metrics are written, once.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::Instant;

use super::connection::delivery::ResponseOutput;
use super::error::Refusal;
use crate::licence::Slug;
use crate::metrics::{Counted, Metrics};
use crate::oci::{CanonicalName, Digest, Repository, Tag};
use crate::pull::Outcome;

/// A request that has arrived and is not answered yet.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The client's address, behind the proxies that are trusted.
    peer: IpAddr,
    method: Method,
    output: ResponseOutput,
    metrics: Arc<Metrics>,
    started: Instant,
    /// What the connection had sent by then, for requests before this one.
    connection_bytes_before: u64,
    _counted_in_flight: Counted,
}

/// What the service has found out on the way to an answer, for log and metrics.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// The route label of the endpoint.
    pub(super) route: Option<&'static str>,
    /// Who asks, as rules write it.
    pub(super) identity: Option<Cow<'static, str>>,
    /// The application that gives the right, or under whose name the image was called.
    pub(super) application: Option<Slug>,
    pub(super) name: Option<CanonicalName>,
    /// The repository as the client wrote it, where it leads nowhere.
    pub(super) unknown: Option<Repository>,
    pub(super) tag: Option<Tag>,
    /// What was asked for, or what the tag led to.
    pub(super) digest: Option<Digest>,
    /// What kind of content it is about, as a label of metrics: `blob`, `manifest` (by digest),
    /// `tag`, `tags` or `referrers`.
    pub(super) kind: Option<&'static str>,
    /// What the cache did, if the request came that far.
    pub(super) outcome: Option<Outcome>,
    /// Why it was refused.
    failure: Option<FailureNote>,
}

/// Why a request was refused, or its body ended short; for log and metrics.
#[derive(Debug)]
struct FailureNote {
    /// In one word of a fixed vocabulary, which is a label of metrics.
    reason: &'static str,
    /// In a sentence, where there is more to say than the word.
    error: Option<Cow<'static, str>>,
}

static CLIENT_STALLED: FailureNote = FailureNote {
    reason: "client_stalled",
    error: Some(Cow::Borrowed("the client takes no bytes")),
};

impl Notes {
    /// The request is answered with `refusal`, which says by itself what the cache did.
    pub(super) fn set_refused(&mut self, refusal: &Refusal) {
        self.outcome = refusal.outcome;
        let error = refusal.cause.clone().map(Cow::Owned);
        self.failure = Some(FailureNote { reason: refusal.reason, error });
    }
}

/// A request whose answer is on its way. The body and all its frames share it; when the last of
/// them is dropped, the request is over, and its log line and metrics are written.
#[derive(Debug)]
pub(super) struct Exchange {
    arrival: Arrival,
    notes: Notes,
    status: StatusCode,
    /// From arrival to the response head.
    head_after: Duration,
    /// Why the body ended short, if it did.
    body_failure: OnceLock<FailureNote>,
}

impl Arrival {
    /// A request whose head has just been read.
    pub(super) fn new(
        peer: IpAddr,
        method: Method,
        output: ResponseOutput,
        metrics: Arc<Metrics>,
    ) -> Self {
        let in_flight = Counted::one(&metrics.http.in_flight);
        Self {
            peer,
            method,
            connection_bytes_before: output.connection_bytes_sent(),
            output,
            started: Instant::now(),
            _counted_in_flight: in_flight,
            metrics,
        }
    }

    /// The head of the answer is ready, and the body begins.
    pub(super) fn into_exchange(self, notes: Notes, status: StatusCode) -> Arc<Exchange> {
        let head_after = self.started.elapsed();
        let body_failure = OnceLock::new();
        Arc::new(Exchange { arrival: self, notes, status, head_after, body_failure })
    }
}

impl Exchange {
    /// Where the answer leaves by.
    pub(super) fn output(&self) -> &ResponseOutput {
        &self.arrival.output
    }

    /// The body ends short, for `reason`.
    pub(super) fn fail(&self, reason: &'static str, error: &dyn std::fmt::Display) {
        let error = Some(Cow::Owned(error.to_string()));
        // The first reason counts; what follows from it is refused here.
        let _ = self.body_failure.set(FailureNote { reason, error });
    }

    /// Body bytes that have left. What hyper has written may still wait in TLS, and what the
    /// connection has sent holds heads, framing and, over HTTP/2, other responses; neither count is
    /// exceeded.
    fn bytes_sent(&self) -> u64 {
        let by_connection =
            self.arrival.output.connection_bytes_sent() - self.arrival.connection_bytes_before;
        self.arrival.output.delivery().written().min(by_connection)
    }

    /// Why the body ended short, else why the request was refused. A client that stalls is the
    /// reason only if there is no other.
    fn failure(&self) -> Option<&FailureNote> {
        let stalled = || self.arrival.output.delivery().is_stalled().then_some(&CLIENT_STALLED);
        self.body_failure.get().or(self.notes.failure.as_ref()).or_else(stalled)
    }

    fn count(&self, route: &'static str, bytes: u64) {
        let metrics = &self.arrival.metrics;
        let method = method_label(&self.arrival.method);
        metrics.http.requests.with_label_values(&[route, method, self.status.as_str()]).inc();
        metrics
            .http
            .request_duration
            .with_label_values(&[route])
            .observe(self.arrival.started.elapsed().as_secs_f64());
        if let Some(failure) = self.failure() {
            metrics.http.failures.with_label_values(&[route, failure.reason]).inc();
        }
        let Some(name) = &self.notes.name else { return };
        if let (Some(kind), Some(outcome)) = (self.notes.kind, self.notes.outcome) {
            let (upstream, outcome_label) = (name.upstream.as_str(), outcome.as_str());
            metrics.cache.requests.with_label_values(&[upstream, kind, outcome_label]).inc();
            if outcome.has_content() {
                let served = &metrics.cache.served_bytes;
                served.with_label_values(&[upstream, outcome_label]).inc_by(bytes);
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.arrival.output.clear_slices();
        let bytes = self.bytes_sent();
        let route = self.notes.route.unwrap_or("none");
        self.count(route, bytes);
        let failure = self.failure();
        let name = self.notes.name.as_ref();
        let repository = name.map(|name| &name.repository).or(self.notes.unknown.as_ref());
        tracing::info!(
            target: "access",
            peer = %self.arrival.peer,
            method = %self.arrival.method,
            route,
            identity = self.notes.identity.as_deref(),
            application = self.notes.application.as_ref().map(Slug::as_str),
            upstream = name.map(|name| name.upstream.as_str()),
            repository = repository.map(Repository::as_str),
            tag = self.notes.tag.as_ref().map(Tag::as_str),
            digest = self.notes.digest.as_ref().map(Digest::as_str),
            status = self.status.as_u16(),
            outcome = self.notes.outcome.map(Outcome::as_str),
            reason = failure.map(|failure| failure.reason),
            bytes,
            first_byte_ms = millis(self.head_after),
            total_ms = millis(self.arrival.started.elapsed()),
            error = failure.and_then(|failure| failure.error.as_deref()),
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The method as a label of metrics. Clients can invent methods, and each would be a new series.
fn method_label(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}
