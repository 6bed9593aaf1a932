//! One request and its answer, from arrival to the last byte. When it ends, however it ends, its
//! access line and its metrics are written, once.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::USER_AGENT;
use http::{HeaderValue, Method, Request, StatusCode};
use tokio::time::Instant;

use super::connection::delivery::ResponseOutput;
use super::foreign::cleaned;
use super::notes::{FailureNote, Notes};
use super::request_id::RequestIds;
use crate::licence::Slug;
use crate::metrics::{Counted, Metrics, status_label};
use crate::oci::{Digest, Repository, Tag};
use crate::pull::Outcome;

/// Characters of a method, a user agent and the name of a key, as far as they are logged.
const METHOD_MAX: usize = 32;
const USER_AGENT_MAX: usize = 200;
const KEY_MAX: usize = 64;

/// What a request says of itself, whatever it asks for.
#[derive(Debug)]
pub(super) struct Sender {
    /// The client's address, behind the proxies that are trusted.
    peer: IpAddr,
    method: Method,
    user_agent: Option<HeaderValue>,
    pub(super) request_id: HeaderValue,
}

impl Sender {
    pub(super) fn of<B>(request: &Request<B>, peer: IpAddr, ids: &RequestIds) -> Self {
        let (method, headers) = (request.method().clone(), request.headers());
        let user_agent = headers.get(USER_AGENT).cloned();
        Self { peer, method, user_agent, request_id: ids.of(headers) }
    }
}

/// A request that has arrived and is not answered yet.
#[derive(Debug)]
pub(super) struct Arrival {
    sender: Sender,
    output: ResponseOutput,
    metrics: Arc<Metrics>,
    started: Instant,
    /// What the connection had sent by then, for requests before this one.
    connection_bytes_before: u64,
    _counted_in_flight: Counted,
}

static CLIENT_STALLED: FailureNote =
    FailureNote { reason: "client_stalled", error: Cow::Borrowed("the client takes too little") };

static FILE_CHANGED: FailureNote = FailureNote {
    reason: "storage",
    error: Cow::Borrowed("the stored file was changed while it was sent"),
};

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
    pub(super) fn new(sender: Sender, output: ResponseOutput, metrics: Arc<Metrics>) -> Self {
        let in_flight = Counted::one(&metrics.http.in_flight);
        Self {
            sender,
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
        // The first reason counts; what follows from it is refused here.
        let _ = self.body_failure.set(FailureNote::new(reason, &error.to_string()));
    }

    /// Body bytes that have left. What hyper has written may still wait in TLS, and what the
    /// connection has sent holds heads, framing and, over HTTP/2, other responses; neither count is
    /// exceeded.
    fn bytes_sent(&self) -> u64 {
        let by_connection =
            self.arrival.output.connection_bytes_sent() - self.arrival.connection_bytes_before;
        self.arrival.output.delivery().written().min(by_connection)
    }

    /// Why the body ended short, else why the request was refused. What the socket has noticed is
    /// the reason only if there is no other.
    fn failure(&self) -> Option<&FailureNote> {
        let stalled = || self.arrival.output.delivery().is_stalled().then_some(&CLIENT_STALLED);
        let changed = || self.arrival.output.is_changed().then_some(&FILE_CHANGED);
        let noted = self.body_failure.get().or(self.notes.failure.as_ref());
        noted.or_else(stalled).or_else(changed)
    }

    fn count(&self, route: &'static str, bytes: u64) {
        let metrics = &self.arrival.metrics;
        let method = method_label(&self.arrival.sender.method);
        metrics.http.requests.with_label_values(&[route, method, status_label(&self.status)]).inc();
        metrics
            .http
            .request_duration
            .with_label_values(&[route])
            .observe(self.arrival.started.elapsed().as_secs_f64());
        if let Some(failure) = self.failure() {
            metrics.http.failures.with_label_values(&[route, failure.reason]).inc();
        }
        self.count_read(bytes);
    }

    fn count_read(&self, bytes: u64) {
        let (cache, notes) = (&self.arrival.metrics.cache, &self.notes);
        let (Some(name), Some(kind), Some(outcome)) = (&notes.name, notes.kind, notes.outcome)
        else {
            return;
        };
        let (upstream, what) = (name.upstream.as_str(), outcome.as_str());
        let application = notes.application.as_ref().map_or("", Slug::as_str);
        cache.requests.with_label_values(&[upstream, kind, what, application]).inc();
        if outcome.has_content() {
            let served = &cache.served_bytes;
            served.with_label_values(&[upstream, what, application]).inc_by(bytes);
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.arrival.output.clear_slices();
        let bytes = self.bytes_sent();
        self.count(self.route(), bytes);
        self.log(bytes);
    }
}

impl Exchange {
    fn route(&self) -> &'static str {
        self.notes.route.unwrap_or("none")
    }

    /// The access line.
    fn log(&self, bytes: u64) {
        let Self { arrival, notes, .. } = self;
        let (sender, stranger, failure) = (&arrival.sender, &notes.stranger, self.failure());
        let name = notes.name.as_ref();
        let repository = name.map(|name| &name.repository).or(notes.unknown.as_ref());
        // Where a bad credential counts for nothing, it is told only of what failed without one.
        let licence = failure.and(stranger.licence.as_ref());
        let licence_key = licence.map(|licence| cleaned(&licence.key, KEY_MAX));
        let method = cleaned(sender.method.as_str(), METHOD_MAX);
        let user_agent = sender.user_agent.as_ref().map(shown);
        tracing::info!(
            target: "access",
            request_id = sender.request_id.to_str().ok(),
            peer = %sender.peer,
            method = &*method,
            route = self.route(),
            identity = notes.identity.as_deref(),
            application = notes.application.as_ref().map(Slug::as_str),
            upstream = name.map(|name| name.upstream.as_str()),
            repository = repository.map(Repository::as_str),
            tag = notes.tag.as_ref().map(Tag::as_str),
            digest = notes.digest.as_ref().map(Digest::as_str),
            status = self.status.as_u16(),
            outcome = notes.outcome.map(Outcome::as_str),
            reason = failure.map(|failure| failure.reason),
            bytes,
            first_byte_ms = millis(self.head_after),
            total_ms = millis(arrival.started.elapsed()),
            host = stranger.host,
            path = stranger.path,
            ns = stranger.ns,
            user = failure.and(stranger.user.as_deref()),
            licence = licence.map(|licence| licence.id.as_str()),
            licence_key = licence_key.as_deref(),
            error = failure.map(|failure| &*failure.error),
            user_agent = user_agent.as_deref(),
        );
    }
}

/// A header as it may stand in a log line.
fn shown(value: &HeaderValue) -> Cow<'_, str> {
    match String::from_utf8_lossy(value.as_bytes()) {
        Cow::Borrowed(text) => cleaned(text, USER_AGENT_MAX),
        Cow::Owned(text) => Cow::Owned(cleaned(&text, USER_AGENT_MAX).into_owned()),
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
