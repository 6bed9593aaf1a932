//! Every metric of the process: one struct of typed handles on a registry of its own.
//!
//! Labels come from route templates and configured names only, so the number of series is bounded
//! by the configuration. Those that are known ahead begin at 0 ([`series`]).

mod registers;
mod series;

use http::StatusCode;
use prometheus::{
    HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry, TextEncoder,
};

use registers::Registers;

/// One series of a counter or gauge: a caller that counts often looks it up once.
pub use prometheus::{IntCounter as Counter, IntGauge as Gauge};

/// Typed handles to every metric; made once by `app` and handed in. A field has its labels in the
/// order of `with_label_values`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub http: HttpMetrics,
    pub cache: CacheMetrics,
    pub upstream: UpstreamMetrics,
    pub fills: FillMetrics,
    pub store: StoreMetrics,
    /// Files that were read again: part (an input, or `configuration`) and outcome (`loaded` or
    /// `refused`).
    pub reloads: IntCounterVec,
    pub config: ConfigMetrics,
    pub expiry: ExpiryMetrics,
    /// What clients wanted of sealed upstreams and is remembered, and what had to make way.
    pub misses: IntGauge,
    pub misses_lost: IntGauge,
    /// Log lines dropped because their reader stalled.
    pub access_log_dropped: IntCounter,
}

/// Requests of clients, and who makes them.
#[derive(Debug)]
pub struct HttpMetrics {
    /// Requests that have ended: route, method and status.
    pub requests: IntCounterVec,
    /// Seconds from arrival to the last byte: route.
    pub request_duration: HistogramVec,
    /// Requests that were refused, failed or cut short: route and reason.
    pub failures: IntCounterVec,
    /// Requests whose last byte has not left.
    pub in_flight: IntGauge,
    /// Open client connections.
    pub connections: IntGauge,
    /// Bytes that are in memory for clients.
    pub waiting_bytes: IntGauge,
    /// Credentials that were checked: scheme (`basic`, `bearer`, `unreadable`) and outcome.
    pub auth_attempts: IntCounterVec,
}

/// What the cache did for requests.
#[derive(Debug)]
pub struct CacheMetrics {
    /// Reads of an image: upstream, kind of content, what the cache did, and the application that
    /// gives the right, if one does.
    pub requests: IntCounterVec,
    /// Bytes of bodies that clients got: upstream, what the cache did, and the application.
    pub served_bytes: IntCounterVec,
    /// Bytes of blobs that clients sent: upstream.
    pub pushed_bytes: IntCounterVec,
}

/// What was asked of upstream registries.
#[derive(Debug)]
pub struct UpstreamMetrics {
    /// Requests sent: upstream, operation, and the status or `error`.
    pub requests: IntCounterVec,
    /// Seconds until the response headers: upstream and operation.
    pub request_duration: HistogramVec,
    /// Bytes of bodies received: upstream.
    pub received_bytes: IntCounterVec,
    /// Requests left before a 429, as the registry said last: upstream.
    pub rate_limit_remaining: IntGaugeVec,
    /// Requests in a window, and the window in seconds, as the registry said last: upstream.
    pub rate_limit: IntGaugeVec,
    pub rate_limit_window: IntGaugeVec,
    /// 1 while the upstream is left alone because it was unreachable: upstream, and gate (`reads`,
    /// `writes`, or for how many other hosts that it has named: `hosts`).
    pub breaker_open: IntGaugeVec,
    /// Requests that got no answer: upstream, and why there was none.
    pub unanswered: IntCounterVec,
    /// 1 while the upstream is sealed: upstream.
    pub sealed: IntGaugeVec,
    /// 1 while the upstream rejects a credential that we have for it: upstream.
    pub credential_rejected: IntGaugeVec,
    /// Requests for a token: upstream and outcome.
    pub token_refreshes: IntCounterVec,
}

/// Downloads into the cache.
#[derive(Debug)]
pub struct FillMetrics {
    /// Downloads in progress.
    pub in_flight: IntGauge,
    /// Broken downloads that were continued: upstream.
    pub resumes: IntCounterVec,
    /// Downloads that stored nothing: upstream and reason.
    pub failures: IntCounterVec,
}

/// The state of what is read again.
#[derive(Debug)]
pub struct ConfigMetrics {
    /// 0 while the files of some part cannot be used as they are.
    pub last_reload_successful: IntGauge,
    /// Seconds since 1970 when something was loaded last and all was in use.
    pub last_reload_success: IntGauge,
}

/// When what we present ends, in seconds since 1970. A series exists only while there is something
/// to end.
#[derive(Debug)]
pub struct ExpiryMetrics {
    /// The certificate of the listener for clients.
    pub certificate: IntGaugeVec,
    /// Licences that upstreams are presented: upstream and licence.
    pub licence: IntGaugeVec,
}

/// The disk.
#[derive(Debug)]
pub struct StoreMetrics {
    /// Bytes of verified content.
    pub bytes: IntGauge,
    /// Files of verified content, manifests too.
    pub blobs: IntGauge,
    /// Bytes of verified content that is never evicted.
    pub retained: IntGauge,
    /// Images that pins name and that cannot be kept for lack of room.
    pub unheld_pins: IntGauge,
    /// `cache.max_size`, in bytes.
    pub limit_bytes: IntGauge,
    /// What content may take in all as the disk is now, in bytes; at most `cache.max_size`.
    pub effective_limit_bytes: IntGauge,
    /// Bytes that are free on the cache's file system.
    pub free_bytes: IntGauge,
    /// 1 while new content finds no room.
    pub full: IntGauge,
    /// Bytes that a scrub has read.
    pub scrubbed: IntCounter,
    /// Files that a scrub has found damaged or gone.
    pub scrub_damaged: IntCounter,
    /// Stored files that failed their digest and were removed.
    pub corrupt: IntCounter,
    /// Errors of the disk and the database: operation.
    pub errors: IntCounterVec,
    /// Blobs removed to make room: reason.
    pub evictions: IntCounterVec,
}

impl Metrics {
    /// Registers every metric, on a registry of its own, under the prefix `roadstead_`.
    pub fn new() -> Self {
        let r = Registers(Registry::new());
        let build = r.gauges("build_info", "Version of this build; always 1.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            http: HttpMetrics::new(&r),
            cache: CacheMetrics::new(&r),
            upstream: UpstreamMetrics::new(&r),
            fills: FillMetrics::new(&r),
            store: StoreMetrics::new(&r),
            reloads: r.counters(
                "reloads_total",
                "Files that changed and were read again.",
                &["part", "outcome"],
            ),
            access_log_dropped: r.counter(
                "access_log_dropped_total",
                "Log lines dropped because the reader stalled.",
            ),
            misses: r.gauge("misses", "Things that clients missed at sealed upstreams."),
            misses_lost: r.gauge(
                "misses_lost",
                "How many more things clients missed than can be remembered at once.",
            ),
            config: ConfigMetrics::new(&r),
            expiry: ExpiryMetrics::new(&r),
            registry: r.0,
        };
        metrics.begin_at_zero();
        metrics
    }

    /// The registry, for the exposition and for collectors that other modules add.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The text exposition format.
    ///
    /// # Errors
    /// If a collector hands out inconsistent series.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

/// Something that a gauge counts for as long as this lives, such as an open connection.
#[derive(Debug)]
pub struct Counted(IntGauge);

impl Counted {
    /// Adds one to `gauge` until the result is dropped.
    pub fn one(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl HttpMetrics {
    fn new(r: &Registers) -> Self {
        Self {
            requests: r.counters(
                "http_requests_total",
                "Requests answered.",
                &["route", "method", "code"],
            ),
            request_duration: r.histogram(
                "http_request_duration_seconds",
                "Arrival to last byte.",
                &["route"],
            ),
            failures: r.counters(
                "http_failures_total",
                "Requests that were refused, failed, or whose body was cut short, by the reason.",
                &["route", "reason"],
            ),
            in_flight: r.gauge("http_requests_in_flight", "Requests whose body is not finished."),
            connections: r.gauge("http_connections", "Open client connections."),
            waiting_bytes: r.gauge("http_waiting_bytes", "Bytes in memory that wait for clients."),
            auth_attempts: r.counters(
                "auth_attempts_total",
                "Credentials presented.",
                &["scheme", "outcome"],
            ),
        }
    }
}

impl CacheMetrics {
    fn new(r: &Registers) -> Self {
        Self {
            requests: r.counters(
                "cache_requests_total",
                "Manifest, tag and blob requests by what the cache did.",
                &["upstream", "kind", "outcome", "application"],
            ),
            served_bytes: r.counters(
                "served_bytes_total",
                "Body bytes sent to clients.",
                &["upstream", "source", "application"],
            ),
            pushed_bytes: r.counters(
                "pushed_bytes_total",
                "Bytes of blobs that clients sent.",
                &["upstream"],
            ),
        }
    }
}

impl UpstreamMetrics {
    fn new(r: &Registers) -> Self {
        Self {
            requests: r.counters(
                "upstream_requests_total",
                "Requests sent upstream; code is a status or error.",
                &["upstream", "operation", "code"],
            ),
            request_duration: r.histogram(
                "upstream_request_duration_seconds",
                "Request sent to response headers.",
                &["upstream", "operation"],
            ),
            received_bytes: r.counters(
                "upstream_received_bytes_total",
                "Body bytes received from upstream.",
                &["upstream"],
            ),
            rate_limit_remaining: r.gauges(
                "upstream_rate_limit_remaining",
                "What the upstream's ratelimit-remaining header said last.",
                &["upstream"],
            ),
            rate_limit: r.gauges(
                "upstream_rate_limit_limit",
                "What the upstream's ratelimit-limit header said last.",
                &["upstream"],
            ),
            rate_limit_window: r.gauges(
                "upstream_rate_limit_window_seconds",
                "The window of that limit.",
                &["upstream"],
            ),
            breaker_open: r.gauges(
                "upstream_breaker_open",
                "1 while the upstream is taken to be unreachable; how many of other hosts are.",
                &["upstream", "gate"],
            ),
            unanswered: r.counters(
                "upstream_unanswered_total",
                "Requests without a connection, or whose connection broke, by the cause.",
                &["upstream", "cause"],
            ),
            sealed: r.gauges(
                "upstream_sealed",
                "1 while the upstream is sealed: nothing is asked of it.",
                &["upstream"],
            ),
            credential_rejected: r.gauges(
                "upstream_credential_rejected",
                "1 while the upstream rejects a credential that is configured for it.",
                &["upstream"],
            ),
            token_refreshes: r.counters(
                "token_refreshes_total",
                "Upstream token requests.",
                &["upstream", "outcome"],
            ),
        }
    }
}

impl FillMetrics {
    fn new(r: &Registers) -> Self {
        Self {
            in_flight: r.gauge("fills_in_flight", "Downloads into the cache in progress."),
            resumes: r.counters(
                "fill_resumes_total",
                "Broken downloads continued with Range.",
                &["upstream"],
            ),
            failures: r.counters(
                "fill_failures_total",
                "Downloads that stored nothing.",
                &["upstream", "reason"],
            ),
        }
    }
}

impl ConfigMetrics {
    fn new(r: &Registers) -> Self {
        Self {
            last_reload_successful: r.gauge(
                "config_last_reload_successful",
                "0 while configuration, users, keys or certificate on disk cannot be used.",
            ),
            last_reload_success: r.gauge(
                "config_last_reload_success_timestamp_seconds",
                "When one of these was loaded last and all were in use.",
            ),
        }
    }
}

impl ExpiryMetrics {
    fn new(r: &Registers) -> Self {
        Self {
            certificate: r.gauges(
                "certificate_expiry_timestamp_seconds",
                "When the certificate for clients ends.",
                &[],
            ),
            licence: r.gauges(
                "licence_expiry_timestamp_seconds",
                "When a licence ends that an upstream is presented.",
                &["upstream", "licence"],
            ),
        }
    }
}

impl StoreMetrics {
    fn new(r: &Registers) -> Self {
        Self {
            bytes: r.gauge("store_bytes", "Bytes of verified content on disk."),
            blobs: r.gauge("store_blobs", "Blobs and manifests on disk."),
            retained: r.gauge("store_pinned_bytes", "Bytes on disk that are never evicted."),
            unheld_pins: r.gauge(
                "pins_unheld",
                "Images that pins name, and that cannot be kept for lack of room.",
            ),
            limit_bytes: r.gauge("store_limit_bytes", "cache.max_size."),
            effective_limit_bytes: r.gauge(
                "store_effective_limit_bytes",
                "What content may take in all, as full as the disk is now.",
            ),
            free_bytes: r.gauge("store_free_bytes", "Free bytes of the cache's file system."),
            full: r.gauge("store_full", "1 while new content finds no room."),
            scrubbed: r.counter("scrub_read_bytes_total", "Bytes that a scrub has read."),
            scrub_damaged: r.counter(
                "scrub_damaged_total",
                "Stored files that a scrub has found damaged or gone.",
            ),
            corrupt: r.counter(
                "store_corrupt_total",
                "Stored files that failed their digest and were removed.",
            ),
            errors: r.counters("store_errors_total", "Disk and database errors.", &["operation"]),
            evictions: r.counters(
                "evictions_total",
                "Blobs removed, to make room or at an operator's word.",
                &["reason"],
            ),
        }
    }
}

/// A status as a label: those that no standard names by their class, so that a registry which
/// makes them up does not make a series of each.
pub(crate) fn status_label(status: &StatusCode) -> &str {
    match (status.canonical_reason(), status.as_u16()) {
        (Some(_), _) => status.as_str(),
        (None, 100..200) => "1xx",
        (None, 200..300) => "2xx",
        (None, 300..400) => "3xx",
        (None, 400..500) => "4xx",
        (None, 500..600) => "5xx",
        (None, _) => "other",
    }
}
