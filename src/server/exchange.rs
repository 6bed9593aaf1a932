//! One request and its answer, from arrival to the last byte: its log line and its metrics are
//! written when it ends.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::Instant;

use super::connection::delivery::Outbound;
use super::error::Refusal;
use crate::licence::Slug;
use crate::metrics::{Counted, Metrics};
use crate::oci::{CanonicalName, Digest, Repository, Tag};
use crate::pull::Outcome;

/// What is known when a request has arrived.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) peer: IpAddr,
    pub(super) method: Method,
    pub(super) outbound: Outbound,
    pub(super) metrics: Arc<Metrics>,
    started: Instant,
    sent_before: u64,
    _counted: Counted,
}

/// What the service found out on the way to an answer.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// The route label of the endpoint.
    pub(super) route: Option<&'static str>,
    /// Who asks, as rules write it.
    pub(super) identity: Option<String>,
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
    /// Why it was refused or failed, in one word.
    pub(super) reason: Option<&'static str>,
    /// The same in a sentence.
    pub(super) error: Option<String>,
}

impl Notes {
    /// The request is answered with `refusal`.
    pub(super) fn refused(&mut self, refusal: &Refusal) {
        self.outcome = refusal.outcome;
        self.reason = Some(refusal.reason);
        self.error.clone_from(&refusal.cause);
    }
}

/// A request with its answer on the way. Shared by the body and its frames; ends when the last of
/// them is gone.
#[derive(Debug)]
pub(super) struct Exchange {
    arrival: Arrival,
    notes: Notes,
    status: StatusCode,
    head: Duration,
    /// Why the body ended short: in one word, and in a sentence.
    cut: OnceLock<(&'static str, String)>,
}

impl Arrival {
    pub(super) fn new(
        peer: IpAddr,
        method: Method,
        outbound: Outbound,
        metrics: Arc<Metrics>,
    ) -> Self {
        let counted = Counted::one(&metrics.http.in_flight);
        Self {
            peer,
            method,
            sent_before: outbound.sent(),
            outbound,
            started: Instant::now(),
            _counted: counted,
            metrics,
        }
    }

    /// The answer's head is ready.
    pub(super) fn answer(self, notes: Notes, status: StatusCode) -> Arc<Exchange> {
        let head = self.started.elapsed();
        Arc::new(Exchange { arrival: self, notes, status, head, cut: OnceLock::new() })
    }
}

impl Exchange {
    /// The way that the answer leaves by.
    pub(super) fn outbound(&self) -> &Outbound {
        &self.arrival.outbound
    }

    /// The body ends short, for `reason`.
    pub(super) fn fail(&self, reason: &'static str, error: &dyn std::fmt::Display) {
        // The first reason is the one that counts.
        let _ = self.cut.set((reason, error.to_string()));
    }

    /// Body bytes that have left: not more than hyper has written, and not more than the connection
    /// has sent since.
    fn bytes(&self) -> u64 {
        let on_the_wire = self.arrival.outbound.sent() - self.arrival.sent_before;
        self.arrival.outbound.delivery().written().min(on_the_wire)
    }

    /// Why the body ended short, or why the request was refused: in one word, and in a sentence.
    fn failure(&self) -> (Option<&'static str>, Option<&str>) {
        if let Some((reason, error)) = self.cut.get() {
            return (Some(*reason), Some(error));
        }
        if self.notes.reason.is_none() && self.arrival.outbound.delivery().is_given_up() {
            return (Some("client_stalled"), Some("the client takes no bytes"));
        }
        (self.notes.reason, self.notes.error.as_deref())
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
        if let (Some(reason), _) = self.failure() {
            metrics.http.failures.with_label_values(&[route, reason]).inc();
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
        self.arrival.outbound.expect_nothing();
        let bytes = self.bytes();
        let route = self.notes.route.unwrap_or("none");
        self.count(route, bytes);
        let (reason, error) = self.failure();
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
            reason,
            bytes,
            first_byte_ms = millis(self.head),
            total_ms = millis(self.arrival.started.elapsed()),
            error,
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Only known methods may become label values.
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
