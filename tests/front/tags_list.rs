//! `tags/list`: the client's own name, links that lead back here, every page reachable (TAG-1 to
//! TAG-5).

use std::time::Duration;

use crate::support::client::Answer;
use crate::support::eventually;
use crate::support::image::{Manifest, OCI_MANIFEST};
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup};

/// `v0000` and so on, all one manifest.
fn tagged(origin: &Origin, count: usize) -> Vec<String> {
    let odd = Manifest::new(OCI_MANIFEST, "{ }");
    origin.put_manifest("acme/app", &odd);
    let tags: Vec<String> = (0..count).map(|n| format!("v{n:04}")).collect();
    for tag in &tags {
        origin.tag("acme/app", tag, &odd.digest);
    }
    tags
}

fn tags_of(answer: &Answer) -> Vec<String> {
    let list = answer.json()["tags"].clone();
    serde_json::from_value(list).unwrap_or_else(|_| panic!("no list of tags: {}", answer.text()))
}

/// The target of `Link`, which must be a path of ours.
fn next(answer: &Answer) -> Option<String> {
    let link = answer.header("link")?;
    let target = link
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix(">; rel=\"next\""))
        .expect("one next link");
    assert!(target.starts_with('/') && !target.starts_with("//"), "{link}");
    Some(target.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pages_can_be_followed_under_the_name_the_client_used() {
    for absolute in [false, true] {
        let origin = Origin::start().await;
        let tags = tagged(&origin, 2500);
        origin.page(100, absolute);
        let proxy = Proxy::of(&origin).await;
        for (start, name, prefix) in [
            ("/v2/acme/app/tags/list", "acme/app", "/v2/acme/app/tags/list?"),
            (
                "/v2/docker.io/acme/app/tags/list",
                "docker.io/acme/app",
                "/v2/docker.io/acme/app/tags/list?",
            ),
            ("/v2/acme/app/tags/list?ns=docker.io", "acme/app", "/v2/acme/app/tags/list?"),
            ("/docker.io/v2/acme/app/tags/list", "acme/app", "/docker.io/v2/acme/app/tags/list?"),
        ] {
            let (mut seen, mut path, mut pages) = (Vec::new(), start.to_owned(), 1);
            loop {
                let answer = proxy.get(&path).await;
                assert_eq!(
                    (answer.status, answer.json()["name"].as_str()),
                    (200, Some(name)),
                    "{path}"
                );
                assert_eq!(answer.header("content-type"), Some("application/json"));
                seen.extend(tags_of(&answer));
                let Some(target) = next(&answer) else { break };
                assert!(target.starts_with(prefix), "{target} after {path}");
                assert_eq!(
                    target.contains("ns=docker.io"),
                    start.contains("ns="),
                    "{target} after {path}"
                );
                (path, pages) = (target, pages + 1);
            }
            assert_eq!((seen == tags, pages), (true, 25), "{start}");
        }
        assert!(origin.requests().iter().all(|request| !request.query.contains("ns=")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n_and_last_go_through() {
    let origin = Origin::start().await;
    tagged(&origin, 10);
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get("/v2/acme/app/tags/list?n=3&last=v0004").await;
    assert_eq!(
        (tags_of(&answer), next(&answer).is_some()),
        (["v0005", "v0006", "v0007"].map(str::to_owned).into(), true)
    );
    let none = proxy.get("/v2/acme/app/tags/list?n=0").await;
    assert_eq!((none.status, tags_of(&none), next(&none)), (200, Vec::new(), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_no_larger_than_upstream_takes() {
    let origin = Origin::start().await;
    tagged(&origin, 10);
    let mut setup = Setup::new();
    setup.upstream("quay.io", &origin).page_limit = Some(4);
    let proxy = setup.start().await;
    let answer = proxy.get("/v2/acme/app/tags/list?n=1000").await;
    assert_eq!((tags_of(&answer).len(), next(&answer).is_some()), (4, true));
    let asked =
        origin.requests().iter().find(|r| r.kind == Kind::Tags).and_then(|r| r.parameter("n"));
    assert_eq!(asked.as_deref(), Some("4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tags_are_an_empty_list() {
    let origin = Origin::start().await;
    let body = "{\"name\":\"acme/app\",\"tags\":null}";
    origin.fault(On::kind(Kind::Tags), Fault::Instead(200, "application/json", body.into()));
    let proxy = Proxy::of(&origin).await;
    assert_eq!(proxy.get("/v2/acme/app/tags/list").await.json()["tags"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_to_another_host_leads_back_here() {
    let origin = Origin::start().await;
    tagged(&origin, 1);
    let link = "<http://evil.example:1/v2/acme/app/tags/list?next_page=a%2Bb&x=1>; rel=\"next\"";
    origin.fault(On::kind(Kind::Tags), Fault::Header("Link", Some(link.into())));
    let proxy = Proxy::of(&origin).await;
    let target = next(&proxy.get("/v2/acme/app/tags/list?ns=docker.io").await).expect("a link");
    assert!(target.starts_with("/v2/acme/app/tags/list?") && !target.contains("evil"), "{target}");
    for kept in ["next_page=a%2Bb", "x=1", "ns=docker.io"] {
        assert!(target.contains(kept), "{kept} in {target}");
    }
    proxy.get(&target).await;
    let last = origin.requests().pop().expect("it was asked");
    assert_eq!(last.query, "next_page=a%2Bb&x=1", "opaque, byte for byte");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_repository_is_a_404() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    assert_eq!(proxy.get("/v2/acme/app/tags/list").await.refusal(), (404, "NAME_UNKNOWN".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_list_of_tags_is_refused() {
    let wrong = "sent something wrong";
    for (what, body, why) in [
        ("HTML", "<h1>Log in</h1>".to_owned(), wrong),
        ("more than 16 MiB", large_list(16 << 20), "larger than this proxy takes"),
        ("numbers", "{\"tags\":[1,2]}".to_owned(), wrong),
        ("an object", "{\"tags\":{\"a\":\"b\"}}".to_owned(), wrong),
    ] {
        let origin = Origin::start().await;
        origin.fault(On::kind(Kind::Tags), Fault::Instead(200, "application/json", body.into()));
        let proxy = Proxy::of(&origin).await;
        let refused = proxy.get("/v2/acme/app/tags/list").await;
        assert_eq!(refused.refusal(), (502, "UNAVAILABLE".into()), "{what}");
        assert!(refused.text().contains(why), "{what}: {}", refused.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_was_given_stands_in_for_a_while_when_upstream_is_down() {
    let origin = Origin::start().await;
    let tags = tagged(&origin, 5);
    let proxy = Proxy::of(&origin).await;
    let path = "/v2/acme/app/tags/list?n=3";
    let fresh = proxy.get(path).await;
    assert_eq!((tags_of(&fresh), fresh.header("warning")), (tags[..3].to_vec(), None));
    for fault in [Fault::Status(503), Fault::Status(429), Fault::Hangup] {
        origin.repair();
        origin.fault(On::kind(Kind::Tags), fault.clone());
        proxy.clock().advance(Duration::from_hours(2));
        let stale = proxy.get(path).await;
        assert_eq!(tags_of(&stale), tags[..3], "{fault:?}");
        assert_eq!(next(&stale), next(&fresh), "{fault:?}");
        assert!(stale.header("warning").is_some_and(|of| of.starts_with("299")), "{fault:?}");
        assert_ne!(proxy.get("/v2/acme/app/tags/list").await.status, 200, "{fault:?}: never given");
    }
    proxy.clock().advance(Duration::from_hours(24));
    assert_ne!(proxy.get(path).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_does_not_stand_in_for_a_list_that_was_refused_or_is_gone() {
    for status in [401, 403, 404] {
        let origin = Origin::start().await;
        tagged(&origin, 5);
        let proxy = Proxy::of(&origin).await;
        for page in ["", "?n=2"] {
            assert_eq!(proxy.get(&format!("/v2/acme/app/tags/list{page}")).await.status, 200);
        }
        proxy.clock().advance(Duration::from_secs(1));
        origin.fault(On::kind(Kind::Tags), Fault::Status(status));
        assert_eq!(proxy.get("/v2/acme/app/tags/list").await.status, 404, "{status}");
        origin.stop().await;
        proxy.clock().advance(Duration::from_secs(11));
        for page in ["", "?n=2"] {
            let path = format!("/v2/acme/app/tags/list{page}");
            assert_eq!(proxy.get(&path).await.status, 502, "{status} {page}");
        }
    }
}

/// A list of tags of a little more than so many bytes, with white space and escapes as upstream
/// likes.
fn large_list(bytes: usize) -> String {
    let tags: Vec<String> = (0..bytes / 20).map(|n| format!("\"a\\u0062-{n:012}\"")).collect();
    format!("{{\"name\": \"x\", \"tags\": [{}], \"child\": []}}", tags.join(", "))
}

fn list_of(body: &str) -> Fault {
    Fault::Instead(200, "application/json", body.to_owned().into())
}

/// gcr.io sends all tags in one page.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_eight_mebibytes_is_served_and_stands_in() {
    for framing in [None, Some(Fault::Chunked)] {
        let (origin, list) = (Origin::start().await, large_list(8 << 20));
        origin.fault(On::kind(Kind::Tags), list_of(&list));
        if let Some(framing) = framing {
            origin.fault(On::kind(Kind::Tags), framing);
        }
        let proxy = Proxy::of(&origin).await;
        let upstream: serde_json::Value = serde_json::from_str(&list).expect("JSON");
        for (warned, name) in [(false, "acme/app"), (true, "docker.io/acme/app")] {
            let answer = proxy.get(&format!("/v2/{name}/tags/list")).await;
            assert_eq!((answer.status, answer.complete), (200, true));
            assert_eq!(answer.json()["name"].as_str(), Some(name));
            assert!(answer.json()["tags"] == upstream["tags"]);
            assert_eq!(answer.headers.contains_key("warning"), warned);
            origin.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_lists_wait_for_one_another_and_small_ones_do_not() {
    let origin = Origin::start().await;
    let (gate, list) = (Gate::new(), large_list(3 << 20));
    tagged(&origin, 1);
    for repository in ["slow/app", "large/app"] {
        origin.fault(On::path(repository), list_of(&list));
    }
    origin.fault(On::path("slow/app"), Fault::HoldAt(2 << 20, gate.clone()));
    let mut setup = Setup::of(&origin);
    setup.limits.large_pages = 1;
    setup.limits.large_page_wait = Duration::from_secs(1);
    let proxy = setup.start().await;
    let large = "/v2/large/app/tags/list";
    let others = async {
        eventually("the first one is under way", || gate.reached() == 1).await;
        // The origin has sent what it is to send; the proxy, which has still to read it, may give
        // its only place to this one first.
        let refused = loop {
            let answer = proxy.get(large).await;
            if answer.status != 200 {
                break answer;
            }
        };
        assert_eq!(refused.status, 503);
        assert!(refused.text().contains("large lists"), "{}", refused.text());
        assert_eq!(proxy.get("/v2/acme/app/tags/list").await.status, 200);
        gate.open();
    };
    let (first, ()) = tokio::join!(proxy.get("/v2/slow/app/tags/list"), others);
    assert_eq!((first.status, first.complete), (200, true));
    // What is kept for an outage holds no place, and nothing is remembered of the shortage.
    for _ in 0..3 {
        assert_eq!(proxy.get(large).await.status, 200);
    }
}
