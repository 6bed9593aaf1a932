//! Series that exist before anything has happened, at 0, so that `rate` and `increase` see the
//! first event: all whose labels are known ahead. `docs/metrics.md` says which are not.

use super::{CacheMetrics, FillMetrics, HttpMetrics, Metrics, StoreMetrics, UpstreamMetrics};

/// Routes of requests, in the words of the access line; `none` is what no route was found for.
const ROUTES: [&str; 9] =
    ["ping", "manifest", "blob", "tags", "referrers", "catalog", "upload", "token", "none"];

/// Routes of requests that lead to an image.
const IMAGE_ROUTES: [&str; 5] = ["manifest", "blob", "tags", "referrers", "upload"];

/// Why any request may be refused, whatever it asks for.
const REFUSALS: [&str; 7] = [
    "bad_request",
    "client_stalled",
    "denied",
    "failed",
    "login_needed",
    "unknown_name",
    "unsupported",
];

/// Why a credential is not good.
const REJECTIONS: [&str; 13] = [
    "malformed",
    "unknown_user",
    "wrong_password",
    "licence_invalid",
    "licence_user_mismatch",
    "licence_not_yet",
    "licence_expired",
    "licence_revoked",
    "token_invalid",
    "token_expired",
    "token_revoked",
    "throttled",
    "overloaded",
];

/// Why an image could not be had; those of downloads, too.
const PULL_FAILURES: [&str; 16] = [
    "absent",
    "unconfirmed",
    "refused",
    "rate_limited",
    "upstream",
    "untrue",
    "broken",
    "overloaded",
    "late",
    "range",
    "damaged",
    "storage",
    "no_room",
    "exhausted",
    "abandoned",
    "sealed",
];

/// Why something could not be pushed, beside these.
const PUSH_FAILURES: [&str; 5] =
    ["rejected", "login_replaced", "wrong_digest", "client_broke_off", "unknown_upload"];

/// What a request is about, and what the cache did.
const KINDS: [&str; 5] = ["blob", "manifest", "tag", "tags", "referrers"];
const OUTCOMES_WITH_CONTENT: [&str; 7] =
    ["hit", "miss", "joined", "fresh", "revalidated", "stale", "relay"];
const OUTCOMES_WITHOUT: [&str; 4] = ["negative", "absent", "sealed", "failed"];

/// What is asked of a registry, and how a request ends that gets no status.
const READS: [&str; 7] =
    ["manifest_head", "manifest_get", "blob_head", "blob_get", "tags", "referrers", "token"];
const WRITES: [&str; 6] =
    ["upload_begin", "upload_send", "upload_status", "upload_cancel", "manifest_put", "delete"];
const UNANSWERED: [&str; 2] = ["error", "abandoned"];

const TOKEN_OUTCOMES: [&str; 5] = ["issued", "denied", "rejected", "rate_limited", "failed"];

/// Files that are read again, and how that ends.
const RELOADED: [&str; 6] = ["configuration", "key", "users", "public_keys", "revocations", "tls"];
const RELOAD_OUTCOMES: [&str; 2] = ["loaded", "refused"];

/// What the store does with the disk and its database.
const DISK_OPERATIONS: [&str; 12] = [
    "allocate",
    "close",
    "create",
    "list",
    "open",
    "publish",
    "read",
    "remove",
    "set aside",
    "stat",
    "sync",
    "write",
];

impl Metrics {
    /// Those that every proxy has.
    pub(super) fn begin_at_zero(&self) {
        begin_http(&self.http);
        begin_store(&self.store);
        for part in RELOADED {
            for outcome in RELOAD_OUTCOMES {
                self.reloads.with_label_values(&[part, outcome]);
            }
        }
    }

    /// Those of an upstream; to be called whenever one is configured. `writable`: pushes go there.
    pub fn add_upstream(&self, upstream: &str, writable: bool) {
        begin_cache(&self.cache, upstream, writable);
        begin_requests(&self.upstream, upstream, writable);
        begin_fills(&self.fills, upstream);
    }
}

fn begin_http(http: &HttpMetrics) {
    let (credential, pull) = (REJECTIONS.iter().chain(&REFUSALS), PULL_FAILURES.iter());
    for route in ROUTES {
        http.request_duration.with_label_values(&[route]);
        for reason in credential.clone() {
            http.failures.with_label_values(&[route, reason]);
        }
    }
    for route in IMAGE_ROUTES {
        for reason in pull.clone().chain(&PUSH_FAILURES) {
            http.failures.with_label_values(&[route, reason]);
        }
    }
    begin_logins(http);
}

/// Only what a scheme can come to.
fn begin_logins(http: &HttpMetrics) {
    let is_of = |scheme: &str, outcome: &str| match scheme {
        "unreadable" => outcome == "malformed",
        "bearer" => outcome.starts_with("token_") || outcome.starts_with("licence_"),
        _ => outcome != "malformed" && !outcome.starts_with("token_"),
    };
    for scheme in ["basic", "bearer", "unreadable"] {
        for outcome in REJECTIONS.into_iter().filter(|outcome| is_of(scheme, outcome)) {
            http.auth_attempts.with_label_values(&[scheme, outcome]);
            http.auth_attempts.with_label_values(&[scheme, &format!("ignored_{outcome}")]);
        }
    }
    for scheme in ["basic", "bearer"] {
        http.auth_attempts.with_label_values(&[scheme, "accepted"]);
    }
}

fn begin_store(store: &StoreMetrics) {
    for reason in ["size", "purge", "emergency"] {
        store.evictions.with_label_values(&[reason]);
    }
    for operation in DISK_OPERATIONS {
        store.errors.with_label_values(&[operation]);
    }
}

/// Without an application: which of them are asked for at which upstream is not known ahead.
fn begin_cache(cache: &CacheMetrics, upstream: &str, writable: bool) {
    for kind in KINDS {
        for outcome in OUTCOMES_WITH_CONTENT.iter().chain(&OUTCOMES_WITHOUT) {
            cache.requests.with_label_values(&[upstream, kind, outcome, ""]);
        }
    }
    for outcome in OUTCOMES_WITH_CONTENT {
        cache.served_bytes.with_label_values(&[upstream, outcome, ""]);
    }
    if writable {
        cache.pushed_bytes.with_label_values(&[upstream]);
    }
}

fn begin_requests(metrics: &UpstreamMetrics, upstream: &str, writable: bool) {
    let writes = WRITES.iter().filter(|_| writable);
    for operation in READS.iter().chain(writes) {
        for code in UNANSWERED {
            metrics.requests.with_label_values(&[upstream, operation, code]);
        }
    }
    for outcome in TOKEN_OUTCOMES {
        metrics.token_refreshes.with_label_values(&[upstream, outcome]);
    }
    metrics.received_bytes.with_label_values(&[upstream]);
    for gate in ["reads", "writes", "hosts"] {
        metrics.breaker_open.with_label_values(&[upstream, gate]);
    }
}

fn begin_fills(fills: &FillMetrics, upstream: &str) {
    fills.resumes.with_label_values(&[upstream]);
    for reason in PULL_FAILURES {
        fills.failures.with_label_values(&[upstream, reason]);
    }
}
