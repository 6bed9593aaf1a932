//! What is counted: names, labels and sums; nothing that a client can make up becomes a label.

use std::collections::BTreeSet;
use std::time::Duration;

use roadstead::clock::Clock;

use crate::support::client::Answer;
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::vendor::Vendor;

async fn pulled() -> (Origin, Image, Proxy) {
    let image = Image::new(1, &[300_000]);
    let origin = Origin::with("acme/app", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    for _ in 0..2 {
        proxy.get(&manifest("acme/app", "v1")).await;
        proxy.get(&blob("acme/app", &image.layers[0].digest)).await;
        eventually("the blob is stored", || proxy.has_stored(&image.layers[0].digest)).await;
    }
    eventually("the last request is over", || {
        proxy.metric("roadstead_http_requests_in_flight", &[]) == 0
    })
    .await;
    (origin, image, proxy)
}

/// `name{label,label}` of every series.
fn shapes(exposition: &Answer) -> BTreeSet<String> {
    let series = exposition.text().lines().filter(|line| !line.starts_with('#'));
    series
        .map(|line| {
            let (name, labels) =
                line.rsplit_once(' ').expect("a sample").0.split_once('{').unwrap_or((line, ""));
            let keys: Vec<&str> = labels
                .split(',')
                .filter_map(|pair| pair.split_once('='))
                .map(|(key, _)| key)
                .collect();
            if keys.is_empty() {
                name.split(' ').next().unwrap_or(name).to_owned()
            } else {
                format!("{name}{{{}}}", keys.join(","))
            }
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_names_and_labels_are_the_documented_ones() {
    let (_origin, _image, proxy) = pulled().await;
    proxy.settled().await;
    let exposition = proxy.admin("/metrics").await;
    assert_eq!(exposition.status, 200);
    assert!(
        exposition
            .header("content-type")
            .is_some_and(|value| value.starts_with("text/plain; version=0.0.4"))
    );
    let shapes = shapes(&exposition);
    for expected in [
        "roadstead_http_requests_total{code,method,route}",
        "roadstead_http_request_duration_seconds_count{route}",
        "roadstead_http_requests_in_flight",
        "roadstead_http_connections",
        "roadstead_http_waiting_bytes",
        "roadstead_cache_requests_total{application,kind,outcome,upstream}",
        "roadstead_served_bytes_total{application,source,upstream}",
        "roadstead_upstream_requests_total{code,operation,upstream}",
        "roadstead_upstream_request_duration_seconds_count{operation,upstream}",
        "roadstead_upstream_received_bytes_total{upstream}",
        "roadstead_upstream_breaker_open{gate,upstream}",
        "roadstead_upstream_credential_rejected{upstream}",
        "roadstead_upstream_sealed{upstream}",
        "roadstead_upstream_unanswered_total{cause,upstream}",
        "roadstead_fills_in_flight",
        "roadstead_store_bytes",
        "roadstead_store_blobs",
        "roadstead_store_pinned_bytes",
        "roadstead_pins_unheld",
        "roadstead_store_limit_bytes",
        "roadstead_build_info{version}",
    ] {
        assert!(shapes.contains(expected), "{expected} is not among {shapes:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cold_and_a_warm_pull_add_up() {
    let (_origin, image, proxy) = pulled().await;
    let cache = |kind, outcome| {
        proxy.metric(
            "roadstead_cache_requests_total",
            &[("upstream", "docker.io"), ("kind", kind), ("outcome", outcome)],
        )
    };
    proxy.settled().await;
    assert_eq!((cache("blob", "miss"), cache("blob", "hit")), (1, 1));
    assert_eq!((cache("tag", "miss"), cache("tag", "fresh")), (1, 1));
    let size = i64::try_from(image.manifest.bytes.len() + 300_000).expect("small");
    let upstream = [("upstream", "docker.io")];
    assert_eq!(proxy.metric("roadstead_served_bytes_total", &upstream), 2 * size);
    assert_eq!(proxy.metric("roadstead_upstream_received_bytes_total", &upstream), size);
    assert_eq!(
        (proxy.metric("roadstead_store_bytes", &[]), proxy.metric("roadstead_store_blobs", &[])),
        (size, 2)
    );
    let requests = |route| {
        proxy.metric(
            "roadstead_http_requests_total",
            &[("route", route), ("method", "GET"), ("code", "200")],
        )
    };
    assert_eq!((requests("manifest"), requests("blob")), (2, 2));
    eventually("the download is over", || proxy.metric("roadstead_fills_in_flight", &[]) == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scanners_add_no_series() {
    let (_origin, _image, proxy) = pulled().await;
    let count = |answer: &Answer| answer.text().lines().count();
    for path in [
        "/v2/a/b/manifests/x",
        "/nothing",
        "/v2/evil.example/a/tags/list",
        "/v2/a/b/manifests/v1?ns=e.example",
    ] {
        proxy.get(path).await;
    }
    proxy.settled().await;
    let before = count(&proxy.admin("/metrics").await);
    for n in 0..100 {
        proxy.get(&format!("/scan/{n}")).await;
        proxy.get(&format!("/v2/evil{n}.example/a/tags/list")).await;
        proxy.get(&format!("/v2/a/b/manifests/v1?ns=e{n}.example")).await;
        proxy
            .raw(
                format!("BREW{n} /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                    .as_bytes(),
            )
            .await;
    }
    let exposition = proxy.admin("/metrics").await;
    assert!(
        !exposition.text().contains("evil")
            && !exposition.text().contains("BREW")
            && !exposition.text().contains("acme")
    );
    assert!(count(&exposition) <= before + 30, "{} lines became {}", before, count(&exposition));
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_pages_are_on_their_own_listener_only() {
    let (origin, _image, proxy) = pulled().await;
    let before = origin.requests().len();
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(proxy.admin(path).await.status, 200, "{path}");
        assert_eq!(proxy.get(path).await.status, 404, "{path} for clients");
    }
    assert_eq!(proxy.admin("/v2/").await.status, 404);
    assert_eq!(proxy.admin("/nothing").await.status, 404);
    assert_eq!(origin.requests().len(), before);
}

/// The type and the value of a metric without labels.
fn scraped(exposition: &Answer, name: &str) -> (String, f64) {
    let find = |head: &str| exposition.text().lines().find_map(|line| line.strip_prefix(head));
    let kind = find(&format!("# TYPE {name} ")).unwrap_or_else(|| panic!("{name} has no type"));
    let value = find(&format!("{name} ")).unwrap_or_else(|| panic!("{name} has no value"));
    (kind.to_owned(), value.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_process_is_described_as_prometheus_clients_do() {
    let proxy = Proxy::of(&Origin::start().await).await;
    let exposition = proxy.admin("/metrics").await;
    let value = |name: &str, kind: &str| {
        let (told, value) = scraped(&exposition, name);
        assert_eq!(told, kind, "{name}");
        value
    };
    let cpu = value("process_cpu_seconds_total", "counter");
    let started = value("process_start_time_seconds", "gauge");
    let (open, max) = (value("process_open_fds", "gauge"), value("process_max_fds", "gauge"));
    let resident = value("process_resident_memory_bytes", "gauge");
    let reserved = value("process_virtual_memory_bytes", "gauge");
    let anonymous = value("process_anonymous_memory_bytes", "gauge");
    assert!(0.0 < open && open <= max, "{open} of {max} descriptors");
    assert!(0.0 < anonymous && anonymous <= resident && resident <= reserved);
    let now = Clock::system().now().unix().as_secs_f64();
    // Boot time is told in whole seconds.
    assert!((now - 86_400.0..=now + 1.0).contains(&started), "started {started}, now {now}");
    for _ in 0..1000 {
        // Far more than the hundredth of a second that the kernel counts in.
        std::hint::black_box((0..1_000_000_u64).fold(0, |sum, n| sum ^ std::hint::black_box(n)));
        let later = proxy.admin("/metrics").await;
        if scraped(&later, "process_cpu_seconds_total").1 > cpu {
            return;
        }
    }
    panic!("work takes no CPU time");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_ahead_begins_at_zero_also_for_an_upstream_that_comes_later() {
    let origin = Origin::start().await;
    let text = |more: &str| {
        format!(
            "cache: {{ path: CACHE }}\naccess: {{ rules: [{{ who: anonymous, allow: [pull], images: ['**'] }}] }}\n\
             default_upstream: quay.io\nupstreams:\n  quay.io: {{ url: '{}' }}\n{more}",
            origin.url()
        )
    };
    let proxy = Setup::written(&text("")).start().await;
    let begun = |scrape: &Answer, upstream: &str| {
        [
            format!("cache_requests_total{{application=\"\",kind=\"blob\",outcome=\"hit\",upstream=\"{upstream}\"}}"),
            format!("cache_requests_total{{application=\"\",kind=\"tag\",outcome=\"stale\",upstream=\"{upstream}\"}}"),
            format!("served_bytes_total{{application=\"\",source=\"hit\",upstream=\"{upstream}\"}}"),
            format!("fill_failures_total{{reason=\"untrue\",upstream=\"{upstream}\"}}"),
            format!("token_refreshes_total{{outcome=\"rejected\",upstream=\"{upstream}\"}}"),
            format!("upstream_requests_total{{code=\"error\",operation=\"blob_get\",upstream=\"{upstream}\"}}"),
            format!("upstream_breaker_open{{gate=\"reads\",upstream=\"{upstream}\"}}"),
        ]
        .iter()
        .all(|series| scrape.text().contains(&format!("\nroadstead_{series} 0\n")))
    };
    let scrape = proxy.admin("/metrics").await;
    for series in [
        "http_failures_total{reason=\"login_needed\",route=\"ping\"}",
        "http_failures_total{reason=\"upstream\",route=\"manifest\"}",
        "auth_attempts_total{outcome=\"wrong_password\",scheme=\"basic\"}",
        "auth_attempts_total{outcome=\"ignored_token_expired\",scheme=\"bearer\"}",
        "store_errors_total{operation=\"write\"}",
        "evictions_total{reason=\"purge\"}",
        "evictions_total{reason=\"size\"}",
        "reloads_total{outcome=\"refused\",part=\"configuration\"}",
    ] {
        assert!(scrape.text().contains(&format!("\nroadstead_{series} 0\n")), "{series}");
    }
    assert!(begun(&scrape, "quay.io"), "{}", scrape.text());
    assert!(!scrape.text().contains("ghcr.io"));
    assert_eq!(proxy.reconfigure(&text("  ghcr.io:\n")).await, (1, 0));
    assert!(begun(&proxy.admin("/metrics").await, "ghcr.io"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_is_refused_shows_until_it_is_mended() {
    let origin = Origin::start().await;
    let good = format!(
        "cache: {{ path: CACHE }}\ndefault_upstream: quay.io\nupstreams: {{ quay.io: {{ url: '{}' }} }}\n",
        origin.url()
    );
    let proxy = Setup::written(&good).start().await;
    let state = || proxy.metric("roadstead_config_last_reload_successful", &[]);
    let at = || proxy.metric("roadstead_config_last_reload_success_timestamp_seconds", &[]);
    let now = || i64::try_from(proxy.clock().now().unix().as_secs()).expect("small");
    let started = now();
    assert_eq!((state(), at()), (1, started));
    proxy.clock().advance(Duration::from_mins(1));
    proxy.reconfigure("lisen: x").await;
    assert_eq!((state(), at()), (0, started));
    proxy.clock().advance(Duration::from_mins(1));
    proxy.reconfigure(&format!("{good}drain_delay: 1s\n")).await;
    assert_eq!((state(), at()), (1, now()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_customer_pulls_counts_for_the_application() {
    let vendor = Vendor::start().await;
    let customer = vendor.customer("acme-counted", &["myapp"]);
    let (own, public) = (
        "/v2/registry.test/myapp/worker/manifests/1.0",
        "/v2/registry.test/public/base/manifests/1.0",
    );
    for path in [own, public] {
        assert_eq!(vendor.status(&customer, path).await, 200, "{path}");
    }
    vendor.proxy.settled().await;
    for name in ["roadstead_cache_requests_total", "roadstead_served_bytes_total"] {
        let of = |application| vendor.proxy.metric(name, &[("application", application)]);
        assert!(of("myapp") > 0 && of("") > 0, "{name}");
        assert_eq!(of("other"), 0, "{name}");
    }
}
