//! A wall clock that is set, back or ahead: nothing that was to last a moment lasts longer, and what
//! is kept is not believed until the clock has come back to where it was.

use std::time::Duration;

use roadstead::clock::Timestamp;

use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::{Auth, Bearer, Fault, Kind, On, Origin};
use crate::support::proxy::{Proxy, blob, manifest};
use crate::support::vendor::{DAY, Vendor, basic};

const HOUR: Duration = Duration::from_hours(1);

/// Sets the clock of this proxy back.
fn set_back(proxy: &Proxy, by: Duration) {
    let now = proxy.clock().now().unix();
    proxy.clock().set(Timestamp::from_unix(now.checked_sub(by).expect("late enough")));
}

/// A proxy in front of `a/b:v1`.
async fn before_any_pull() -> (Origin, Image, Proxy) {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    (origin, image, proxy)
}

/// A proxy that has pulled `a/b:v1` while its clock was a day ahead.
async fn pulled_ahead() -> (Origin, Image, Proxy) {
    let (origin, image, proxy) = before_any_pull().await;
    let right = proxy.clock().now();
    proxy.clock().set(right.plus(DAY));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
    let layer = &image.layers[0].digest;
    assert_eq!(proxy.get(&blob("a/b", layer)).await.status, 200);
    eventually("the layer is stored", || proxy.has_stored(layer)).await;
    proxy.clock().set(right);
    (origin, image, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_seen_although_the_clock_was_a_day_ahead_when_it_was_pulled() {
    for restarted in [false, true] {
        let (origin, image, mut proxy) = pulled_ahead().await;
        if restarted {
            proxy.restart().await;
        }
        origin.fault(On::any(), Fault::Status(403));
        let layer = blob("a/b", &image.layers[0].digest);
        assert_eq!(proxy.get(&layer).await.status, 404, "a right; restarted: {restarted}");
        let by_digest = manifest("a/b", &image.manifest.digest);
        assert_eq!(proxy.get(&by_digest).await.status, 404, "restarted: {restarted}");
        assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 404, "restarted: {restarted}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_is_followed_although_the_clock_was_set_back() {
    let (origin, _, proxy) = pulled_ahead().await;
    let moved = Image::new(2, &[1000]);
    origin.push("a/b", "v1", &moved);
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, moved.manifest.bytes);
    // What was learnt since is as good as ever.
    let before = origin.requests().len();
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, moved.manifest.bytes);
    assert_eq!(origin.requests().len(), before);
    set_back(&proxy, HOUR);
    origin.push("a/b", "v1", &Image::new(3, &[1000]));
    assert_ne!(proxy.get(&manifest("a/b", "v1")).await.body, moved.manifest.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_told_where_a_tag_leads_now_although_its_record_is_from_ahead() {
    let (origin, image, proxy) = pulled_ahead().await;
    let moved = Image::new(2, &[1000]);
    origin.push("a/b", "v1", &moved);
    origin.fault(On::path(&moved.manifest.digest), Fault::Status(503));
    for _ in 0..2 {
        let head = proxy.head(&manifest("a/b", "v1")).await;
        let digest = head.header("docker-content-digest").map(str::to_owned);
        assert_ne!(digest, Some(image.manifest.digest.to_string()), "{}", head.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_from_a_clock_that_was_ahead_stands_in_for_nothing() {
    let (origin, image, proxy) = pulled_ahead().await;
    origin.fault(On::any(), Fault::Status(503));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 502);
    assert_eq!(proxy.get(&blob("a/b", &image.layers[0].digest)).await.status, 502);
    origin.repair();
    proxy.clock().advance(Duration::from_secs(6));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
    assert_eq!(proxy.get(&blob("a/b", &image.layers[0].digest)).await.status, 200);
    origin.fault(On::any(), Fault::Status(503));
    proxy.clock().advance(HOUR);
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200, "confirmed since");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_of_two_seconds_stays_one_of_two_seconds() {
    let (origin, _, proxy) = before_any_pull().await;
    origin.fault(On::kind(Kind::Manifest), Fault::Status(429));
    origin.fault(On::kind(Kind::Manifest), Fault::Header("Retry-After", Some("2".into())));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 429);
    origin.repair();
    set_back(&proxy, HOUR);
    let paused = proxy.get(&manifest("a/b", "v1")).await;
    assert_eq!((paused.status, paused.header("retry-after")), (429, Some("2")));
    proxy.clock().advance(Duration::from_secs(2));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_comes_back_is_asked_although_the_clock_was_set_back() {
    let (origin, _, proxy) = before_any_pull().await;
    origin.stop().await;
    for _ in 0..3 {
        assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 502);
    }
    let open = proxy.metric("roadstead_upstream_breaker_open", &[("upstream", "docker.io")]);
    assert_eq!(open, 1);
    origin.resume();
    set_back(&proxy, DAY);
    proxy.clock().advance(Duration::from_secs(11));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_absent_is_asked_for_again_although_the_clock_was_set_back() {
    let (origin, image, proxy) = before_any_pull().await;
    assert_eq!(proxy.get(&manifest("a/b", "v2")).await.status, 404);
    origin.push("a/b", "v2", &image);
    set_back(&proxy, DAY);
    proxy.clock().advance(Duration::from_secs(11));
    assert_eq!(proxy.get(&manifest("a/b", "v2")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_upstream_is_renewed_although_the_clock_was_set_back() {
    let (origin, _, proxy) = before_any_pull().await;
    origin.require(Auth::Bearer(Bearer { expires_in: Some(60), ..Bearer::default() }));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
    let tokens = || origin.count(|request| request.kind == Kind::Token);
    let before = tokens();
    set_back(&proxy, DAY);
    proxy.clock().advance(Duration::from_secs(61));
    assert_eq!(proxy.get(&manifest("a/b", "v2")).await.status, 404);
    assert_eq!(tokens(), before + 1, "it has run out");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_out_ends_although_the_clock_was_set_back() {
    let vendor = Vendor::start().await;
    let path = "/v2/registry.test/myapp/worker/manifests/1.0";
    let login = |password: &str| basic("ci", password);
    for n in 0..6 {
        vendor.status(&login(&format!("wrong {n}")), path).await;
    }
    assert_eq!(vendor.status(&login("ci-secret"), path).await, 429, "locked out");
    set_back(&vendor.proxy, DAY);
    vendor.proxy.clock().advance(Duration::from_secs(61));
    assert_eq!(vendor.status(&login("ci-secret"), path).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_ours_from_a_clock_that_was_ahead_is_not_good_for_a_day() {
    let vendor = Vendor::start().await;
    let right = vendor.proxy.clock().now();
    let path = "/v2/registry.test/myapp/worker/manifests/1.0";
    vendor.proxy.clock().set(right.plus(DAY));
    let headers = [("authorization", &*basic("ci", "ci-secret"))];
    let answer = vendor.proxy.request(http::Method::GET, "/token?service=x", &headers).await;
    let token = format!("Bearer {}", answer.json()["token"].as_str().expect("a token"));
    assert_eq!(vendor.status(&token, path).await, 200);
    vendor.proxy.clock().set(right);
    assert_eq!(vendor.status(&token, path).await, 401);
    // A moment is nothing: clocks of two machines, or a correction by NTP.
    let headers = [("authorization", &*basic("ci", "ci-secret"))];
    let answer = vendor.proxy.request(http::Method::GET, "/token?service=x", &headers).await;
    let token = format!("Bearer {}", answer.json()["token"].as_str().expect("a token"));
    set_back(&vendor.proxy, Duration::from_secs(30));
    assert_eq!(vendor.status(&token, path).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_licence_is_judged_by_the_time_that_the_clock_shows_now() {
    for sealed in [false, true] {
        let mut vendor = Vendor::start().await;
        let path = "/v2/registry.test/myapp/worker/manifests/1.0";
        let licence = vendor.licence("acme-prod", &["myapp"], DAY);
        let basic = basic("acme-prod", &vendor.sign(&licence));
        assert_eq!(vendor.status(&basic, path).await, 200);
        if sealed {
            vendor.proxy.setup().config.upstreams.iter_mut().for_each(|it| it.sealed = true);
            vendor.proxy.restart().await;
        }
        let headers = [("authorization", &*basic)];
        let answer = vendor.proxy.request(http::Method::GET, "/token?service=x", &headers).await;
        let token = format!("Bearer {}", answer.json()["token"].as_str().expect("a token"));
        let (right, end, begin) = (vendor.proxy.clock().now(), licence.expires, licence.not_before);
        let before = |time: Timestamp, by| {
            Timestamp::from_unix(time.unix().checked_sub(by).expect("late enough"))
        };
        let second = Duration::from_secs(1);
        for (time, by_licence, by_token) in [
            (right, 200, 200),
            // Ahead: a token of ours is older than its own life then, too.
            (before(end, second), 200, 401),
            (end, 401, 401),
            (end.plus(800 * DAY), 401, 401),
            // Right again: nothing of it is remembered.
            (right, 200, 200),
            // Back: to the beginning, for which clocks may differ by a minute, and beyond.
            (begin, 200, 401),
            (before(begin, 60 * second), 200, 401),
            (before(begin, 61 * second), 401, 401),
            (Timestamp::from_unix(Duration::ZERO), 401, 401),
            (right, 200, 200),
        ] {
            vendor.proxy.clock().set(time);
            let told = (vendor.status(&basic, path).await, vendor.status(&token, path).await);
            assert_eq!(told, (by_licence, by_token), "{time:?}, sealed: {sealed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_refused_at_any_time() {
    let vendor = Vendor::start().await;
    let path = "/v2/registry.test/myapp/worker/manifests/1.0";
    let basic = vendor.customer("acme-prod", &["myapp"]);
    assert_eq!(vendor.status(&basic, path).await, 200);
    let right = vendor.proxy.clock().now();
    let line = roadstead::licence::revocation_line(
        &roadstead::licence::LicenceId::parse("acme-prod").expect("an id"),
        right,
        None,
    );
    std::fs::write(vendor.proxy.directory().join("revoked"), line).expect("a writable file");
    vendor.proxy.reload();
    let loaded = [("part", "revocations"), ("outcome", "loaded")];
    let loaded = || vendor.proxy.metric("roadstead_reloads_total", &loaded);
    eventually("it is loaded", || loaded() > 0).await;
    let back = Timestamp::from_unix(right.unix().checked_sub(DAY).expect("late enough"));
    for time in [right, right.plus(30 * DAY), back] {
        vendor.proxy.clock().set(time);
        assert_eq!(vendor.status(&basic, path).await, 401, "{time:?}");
    }
}
