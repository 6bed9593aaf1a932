//! What the cache did, and why something was refused: the same words in the access line and in the
//! metrics, for every kind of answer.

use http::Method;
use roadstead::oci::{Algorithm, Digest};

use crate::support::access_log::{self, Line};
use crate::support::client::Answer;
use crate::support::image::Image;
use crate::support::origin::{Fault, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::vendor::{DAY, Vendor, basic};

/// Outcome and reason of a line, empty where it has none.
fn told(line: &Line) -> (&str, &str) {
    let field = |name| line.get(name).map_or("", String::as_str);
    (field("outcome"), field("reason"))
}

fn requests(proxy: &Proxy, kind: &str, outcome: &str) -> i64 {
    proxy.metric("roadstead_cache_requests_total", &[("kind", kind), ("outcome", outcome)])
}

fn failures(proxy: &Proxy, route: &str, reason: &str) -> i64 {
    proxy.metric("roadstead_http_failures_total", &[("route", route), ("reason", reason)])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absence_that_cost_a_request_is_told_from_one_that_was_remembered() {
    access_log::gather();
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    let nothing = Digest::of(Algorithm::Sha256, b"nothing");
    for (name, path, kind, route) in [
        ("outcomes/blob", blob("outcomes/blob", &nothing), "blob", "blob"),
        ("outcomes/digest", manifest("outcomes/digest", &nothing), "manifest", "manifest"),
        ("outcomes/tag", manifest("outcomes/tag", "v1"), "tag", "manifest"),
        ("outcomes/tags", "/v2/outcomes/tags/tags/list".to_owned(), "tags", "tags"),
    ] {
        let before = (requests(&proxy, kind, "absent"), failures(&proxy, route, "absent"));
        assert_eq!(proxy.get(&path).await.status, 404, "{path}");
        assert_eq!(told(&access_log::line(name, 1).await), ("absent", "absent"), "{path}");
        let asked = origin.requests().len();
        assert_eq!(proxy.get(&path).await.status, 404, "{path}");
        assert_eq!(told(&access_log::line(name, 2).await), ("negative", "absent"), "{path}");
        assert_eq!(origin.requests().len(), asked, "{path}");
        proxy.settled().await;
        assert_eq!(requests(&proxy, kind, "absent"), before.0 + 1, "{path}");
        assert_eq!(requests(&proxy, kind, "negative"), 1, "{path}");
        assert_eq!(failures(&proxy, route, "absent"), before.1 + 2, "{path}");
    }
    assert_eq!(proxy.metric("roadstead_served_bytes_total", &[]), 0, "no content was served");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_sealed_upstream_does_not_have_here_has_a_word_of_its_own() {
    access_log::gather();
    let origin = Origin::start().await;
    let mut setup = Setup::new();
    setup.upstream("docker.io", &origin).sealed = true;
    let proxy = setup.start().await;
    let nothing = Digest::of(Algorithm::Sha256, b"nothing");
    for (name, path, kind, route) in [
        ("sealed-outcome/blob", blob("sealed-outcome/blob", &nothing), "blob", "blob"),
        ("sealed-outcome/tag", manifest("sealed-outcome/tag", "v1"), "tag", "manifest"),
        ("sealed-outcome/tags", "/v2/sealed-outcome/tags/tags/list".to_owned(), "tags", "tags"),
    ] {
        assert_eq!(proxy.get(&path).await.status, 404, "{path}");
        assert_eq!(told(&access_log::line(name, 1).await), ("sealed", "sealed"), "{path}");
        proxy.settled().await;
        assert_eq!((requests(&proxy, kind, "sealed"), failures(&proxy, route, "sealed")), (1, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_failures_say_what_the_cache_did() {
    access_log::gather();
    let image = Image::new(1, &[300_000]);
    let origin = Origin::with("outcomes/app", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    let layer = blob("outcomes/app", &image.layers[0].digest);
    let mut count = 0;
    let mut expect = async |answer: Answer, status: u16, outcome: &str, reason: &str| {
        count += 1;
        assert_eq!(answer.status, status);
        let line = access_log::line("outcomes/app", count).await;
        assert_eq!(told(&line), (outcome, reason), "{line:#?}");
    };
    expect(proxy.get(&manifest("outcomes/app", "v1")).await, 200, "miss", "").await;
    expect(proxy.get(&manifest("outcomes/app", "v1")).await, 200, "fresh", "").await;
    expect(proxy.get("/v2/outcomes/app/tags/list").await, 200, "relay", "").await;
    expect(proxy.head(&layer).await, 200, "miss", "").await;
    expect(proxy.get_range(&layer, "bytes=0-1,4-5").await, 400, "", "bad_request").await;
    origin.fault(On::any(), Fault::Status(500));
    expect(proxy.get(&layer).await, 502, "failed", "upstream").await;
    let listed = "/v2/outcomes/app/tags/list";
    expect(proxy.get(listed).await, 200, "stale", "").await;
    let page = format!("{listed}?n=1");
    expect(proxy.get(&page).await, 502, "failed", "upstream").await;
    proxy.settled().await;
    assert_eq!(requests(&proxy, "blob", "failed"), 1);
    assert_eq!(failures(&proxy, "tags", "upstream"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_refused_says_why_in_the_log_and_not_to_the_client() {
    access_log::gather();
    let vendor = Vendor::start().await;
    let proxy = &vendor.proxy;
    let ended = vendor.licence("acme-ended", &["myapp"], DAY);
    let ended = basic("acme-ended", &vendor.sign(&ended));
    proxy.clock().advance(2 * DAY);
    let path = "/v2/registry.test/myapp/worker/manifests/1.0";
    let attempts = |outcome| {
        proxy.metric("roadstead_auth_attempts_total", &[("scheme", "basic"), ("outcome", outcome)])
    };
    let mut neutral = Vec::new();
    for (credential, reason) in [
        (basic("ci", "wrong"), "wrong_password"),
        (basic("nobody", "wrong"), "unknown_user"),
        (ended, "licence_expired"),
    ] {
        let answer =
            proxy.request(Method::GET, path, &[("authorization", credential.as_str())]).await;
        assert_eq!(answer.status, 401, "{reason}");
        proxy.settled().await;
        assert_eq!((attempts(reason), failures(proxy, "manifest", reason)), (1, 1), "{reason}");
        neutral.push(answer.message());
    }
    assert_eq!(neutral[0], neutral[1], "who exists is not told");
    assert!(neutral[2].contains("acme-ended"), "a customer is told: {}", neutral[2]);
    let nobody = proxy.get(path).await;
    assert_eq!(nobody.status, 401);
    proxy.settled().await;
    assert_eq!(failures(proxy, "manifest", "login_needed"), 1);
    let elsewhere = "/v2/unknown.test/x/manifests/1";
    let ci = basic("ci", "ci-secret");
    assert_eq!(vendor.status(&ci, elsewhere).await, 404);
    proxy.settled().await;
    assert_eq!(failures(proxy, "manifest", "unknown_name"), 1);
}
