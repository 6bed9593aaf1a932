//! One object that a registry chokes on: it fails by itself, and nothing else does (DESIGN §14.4).

use std::time::Duration;

use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

/// A registry with `bad/app:v1` and `good/app:v1`, and the images.
async fn registry() -> (Origin, Image, Image) {
    let (bad, good) = (Image::new(1, &[1000]), Image::new(2, &[1000]));
    let origin = Origin::with("bad/app", "v1", &bad).await;
    origin.push("good/app", "v1", &good);
    (origin, bad, good)
}

/// Pulls `good/app:v1`, of which nothing is cached.
async fn pulls_the_good_image(proxy: &Proxy, good: &Image, what: &str) {
    let answer = proxy.get(&manifest("good/app", "v1")).await;
    assert_eq!((answer.status, &answer.body), (200, &good.manifest.bytes), "{what}");
    for layer in good.layers.iter().chain([&good.config]) {
        assert_eq!(proxy.get(&blob("good/app", &layer.digest)).await.status, 200, "{what}");
    }
    assert_eq!(proxy.metric("roadstead_upstream_breaker_open", &[]), 0, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_that_fails_stops_nothing_else_of_its_registry() {
    for (what, kind, status) in [
        ("a manifest", Kind::Manifest, 500),
        ("a manifest", Kind::Manifest, 507),
        ("a layer", Kind::Blob, 500),
        ("a layer's registry", Kind::Blob, 503),
        ("referrers", Kind::Referrers, 501),
    ] {
        let (origin, bad, good) = registry().await;
        origin.fault(On::path("bad/app").of(kind), Fault::Status(status));
        let proxy = Proxy::of(&origin).await;
        for _ in 0..4 {
            for path in [
                manifest("bad/app", "v1"),
                manifest("bad/app", &bad.manifest.digest),
                blob("bad/app", &bad.layers[0].digest),
                format!("/v2/bad/app/referrers/{}", bad.manifest.digest),
            ] {
                proxy.get(&path).await;
            }
        }
        pulls_the_good_image(&proxy, &good, &format!("{what} {status}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_fails_for_one_layer_stops_nothing_else() {
    let (origin, bad, good) = registry().await;
    let storage = Origin::start().await;
    good.layers.iter().chain([&good.config]).for_each(|blob| storage.put_blob("any", blob));
    storage.fault(On::path(&bad.layers[0].digest), Fault::Status(503));
    let to = format!("http://{}/storage/{{digest}}", storage.authority());
    origin.fault(On::kind(Kind::Blob), Fault::Redirect(to));
    let mut setup = Setup::of(&origin);
    setup.config.upstreams[0].blob_hosts.push(storage.authority());
    let proxy = setup.start().await;
    for _ in 0..4 {
        assert_eq!(proxy.get(&blob("bad/app", &bad.layers[0].digest)).await.status, 502);
    }
    pulls_the_good_image(&proxy, &good, "storage 503").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_is_gone_fails_fast_and_manifests_flow() {
    let (origin, bad, good) = registry().await;
    let storage = Origin::start().await;
    let to = format!("http://{}/storage/{{digest}}", storage.authority());
    origin.fault(On::path("bad/app").of(Kind::Blob), Fault::Redirect(to));
    let mut setup = Setup::of(&origin);
    setup.config.upstreams[0].blob_hosts.push(storage.authority());
    let proxy = setup.start().await;
    storage.stop().await;
    assert_eq!(proxy.get(&blob("bad/app", &bad.layers[0].digest)).await.status, 502);
    let gate = |gate| proxy.metric("roadstead_upstream_breaker_open", &[("gate", gate)]);
    assert_eq!((gate("hosts"), gate("reads"), gate("writes")), (1, 0, 0));
    assert_eq!(proxy.get(&manifest("bad/app", "v1")).await.status, 200);
    let answer = proxy.get(&manifest("good/app", "v1")).await;
    assert_eq!((answer.status, &answer.body), (200, &good.manifest.bytes));
    assert_eq!(proxy.get(&blob("good/app", &good.layers[0].digest)).await.status, 200);

    storage.resume();
    bad.layers.iter().for_each(|blob| storage.put_blob("any", blob));
    proxy.clock().advance(Duration::from_secs(11));
    assert_eq!(proxy.get(&blob("bad/app", &bad.layers[0].digest)).await.status, 200);
    assert_eq!(gate("hosts"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_of_a_broken_object_cost_its_registry_little_and_hear_the_same() {
    let (origin, bad, _good) = registry().await;
    origin.fault(On::path("bad/app"), Fault::Status(500));
    let proxy = Proxy::of(&origin).await;
    let paths = [
        manifest("bad/app", "v1"),
        manifest("bad/app", &bad.manifest.digest),
        blob("bad/app", &bad.layers[0].digest),
        "/v2/bad/app/tags/list".to_owned(),
    ];
    for path in paths {
        let before = origin.requests().len();
        let first = proxy.get(&path).await;
        let cost = origin.requests().len() - before;
        assert_eq!(first.status, 502, "{path}");
        for _ in 0..50 {
            let next = proxy.get(&path).await;
            assert_eq!((next.status, &next.body), (first.status, &first.body), "{path}");
        }
        assert_eq!(origin.requests().len() - before, cost, "{path}");
    }
    origin.repair();
    proxy.clock().advance(Duration::from_secs(6));
    assert_eq!(proxy.get(&manifest("bad/app", "v1")).await.status, 200, "asked again soon");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_are_never_answered_hold_up_nobody_else() {
    let (origin, _bad, good) = registry().await;
    let never = Gate::new();
    origin.fault(On::path("bad/app"), Fault::HoldHead(never.clone()));
    let mut setup = Setup::of(&origin);
    setup.limits.head = Duration::from_secs(1);
    setup.limits.flight_head = Duration::from_secs(1);
    let proxy = setup.start().await;
    for tag in ["v1", "v2", "v3", "v4"] {
        assert_eq!(proxy.get(&manifest("bad/app", tag)).await.status, 504);
    }
    let pings = || origin.count(|request| request.kind == Kind::Ping);
    eventually("the registry is pinged", || pings() == 1).await;
    pulls_the_good_image(&proxy, &good, "silence").await;
    let before = origin.requests().len();
    assert_eq!(proxy.get(&manifest("bad/app", "v4")).await.status, 504);
    assert_eq!(origin.requests().len(), before, "its silence is remembered");
    never.open();
}
