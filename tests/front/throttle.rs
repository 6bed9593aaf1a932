//! 429 from upstream: asked once, told to everyone, and only what is limited stops (DESIGN §14.4).

use std::time::Duration;

use crate::support::image::Image;
use crate::support::origin::{Fault, Kind, On, Origin};
use crate::support::proxy::{Proxy, blob, manifest};

/// A proxy that has pulled `a/b:v1`, and an origin that now limits manifests for 30 s.
async fn throttled(retry_after: Option<&str>) -> (Origin, Image, Proxy) {
    let image = Image::new(1, &[300_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
    let plain = Fault::Instead(429, "text/plain", "Too Many Requests\n".into());
    origin.fault(On::kind(Kind::Manifest), plain);
    origin.fault(
        On::kind(Kind::Manifest),
        Fault::Header("Retry-After", retry_after.map(str::to_owned)),
    );
    (origin, image, proxy)
}

fn manifests(origin: &Origin) -> usize {
    origin.count(|request| request.kind == Kind::Manifest)
}

#[tokio::test(flavor = "multi_thread")]
async fn five_requests_for_an_uncached_tag_cost_one() {
    let (origin, _image, proxy) = throttled(Some("30")).await;
    let before = manifests(&origin);
    for n in 0..5 {
        let answer = proxy.get(&manifest("a/b", "v2")).await;
        assert_eq!(answer.refusal(), (429, "TOOMANYREQUESTS".into()), "request {n}");
        assert_eq!(answer.header("retry-after"), Some("30"), "request {n}");
    }
    assert_eq!(manifests(&origin), before + 1);

    proxy.clock().advance(Duration::from_secs(12));
    assert_eq!(
        proxy.get(&manifest("a/b", "v2")).await.header("retry-after"),
        Some("18"),
        "the seconds that remain"
    );
    assert_eq!(manifests(&origin), before + 1);

    proxy.clock().advance(Duration::from_secs(19));
    origin.repair();
    assert_eq!(
        proxy.get(&manifest("a/b", "v2")).await.status,
        404,
        "asked again when the time is over"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_tags_are_served_and_blobs_still_flow() {
    let (origin, image, proxy) = throttled(Some("30")).await;
    assert_eq!(proxy.get(&manifest("a/b", "v2")).await.status, 429);
    proxy.clock().advance(Duration::from_secs(301));
    for _ in 0..2 {
        let stale = proxy.get(&manifest("a/b", "v1")).await;
        assert_eq!((stale.status, &stale.body), (200, &image.manifest.bytes));
    }
    let layer = &image.layers[0];
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    assert_eq!(origin.blob_gets(&layer.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_without_or_with_an_absurd_time_is_bounded() {
    for (said, told) in [(None, "10"), (Some("999999999"), "3600"), (Some("soon"), "10")] {
        let (_origin, _image, proxy) = throttled(said).await;
        let answer = proxy.get(&manifest("a/b", "v2")).await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some(told)), "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_blobs_leaves_manifests_alone() {
    let image = Image::new(1, &[300_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    origin.fault(On::kind(Kind::Blob), Fault::Status(429));
    let answer = proxy.get(&blob("a/b", &image.layers[0].digest)).await;
    assert_eq!(answer.refusal(), (429, "TOOMANYREQUESTS".into()));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_an_hour_is_told_as_it_came_and_asked_about_after_a_minute() {
    let (origin, _image, proxy) = throttled(Some("3600")).await;
    assert_eq!(proxy.get(&manifest("a/b", "v2")).await.header("retry-after"), Some("3600"));
    let before = manifests(&origin);
    proxy.clock().advance(Duration::from_mins(1));
    for _ in 0..5 {
        let answer = proxy.get(&manifest("a/b", "v2")).await;
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("3600")));
    }
    assert_eq!(manifests(&origin), before + 1, "one request asks");
    origin.repair();
    proxy.clock().advance(Duration::from_mins(1));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
    assert_eq!(proxy.get(&manifest("a/b", "v2")).await.status, 404);
}
