//! What is counted: names, labels and sums; nothing that a client can make up becomes a label.

use std::collections::BTreeSet;

use roadstead::clock::Clock;

use crate::support::client::Answer;
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, blob, manifest};

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
        "roadstead_cache_requests_total{kind,outcome,upstream}",
        "roadstead_served_bytes_total{source,upstream}",
        "roadstead_upstream_requests_total{code,operation,upstream}",
        "roadstead_upstream_request_duration_seconds_count{operation,upstream}",
        "roadstead_upstream_received_bytes_total{upstream}",
        "roadstead_upstream_breaker_open{gate,upstream}",
        "roadstead_upstream_unanswered_total{cause,upstream}",
        "roadstead_fills_in_flight",
        "roadstead_store_bytes",
        "roadstead_store_blobs",
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
                format!("BREW{n} /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
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
