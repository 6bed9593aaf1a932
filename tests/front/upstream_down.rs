//! An upstream that is gone: what is cached is served, what is not fails fast.

use std::time::Duration;

use roadstead::oci::{Algorithm, Digest};
use tokio::time::Instant;

use crate::support::access_log;
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::{Fault, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

/// A proxy that has pulled `a/b:v1` whole.
async fn pulled() -> (Origin, Image, Proxy) {
    let image = Image::new(1, &[300_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    proxy.get(&manifest("a/b", "v1")).await;
    proxy.get(&blob("a/b", &image.layers[0].digest)).await;
    eventually("the blob is stored", || proxy.has_stored(&image.layers[0].digest)).await;
    (origin, image, proxy)
}

async fn serves_the_image(proxy: &Proxy, image: &Image) {
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, image.manifest.bytes);
    assert_eq!(
        proxy.get(&manifest("a/b", &image.manifest.digest)).await.body,
        image.manifest.bytes
    );
    let layer = &image.layers[0];
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_is_served_fresh_and_stale() {
    let (origin, image, proxy) = pulled().await;
    origin.stop().await;
    serves_the_image(&proxy, &image).await;
    proxy.clock().advance(Duration::from_hours(1));
    serves_the_image(&proxy, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_pulled_fails_within_a_second_and_then_at_once() {
    let (origin, _image, proxy) = pulled().await;
    origin.stop().await;
    let unknown = Digest::of(Algorithm::Sha256, b"nobody has this");
    let paths = [
        manifest("a/b", "v2"),
        manifest("a/b", &unknown),
        blob("a/b", &unknown),
        "/v2/a/b/tags/list".into(),
    ];
    for path in &paths {
        let asked = Instant::now();
        assert_eq!(proxy.get(path).await.refusal(), (502, "UNAVAILABLE".into()), "{path}");
        assert!(asked.elapsed() < Duration::from_secs(1), "{path}: {:?}", asked.elapsed());
    }
    assert_eq!(proxy.metric("roadstead_upstream_breaker_open", &[("upstream", "docker.io")]), 1);
    for path in &paths {
        let asked = Instant::now();
        assert_eq!(proxy.get(path).await.status, 502, "{path}");
        assert!(asked.elapsed() < Duration::from_millis(100), "{path}: {:?}", asked.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_during_the_outage_changes_nothing() {
    let (origin, image, mut proxy) = pulled().await;
    origin.stop().await;
    proxy.stop().await;
    let began = Instant::now();
    proxy.start().await;
    assert_eq!(proxy.admin("/readyz").await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    serves_the_image(&proxy, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_comes_back_is_used_after_the_pause() {
    let (origin, _image, proxy) = pulled().await;
    let layer = origin.blob("a/b", 7, 1000);
    origin.stop().await;
    for _ in 0..3 {
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.status, 502);
    }
    origin.resume();
    let before = origin.connections();
    assert_eq!(
        proxy.get(&blob("a/b", &layer.digest)).await.status,
        502,
        "nobody is bothered during the pause"
    );
    assert_eq!(origin.connections(), before);
    proxy.clock().advance(Duration::from_secs(61));
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    assert_eq!(proxy.metric("roadstead_upstream_breaker_open", &[("upstream", "docker.io")]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_upstream_down_leaves_the_others_alone() {
    let (hub, quay) = (Origin::start().await, Origin::start().await);
    let layer = quay.blob("a/b", 1, 1000);
    let mut setup = crate::support::proxy::Setup::of(&hub);
    setup.upstream("quay.io", &quay);
    let proxy = setup.start().await;
    hub.stop().await;
    for _ in 0..3 {
        assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 502);
    }
    assert_eq!(proxy.get(&blob("quay.io/a/b", &layer.digest)).await.digest(), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_registry_is_left_alone_or_throttles_is_one_warning_and_not_one_for_each_request() {
    access_log::gather();
    for (upstream, word) in [("gone.test", "left alone"), ("busy.test", "limits the rate")] {
        let origin = Origin::start().await;
        let text = format!(
            "cache: {{ path: CACHE }}\ndefault_upstream: {upstream}\n\
             access: {{ rules: [{{ who: anonymous, allow: [pull], images: ['**'] }}] }}\n\
             upstreams: {{ {upstream}: {{ url: '{}' }} }}\n",
            origin.url()
        );
        let proxy = Setup::written(&text).start().await;
        if upstream == "gone.test" {
            origin.stop().await;
        } else {
            origin.fault(On::path("a/b"), Fault::Status(429));
        }
        for tag in ["v1", "v2", "v3", "v4", "v5", "v6"] {
            assert!(proxy.get(&manifest("a/b", tag)).await.status >= 429);
        }
        let told = access_log::warnings("upstream", upstream);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains(word), "{told:?}");
    }
}
