//! What stands in a registry's place is not its word: pages, statuses that say nothing of content,
//! storage that has lost something, and a HEAD that is refused (UP-10, UP-11, UP-12).

use std::time::Duration;

use crate::support::image::Image;
use crate::support::origin::{Fault, Kind, On, Origin, Request};
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::pulled::{paths, pulled};

const MIB: u64 = 1 << 20;
/// Longer than a tag and a proof are believed.
const OLD: Duration = Duration::from_secs(601);

async fn serves(proxy: &Proxy, image: &Image, what: &str) {
    for path in paths(image) {
        let answer = proxy.get(&path).await;
        assert_eq!((answer.status, answer.complete), (200, true), "{what}: {path}");
        let is_tag = path.ends_with("/v1");
        assert_eq!(answer.headers.contains_key("warning"), is_tag, "{what}: {path}");
    }
}

/// Whatever answers in the registry's place, and what a client is told of something that is not
/// cached.
fn stand_ins() -> Vec<(String, Fault, u16)> {
    let page = |status, kind, text: &'static str| Fault::Instead(status, kind, text.into());
    let mut all = vec![
        ("Traefik".to_owned(), page(404, "text/plain", "404 page not found\n"), 404),
        ("nginx".to_owned(), page(404, "text/html", "<h1>404 Not Found</h1>"), 404),
        ("a bare 404".to_owned(), page(404, "text/plain", ""), 404),
        ("JSON of its own".to_owned(), page(404, "application/json", r#"{"message":"none"}"#), 404),
        ("a login page".to_owned(), page(200, "text/html", "<form>"), 502),
        ("an empty 200".to_owned(), page(200, "application/json", ""), 502),
        ("a redirect to itself".to_owned(), Fault::Redirect("/login".into()), 502),
        ("a forbidden address".to_owned(), Fault::Redirect("http://10.0.0.1/".into()), 502),
    ];
    let statuses =
        [400, 402, 405, 406, 408, 409, 410, 412, 418, 423, 425, 451, 499, 501, 507, 520, 524, 530];
    let status = |status: u16| (status.to_string(), page(status, "text/plain", "no"), 502);
    all.extend(statuses.into_iter().map(status));
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_in_a_registrys_place_is_an_outage_and_takes_nothing_back() {
    for (what, fault, _) in stand_ins() {
        let (origin, image, proxy) = pulled().await;
        origin.fault(On::any(), fault);
        proxy.clock().advance(OLD);
        serves(&proxy, &image, &what).await;
        origin.stop().await;
        proxy.clock().advance(OLD);
        serves(&proxy, &image, &format!("{what}, then an outage")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_answers_in_a_registrys_place_is_not_remembered() {
    for (what, fault, told) in stand_ins() {
        let image = Image::new(1, &[1000]);
        let origin = Origin::with("a/b", "v1", &image).await;
        let proxy = Proxy::of(&origin).await;
        origin.fault(On::any(), fault);
        for path in paths(&image) {
            assert_eq!(proxy.get(&path).await.status, told, "{what}: {path}");
        }
        origin.repair();
        // A failure of one thing is remembered for 5 s (DESIGN §14.4).
        proxy.clock().advance(Duration::from_secs(if told == 404 { 0 } else { 6 }));
        for path in paths(&image) {
            assert_eq!(proxy.get(&path).await.status, 200, "{what}: {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_whose_head_is_refused_is_served_by_get() {
    for status in [400, 401, 403, 404, 405, 406, 410, 500, 501, 503] {
        let image = Image::new(1, &[1000]);
        let origin = Origin::with("a/b", "v1", &image).await;
        let proxy = Proxy::of(&origin).await;
        let on = On::kind(Kind::Manifest).heads();
        origin.fault(on, Fault::Instead(status, "text/plain", "".into()));
        for path in [manifest("a/b", "v1"), manifest("a/b", &image.manifest.digest)] {
            assert_eq!(proxy.get(&path).await.body, image.manifest.bytes, "{status}: {path}");
            assert_eq!(proxy.head(&path).await.status, 200, "{status}: {path}");
        }
        // A record of it, and a HEAD that says 404 all the same.
        proxy.clock().advance(OLD);
        let answer = proxy.get(&manifest("a/b", "v1")).await;
        assert_eq!((answer.status, answer.header("warning")), (200, None), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_a_length_is_answered_with_the_size_of_the_manifest() {
    let (none, zero) = (Fault::Chunked, Fault::Header("Content-Length", Some("0".into())));
    for (fault, by_tag) in [(&none, true), (&zero, true), (&none, false), (&zero, false)] {
        let image = Image::new(1, &[1000]);
        let origin = Origin::with("a/b", "v1", &image).await;
        let proxy = Proxy::of(&origin).await;
        origin.fault(On::kind(Kind::Manifest).heads(), fault.clone());
        let size = image.manifest.bytes.len().to_string();
        let digest = &image.manifest.digest;
        let path = if by_tag { manifest("a/b", "v1") } else { manifest("a/b", digest) };
        for time in ["asked for", "stored", "checked again"] {
            let head = proxy.head(&path).await;
            assert_eq!(head.header("content-length"), Some(&*size), "{fault:?} {path} {time}");
            assert_eq!(head.header("docker-content-digest"), Some(digest.as_str()));
            if time == "stored" {
                proxy.clock().advance(OLD);
            }
        }
        let gets = |request: &Request| request.method == "GET" && request.kind == Kind::Manifest;
        assert_eq!(origin.count(gets), 1, "{fault:?} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_tag_is_gone_only_if_get_says_so_too() {
    let (origin, image, proxy) = pulled().await;
    origin.fault(On::kind(Kind::Manifest).heads(), Fault::Status(404));
    proxy.clock().advance(OLD);
    let answer = proxy.get(&manifest("a/b", "v1")).await;
    assert_eq!((answer.body, answer.headers.get("warning")), (image.manifest.bytes.clone(), None));
    origin.untag("a/b", "v1");
    proxy.clock().advance(OLD);
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.refusal(), (404, "MANIFEST_UNKNOWN".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_served_although_its_digest_is_unknown_upstream() {
    for fault in [Fault::Status(404), Fault::Instead(404, "text/plain", "not found".into())] {
        let image = Image::new(1, &[1000]);
        let origin = Origin::with("a/b", "v1", &image).await;
        let proxy = Proxy::of(&origin).await;
        origin.fault(On::path("/manifests/sha256:"), fault);
        let by_digest = manifest("a/b", &image.manifest.digest);
        assert_eq!(proxy.get(&by_digest).await.status, 404, "nothing leads there yet");
        proxy.clock().advance(Duration::from_secs(11));
        // containerd and dockerd: HEAD by tag, then GET by the digest that it names.
        assert_eq!(proxy.head(&manifest("a/b", "v1")).await.status, 200);
        assert_eq!(proxy.get(&by_digest).await.body, image.manifest.bytes);
        assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, image.manifest.bytes);
        proxy.clock().advance(OLD);
        assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, image.manifest.bytes);
        assert_eq!(proxy.get(&by_digest).await.body, image.manifest.bytes);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_has_moved_meanwhile_does_not_answer_for_its_old_digest() {
    let (old, new) = (Image::new(1, &[]), Image::new(2, &[]));
    let origin = Origin::with("a/b", "v1", &old).await;
    let proxy = Proxy::of(&origin).await;
    assert_eq!(proxy.head(&manifest("a/b", "v1")).await.status, 200);
    origin.push("a/b", "v1", &new);
    origin.remove_manifest("a/b", &old.manifest.digest);
    assert_eq!(proxy.get(&manifest("a/b", &old.manifest.digest)).await.status, 404);
}

/// A registry that redirects blobs to `cdn`, and a proxy that may follow.
async fn redirecting(size: u64) -> (Origin, Origin, String, Proxy) {
    let (origin, cdn) = (Origin::start().await, Origin::start().await);
    let layer = origin.blob("a/b", 1, size);
    cdn.put_blob("any", &layer);
    let to = format!("{}storage/{{digest}}?signature={{nth}}", cdn.url());
    origin.fault(On::kind(Kind::Blob), Fault::Redirect(to));
    let mut setup = Setup::new();
    setup.upstream("docker.io", &origin).blob_hosts = vec![cdn.authority()];
    let proxy = setup.start().await;
    (origin, cdn, blob("a/b", &layer.digest), proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_says_404_once_is_asked_again_by_way_of_the_registry() {
    for status in [404, 403] {
        let (origin, cdn, path, proxy) = redirecting(1000).await;
        cdn.fault(On::any().once(), Fault::Instead(status, "application/xml", "<Error>".into()));
        assert_eq!(proxy.get(&path).await.status, 200, "{status}");
        assert_eq!(origin.count(|request| request.kind == Kind::Blob), 2, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_has_lost_a_blob_is_no_absence() {
    let (_origin, cdn, path, proxy) = redirecting(1000).await;
    // Storage that speaks like a registry is still storage.
    cdn.fault(On::any(), Fault::Status(404));
    assert_eq!(proxy.get(&path).await.refusal(), (404, "BLOB_UNKNOWN".into()));
    assert_eq!(proxy.head(&path).await.status, 404);
    cdn.repair();
    assert_eq!(proxy.head(&path).await.status, 200, "not remembered");
    assert_eq!(proxy.get(&path).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_says_404_does_not_end_a_resume() {
    let (origin, cdn, path, proxy) = redirecting(8 * MIB).await;
    cdn.fault(On::any().gets().once(), Fault::CutAfter(3_000_000));
    cdn.fault(On::any().ranged().times(3), Fault::Status(404));
    let answer = proxy.get(&path).await;
    assert_eq!((answer.status, answer.complete, answer.body.len() as u64), (200, true, 8 * MIB));
    assert_eq!(origin.count(|request| request.kind == Kind::Blob), 5);
}
