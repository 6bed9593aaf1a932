//! Tags: the only thing that changes. Believed for a while, checked with HEAD, served stale when
//! upstream cannot say.

use std::time::Duration;

use tokio::time::Instant;

use crate::support::client::Answer;
use crate::support::image::Image;
use crate::support::origin::{Fault, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, manifest};

const TTL: Duration = Duration::from_secs(301);

fn heads(origin: &Origin) -> usize {
    origin.count(|request| request.is_head(Kind::Manifest))
}

fn gets(origin: &Origin) -> usize {
    origin.count(|request| request.is_get(Kind::Manifest))
}

/// An origin and a proxy that has pulled `a/b:v1` from it.
async fn pulled() -> (Origin, Image, Proxy) {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, image.manifest.bytes);
    (origin, image, proxy)
}

fn assert_serves(answer: &Answer, image: &Image, what: &str) {
    assert_eq!((answer.status, &answer.body), (200, &image.manifest.bytes), "{what}");
}

fn assert_stale(answer: &Answer, image: &Image, what: &str) {
    assert_serves(answer, image, what);
    let warning = answer.header("warning").unwrap_or_else(|| panic!("{what}: no Warning"));
    assert!(warning.starts_with("299 - \"") && warning.ends_with('"'), "{what}: {warning}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_believed_for_its_ttl_and_then_checked_with_head() {
    let (origin, image, proxy) = pulled().await;
    let path = manifest("a/b", "v1");
    let (first_heads, first_gets) = (heads(&origin), gets(&origin));
    for _ in 0..3 {
        assert_serves(&proxy.get(&path).await, &image, "fresh");
    }
    assert_eq!(
        (heads(&origin), gets(&origin)),
        (first_heads, first_gets),
        "within the TTL nobody is asked"
    );

    proxy.clock().advance(TTL);
    assert_serves(&proxy.get(&path).await, &image, "revalidated");
    assert_serves(&proxy.get(&path).await, &image, "fresh again");
    assert_eq!(
        (heads(&origin), gets(&origin)),
        (first_heads + 1, first_gets),
        "one HEAD, which costs no quota"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_is_followed_after_its_ttl() {
    let (origin, image, proxy) = pulled().await;
    let moved = Image::new(2, &[10]);
    origin.push("a/b", "v1", &moved);
    assert_serves(&proxy.get(&manifest("a/b", "v1")).await, &image, "within the TTL");
    proxy.clock().advance(TTL);
    assert_serves(&proxy.get(&manifest("a/b", "v1")).await, &moved, "after it");
    assert_serves(
        &proxy.get(&manifest("a/b", &image.manifest.digest)).await,
        &image,
        "the old one by digest",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_within_its_ttl_is_followed_once_its_manifest_is_gone() {
    let (old, new) = (Image::new(1, &[10]), Image::new(2, &[10]));
    let origin = Origin::with("a/b", "v1", &old).await;
    let proxy = Proxy::of(&origin).await;
    let path = manifest("a/b", "v1");
    assert_eq!(
        proxy.head(&path).await.header("docker-content-digest"),
        Some(old.manifest.digest.as_str())
    );
    origin.push("a/b", "v1", &new);
    origin.remove_manifest("a/b", &old.manifest.digest);
    proxy.clock().advance(Duration::from_secs(1));
    assert_serves(&proxy.get(&path).await, &new, "once the old one is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_upstream_leaves_the_last_known_tag_with_a_warning() {
    for (what, fault) in [
        ("500", Fault::Status(500)),
        ("503", Fault::Status(503)),
        ("429", Fault::Status(429)),
        ("hang-up", Fault::Hangup),
    ] {
        let (origin, image, proxy) = pulled().await;
        proxy.clock().advance(TTL);
        origin.fault(On::any(), fault);
        assert_stale(&proxy.get(&manifest("a/b", "v1")).await, &image, what);
        let head = proxy.head(&manifest("a/b", "v1")).await;
        assert_eq!(
            head.header("docker-content-digest"),
            Some(image.manifest.digest.as_str()),
            "{what}"
        );
        proxy.settled().await;
        assert!(
            proxy
                .metric("roadstead_cache_requests_total", &[("kind", "tag"), ("outcome", "stale")])
                >= 2,
            "{what}"
        );
        origin.repair();
        proxy.clock().advance(Duration::from_secs(3601));
        let answer = proxy.get(&manifest("a/b", "v1")).await;
        assert_serves(&answer, &image, what);
        assert_eq!(answer.header("warning"), None, "{what}: repaired");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_tag_is_served_no_longer_than_allowed() {
    let (origin, _image, proxy) = pulled().await;
    origin.stop().await;
    proxy.clock().advance(Duration::from_secs(24 * 3600 + 301));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.refusal(), (502, "UNAVAILABLE".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_or_a_deletion_is_never_masked() {
    for status in [401, 403, 404] {
        let (origin, _image, proxy) = pulled().await;
        proxy.clock().advance(TTL);
        // Only the tag is refused: its last digest could still be had, and must not be.
        origin.fault(On::path("/manifests/v1"), Fault::Status(status));
        assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 404, "{status}");
        assert_eq!(proxy.head(&manifest("a/b", "v1")).await.status, 404, "{status}");
        origin.stop().await;
        proxy.clock().advance(TTL);
        let answer = proxy.get(&manifest("a/b", "v1")).await;
        assert!(
            matches!(answer.status, 404 | 502),
            "{status}: a denied tag does not come back as stale: {answer:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_deleted_upstream_is_gone_after_its_ttl_and_comes_back_when_it_does() {
    let (origin, image, proxy) = pulled().await;
    origin.untag("a/b", "v1");
    assert_serves(&proxy.get(&manifest("a/b", "v1")).await, &image, "within the TTL");
    proxy.clock().advance(TTL);
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.refusal(), (404, "MANIFEST_UNKNOWN".into()));
    assert_serves(
        &proxy.get(&manifest("a/b", &image.manifest.digest)).await,
        &image,
        "the digest is another matter",
    );
    origin.tag("a/b", "v1", &image.manifest.digest);
    proxy.clock().advance(Duration::from_secs(11));
    assert_serves(&proxy.get(&manifest("a/b", "v1")).await, &image, "tagged again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_upstream_costs_a_stale_tag_little_time() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let mut setup = Setup::of(&origin);
    setup.limits.revalidate = Duration::from_millis(100);
    let proxy = setup.start().await;
    proxy.get(&manifest("a/b", "v1")).await;
    proxy.clock().advance(TTL);
    origin.fault(On::any(), Fault::HoldHead(crate::support::origin::Gate::new()));
    let asked = Instant::now();
    assert_stale(&proxy.get(&manifest("a/b", "v1")).await, &image, "silent");
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_answers_at_once_while_upstream_is_known_to_be_down() {
    let (origin, image, proxy) = pulled().await;
    origin.stop().await;
    proxy.clock().advance(TTL);
    for _ in 0..3 {
        assert_stale(&proxy.get(&manifest("a/b", "v1")).await, &image, "down");
    }
    assert_eq!(proxy.metric("roadstead_upstream_breaker_open", &[("upstream", "docker.io")]), 1);
    let asked = Instant::now();
    assert_stale(&proxy.get(&manifest("a/b", "v1")).await, &image, "known to be down");
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_seen_only_by_head_is_neither_stale_nor_durable() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let mut proxy = Proxy::of(&origin).await;
    assert_eq!(proxy.head(&manifest("a/b", "v1")).await.status, 200);
    proxy.restart().await;
    origin.stop().await;
    assert_eq!(proxy.head(&manifest("a/b", "v1")).await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_by_tag_and_a_get_by_digest_make_a_durable_tag() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let mut proxy = Proxy::of(&origin).await;
    proxy.head(&manifest("a/b", "v1")).await;
    proxy.get(&manifest("a/b", &image.manifest.digest)).await;
    proxy.restart().await;
    origin.stop().await;
    proxy.clock().advance(TTL);
    assert_stale(
        &proxy.get(&manifest("a/b", "v1")).await,
        &image,
        "what containerd and dockerd do",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_of_two_upstreams_do_not_mix() {
    let (one, two) = (Image::new(1, &[10]), Image::new(2, &[10]));
    let (hub, quay) =
        (Origin::with("a/b", "v1", &one).await, Origin::with("a/b", "v1", &two).await);
    let mut setup = Setup::of(&hub);
    setup.upstream("quay.io", &quay);
    let proxy = setup.start().await;
    for _ in 0..2 {
        assert_serves(&proxy.get("/v2/a/b/manifests/v1?ns=docker.io").await, &one, "docker.io");
        assert_serves(&proxy.get("/v2/a/b/manifests/v1?ns=quay.io").await, &two, "quay.io");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_docker_hub_says_of_its_limit_is_a_metric_and_goes_no_further() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    origin.fault(
        On::kind(Kind::Manifest),
        Fault::Header("ratelimit-limit", Some("100;w=21600".into())),
    );
    origin.fault(
        On::kind(Kind::Manifest),
        Fault::Header("ratelimit-remaining", Some("76;w=21600".into())),
    );
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get(&manifest("a/b", "v1")).await;
    assert_eq!(
        (answer.header("ratelimit-remaining"), answer.header("ratelimit-limit")),
        (None, None)
    );
    let metric = |name| proxy.metric(name, &[("upstream", "docker.io")]);
    assert_eq!(metric("roadstead_upstream_rate_limit_remaining"), 76);
    assert_eq!(metric("roadstead_upstream_rate_limit_limit"), 100);
    assert_eq!(metric("roadstead_upstream_rate_limit_window_seconds"), 21_600);
}
