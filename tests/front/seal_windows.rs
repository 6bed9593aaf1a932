//! A sealed upstream that a command opens for a while (SEAL-2).

use std::time::Duration;

use roadstead::clock::Clock;
use serde_json::{Value, json};

use crate::support::control::{ask, command, order};
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, manifest};

/// Two upstreams, of which the first is sealed; both have `a/b:v1` to `a/b:v9`.
async fn sealed(clock: Option<Clock>) -> (Origin, Proxy) {
    let origin = Origin::start().await;
    for n in 1..=9 {
        origin.push("a/b", &format!("v{n}"), &Image::new(n, &[]));
    }
    let mut setup = Setup::new();
    setup.upstream("docker.io", &origin).sealed = true;
    setup.upstream("quay.io", &origin);
    setup.clock = clock.unwrap_or(setup.clock);
    (origin, setup.start().await)
}

async fn open(proxy: &Proxy, seconds: u64) -> Value {
    let (status, answer) =
        order(proxy, "/v1/seal", &json!({ "upstream": "docker.io", "open_for": seconds })).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

async fn status_of(proxy: &Proxy, tag: u64) -> u16 {
    proxy.get(&manifest("a/b", format!("v{tag}"))).await.status
}

fn shown(proxy: &Proxy) -> i64 {
    proxy.metric("roadstead_upstream_sealed", &[("upstream", "docker.io")])
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_open_for_so_long_and_ends_by_itself() {
    let (_origin, proxy) = sealed(None).await;
    assert_eq!(status_of(&proxy, 1).await, 404);
    let opened = open(&proxy, 600).await;
    let expected =
        json!({ "upstream": "docker.io", "configured": true, "sealed": false, "open_for": 600.0 });
    assert_eq!(opened, expected);
    assert_eq!((status_of(&proxy, 1).await, shown(&proxy)), (200, 0));
    // Setting the wall clock, ahead or back, changes nothing.
    let right = proxy.clock().now();
    for time in [right.plus(Duration::from_hours(2)), right] {
        proxy.clock().set(time);
        assert_eq!(ask(&proxy, "/v1/seal").await.1["upstreams"][0]["open_for"], 600.0);
    }
    proxy.clock().advance(Duration::from_secs(599));
    assert_eq!(status_of(&proxy, 2).await, 200);
    proxy.clock().advance(Duration::from_secs(1));
    assert_eq!((status_of(&proxy, 3).await, status_of(&proxy, 2).await), (404, 200));
    let upstreams = json!([
        { "upstream": "docker.io", "configured": true, "sealed": true, "open_for": null },
        { "upstream": "quay.io", "configured": false, "sealed": false, "open_for": null },
    ]);
    assert_eq!(ask(&proxy, "/v1/seal").await, (200, json!({ "upstreams": upstreams })));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_left_open_is_closed_at_its_end_though_nobody_asks() {
    let (origin, proxy) = sealed(Some(Clock::system())).await;
    open(&proxy, 1).await;
    assert_eq!((status_of(&proxy, 1).await, shown(&proxy)), (200, 0));
    let connections = origin.connections();
    eventually("it is sealed again", || shown(&proxy) == 1).await;
    assert_eq!(status_of(&proxy, 2).await, 404);
    open(&proxy, 60).await;
    assert_eq!(status_of(&proxy, 2).await, 200);
    assert!(origin.connections() > connections, "by a new connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_sealed_early_opened_for_longer_and_not_open_after_a_restart() {
    let (_origin, mut proxy) = sealed(None).await;
    open(&proxy, 60).await;
    proxy.clock().advance(Duration::from_secs(59));
    open(&proxy, 60).await;
    proxy.clock().advance(Duration::from_secs(59));
    assert_eq!(status_of(&proxy, 1).await, 200, "counted anew");
    assert_eq!(open(&proxy, 0).await["sealed"], true);
    assert_eq!((status_of(&proxy, 2).await, shown(&proxy)), (404, 1));
    assert_eq!(open(&proxy, 0).await["sealed"], true, "it is already");
    open(&proxy, 600).await;
    assert_eq!(status_of(&proxy, 2).await, 200);
    proxy.restart().await;
    assert_eq!((status_of(&proxy, 3).await, shown(&proxy)), (404, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_leaves_it_open_and_taking_the_seal_off_ends_it() {
    let origin = Origin::with("a/b", "v1", &Image::new(1, &[])).await;
    let text = |sealed: bool, more: &str| {
        format!(
            "cache: {{ path: CACHE, min_free: 1MiB }}\ndrain_delay: 0s\nupstreams:\n  \
             docker.io: {{ url: '{}', sealed: {sealed}, {more} }}\n",
            origin.url()
        )
    };
    let proxy = Setup::written(&text(true, "")).start().await;
    open(&proxy, 600).await;
    proxy.reconfigure(&text(true, "page_limit: 7")).await;
    assert_eq!((status_of(&proxy, 1).await, shown(&proxy)), (200, 0));
    proxy.reconfigure(&text(false, "")).await;
    let (status, answer) =
        order(&proxy, "/v1/seal", &json!({ "upstream": "docker.io", "open_for": 9 })).await;
    assert_eq!((status, shown(&proxy)), (409, 0), "{answer}");
    proxy.reconfigure(&text(true, "")).await;
    assert_eq!((status_of(&proxy, 2).await, shown(&proxy)), (404, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_order_is_told_and_changes_nothing() {
    let (_origin, proxy) = sealed(None).await;
    for (wrong, status, part) in [
        (json!({ "upstream": "nowhere.test", "open_for": 9 }), 400, "docker.io, quay.io"),
        (json!({ "upstream": "quay.io", "open_for": 9 }), 409, "is not sealed"),
        (json!({ "upstream": "docker.io", "open_for": 86_401 }), 400, "24 h"),
        (json!({ "upstream": "docker.io", "open_for": -1 }), 400, "cannot be read"),
        (json!({ "upstream": "docker.io" }), 400, "open_for"),
        (json!({ "upstream": "docker.io", "open_for": 9, "for": 9 }), 400, "for"),
    ] {
        let (told, answer) = order(&proxy, "/v1/seal", &wrong).await;
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(told == status && error.contains(part), "{wrong}: {told} {error}");
    }
    assert_eq!(status_of(&proxy, 1).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_opens_closes_and_shows() {
    let (_origin, mut proxy) = sealed(None).await;
    let says = |arguments: &[&str]| {
        let (code, out, err) = command(&proxy, arguments);
        assert_eq!(code, Some(0), "{err}");
        out
    };
    assert_eq!(says(&["seal"]), "docker.io  sealed\nquay.io  not sealed\n");
    let opened = says(&["seal", "docker.io", "--open-for", "10m"]);
    assert_eq!(opened, "docker.io  open for 600 s, then sealed\n");
    assert_eq!(status_of(&proxy, 1).await, 200);
    assert_eq!(says(&["seal", "--close", "docker.io"]), "docker.io  sealed\n");
    assert_eq!(status_of(&proxy, 2).await, 404);
    let json: Value = serde_json::from_str(&says(&["seal", "--json"])).expect("JSON");
    assert_eq!(json["upstreams"].as_array().map(Vec::len), Some(2));
    for (arguments, part) in [
        (&["seal", "quay.io", "--open-for", "10m"][..], "is not sealed"),
        (&["seal", "nowhere.test", "--open-for", "10m"], "no upstream"),
        (&["seal", "nowhere.test"], "no upstream"),
    ] {
        let (code, _, err) = command(&proxy, arguments);
        assert!(code == Some(1) && err.contains(part), "{arguments:?}: {err}");
    }
    for wrong in [&["seal", "--open-for", "10m"][..], &["seal", "docker.io", "--open-for", "0s"]] {
        assert_eq!(command(&proxy, wrong).0, Some(2), "{wrong:?}");
    }
    proxy.stop().await;
    let (code, _, err) = command(&proxy, &["seal", "docker.io", "--open-for", "10m"]);
    assert!(code == Some(1) && err.contains("no server runs here"), "{err}");
}
