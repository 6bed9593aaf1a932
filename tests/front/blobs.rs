//! Blobs: fetched once, kept by digest, the same cold and warm.

use http::Method;
use roadstead::oci::{Algorithm, Digest};

use crate::support::client::Answer;
use crate::support::content::{Blob, Content};
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::{Auth, Bearer, Fault, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

fn headers(answer: &Answer) -> [Option<&str>; 6] {
    [
        "docker-content-digest",
        "content-type",
        "content-length",
        "etag",
        "accept-ranges",
        "docker-distribution-api-version",
    ]
    .map(|name| answer.header(name))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_fetched_once_and_looks_the_same_ever_after() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 1_000_000);
    let mut proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    let etag = format!("\"{}\"", layer.digest);
    let expected = [
        Some(layer.digest.as_str()),
        Some("application/octet-stream"),
        Some("1000000"),
        Some(etag.as_str()),
        Some("bytes"),
        Some("registry/2.0"),
    ];

    let cold = proxy.get(&path).await;
    assert_eq!((cold.status, headers(&cold), cold.digest()), (200, expected, layer.digest.clone()));
    assert!(cold.header("cache-control").is_some_and(|value| value.contains("max-age=31536000")));
    eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;

    for round in ["warm", "restarted"] {
        let warm = proxy.get(&path).await;
        assert_eq!(
            (warm.status, headers(&warm), warm.digest()),
            (200, expected, layer.digest.clone()),
            "{round}"
        );
        let head = proxy.head(&path).await;
        assert_eq!((head.status, headers(&head), head.body.len()), (200, expected, 0), "{round}");
        proxy.restart().await;
    }
    assert_eq!(origin.count(|request| request.kind == Kind::Blob), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_about_itself_stays_here() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 1000);
    let proxy = Proxy::of(&origin).await;
    let headers = [
        ("authorization", "Basic aHViOmh1bnRlcjI="),
        ("cookie", "session=1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("accept-encoding", "zstd;q=1.0, gzip;q=0.8"),
        ("referer", "http://somewhere.example/"),
    ];
    let answer = proxy.request(Method::GET, &blob("a/b", &layer.digest), &headers).await;
    assert_eq!((answer.digest(), answer.header("content-encoding")), (layer.digest.clone(), None));
    for request in origin.requests() {
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        for name in ["authorization", "cookie", "x-forwarded-for", "referer"] {
            assert_eq!(request.header(name), None, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_on_a_cold_blob_asks_and_downloads_nothing() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 1_000_000);
    let proxy = Proxy::of(&origin).await;
    let head = proxy.head(&blob("a/b", &layer.digest)).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("1000000")));
    assert_eq!(head.header("docker-content-digest"), Some(layer.digest.as_str()));
    assert_eq!((origin.count(|r| r.is_head(Kind::Blob)), origin.blob_gets(&layer.digest)), (1, 0));
    assert!(!proxy.has_stored(&layer.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_refuses_head_tells_the_size_by_one_byte() {
    for status in [401, 403, 405] {
        let origin = Origin::start().await;
        let layer = origin.blob("a/b", 1, 1_000_000);
        origin.fault(On::kind(Kind::Blob).heads(), Fault::Status(status));
        let proxy = Proxy::of(&origin).await;
        let head = proxy.head(&blob("a/b", &layer.digest)).await;
        assert_eq!(
            (head.status, head.header("content-length")),
            (200, Some("1000000")),
            "{status}"
        );
        assert_eq!(origin.ranges(&layer.digest), [Some("bytes=0-0".to_owned())], "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_during_a_download_is_answered_from_it() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 1_000_000);
    let gate = origin.hold_at(&layer.digest, 500_000);
    let proxy = Proxy::of(&origin).await;
    let mut reading = proxy.open(&blob("a/b", &layer.digest)).await;
    reading.read(1).await;
    let head = proxy.head(&blob("a/b", &layer.digest)).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("1000000")));
    assert_eq!(origin.count(|r| r.is_head(Kind::Blob)), 0);
    gate.open();
    assert_eq!(reading.finish().await.digest(), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_is_verified_and_kept_like_sha256() {
    let origin = Origin::start().await;
    let layer = Blob::with(Algorithm::Sha512, Content::seeded(1, 300_000));
    origin.put_blob("a/b", &layer);
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    for _ in 0..2 {
        let answer = proxy.get(&path).await;
        assert_eq!((answer.status, answer.body.len(), answer.complete), (200, 300_000, true));
        assert_eq!(Digest::of(Algorithm::Sha512, &answer.body), layer.digest);
        eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    }
    assert_eq!(origin.blob_gets(&layer.digest), 1);

    let wrong = Blob::with(Algorithm::Sha512, Content::seeded(2, 300_000));
    origin.put_blob("a/b", &wrong);
    origin.fault(On::path(&wrong.digest), Fault::Flip(1));
    assert!(!proxy.get(&blob("a/b", &wrong.digest)).await.complete);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_no_bytes_is_a_blob() {
    let origin = Origin::start().await;
    let empty = origin.blob("a/b", 1, 0);
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &empty.digest);
    for _ in 0..2 {
        let answer = proxy.get(&path).await;
        assert_eq!(
            (answer.status, answer.header("content-length"), answer.complete),
            (200, Some("0"), true)
        );
        eventually("the blob is stored", || proxy.has_stored(&empty.digest)).await;
    }
    assert_eq!(origin.blob_gets(&empty.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_of_unknown_length_is_chunked_once_and_has_a_length_ever_after() {
    for fault in [Fault::Chunked, Fault::UntilClose] {
        let origin = Origin::start().await;
        let layer = origin.blob("a/b", 1, 1_000_000);
        origin.fault(On::path(&layer.digest), fault);
        let proxy = Proxy::of(&origin).await;
        let path = blob("a/b", &layer.digest);
        let cold = proxy.get(&path).await;
        assert_eq!(
            (cold.status, cold.header("content-length"), cold.digest()),
            (200, None, layer.digest.clone())
        );
        eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
        let warm = proxy.get(&path).await;
        assert_eq!(
            (warm.header("content-length"), warm.digest()),
            (Some("1000000"), layer.digest.clone())
        );
        assert_eq!(origin.blob_gets(&layer.digest), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_tells_the_length_that_upstream_does_not() {
    let image = Image::new(1, &[1_000_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let layer = &image.layers[0];
    origin.fault(On::path(&layer.digest), Fault::Chunked);
    let proxy = Proxy::of(&origin).await;
    proxy.get(&manifest("a/b", "v1")).await;
    let cold = proxy.get(&blob("a/b", &layer.digest)).await;
    assert_eq!(
        (cold.header("content-length"), cold.digest()),
        (Some("1000000"), layer.digest.clone())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_blob_is_a_404_that_is_believed_for_a_while() {
    let origin = Origin::start().await;
    origin.blob("a/b", 1, 10);
    let proxy = Proxy::of(&origin).await;
    let unknown = Digest::of(Algorithm::Sha256, b"nobody has this");
    let path = blob("a/b", &unknown);
    assert_eq!(proxy.get(&path).await.refusal(), (404, "BLOB_UNKNOWN".into()));
    let first = origin.requests().len();
    assert_eq!((proxy.get(&path).await.status, proxy.head(&path).await.status), (404, 404));
    assert_eq!(origin.requests().len(), first, "the second time is answered here");
    proxy.clock().advance(std::time::Duration::from_secs(11));
    assert_eq!(proxy.get(&path).await.status, 404);
    assert!(origin.requests().len() > first, "but not for ever");
}

/// What no registry sends for a blob: 502 before any byte, nothing stored, right again once it is
/// repaired.
async fn refused(what: &str, fault: Fault) {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 200_000);
    origin.fault(On::kind(Kind::Blob).gets(), fault);
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    assert_eq!(proxy.get(&path).await.refusal(), (502, "UNAVAILABLE".into()), "{what}");
    assert!(!proxy.has_stored(&layer.digest), "{what}");
    origin.repair();
    assert_eq!(proxy.get(&path).await.digest(), layer.digest, "{what}");
}

/// What storage guesses or forgets to remove says nothing of the bytes, whose digest is right.
#[tokio::test(flavor = "multi_thread")]
async fn a_blob_is_judged_by_its_digest_and_not_by_its_labels() {
    let labels = [
        ("Content-Type", "text/html"),
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Type", "text/plain"),
        ("Content-Type", "nonsense"),
        ("Content-Encoding", "aws-chunked"),
        ("Content-Encoding", "none"),
        ("Content-Encoding", "utf-8"),
        ("Content-Encoding", "binary"),
        ("Content-Encoding", "gzip"),
    ];
    for (name, value) in labels {
        for keeps_digest in [true, false] {
            let origin = Origin::start().await;
            let layer = origin.blob("a/b", 1, 200_000);
            origin.fault(On::kind(Kind::Blob), Fault::Header(name, Some(value.into())));
            if !keeps_digest {
                origin.fault(On::kind(Kind::Blob), Fault::Header("Docker-Content-Digest", None));
            }
            let proxy = Proxy::of(&origin).await;
            let path = blob("a/b", &layer.digest);
            let head = proxy.head(&path).await;
            assert_eq!(
                (head.status, head.header("content-length")),
                (200, Some("200000")),
                "{value}"
            );
            let answers = [proxy.get(&path).await, proxy.get(&path).await, head];
            for answer in answers {
                assert_eq!(answer.header("content-encoding"), None);
                assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
            }
            assert_eq!(proxy.get(&path).await.digest(), layer.digest, "{value}");
            assert_eq!(
                origin.blob_gets(&layer.digest),
                1 + usize::from(!keeps_digest && value.starts_with("text/html"))
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoded_blob_is_refused() {
    refused("gzip", Fault::Instead(200, "application/octet-stream", "\x1f\u{8b}encoded".into()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_html_is_refused() {
    refused("HTML", Fault::Instead(200, "text/html", "<h1>Log in</h1>".into())).await;
}

/// Its first bytes leave before its digest is known, its last ones do not.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_page_of_html_reaches_nobody_whole_and_proves_nothing() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 200_000);
    origin.put_blob("c/d", &layer);
    let proxy = Proxy::of(&origin).await;
    // The bytes are here, and another repository's.
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.status, 200);
    let page = Fault::Instead(200, "text/html", vec![b'x'; 200_000].into());
    origin.fault(On::path("/c/d/"), page);
    for _ in 0..2 {
        let path = blob("c/d", &layer.digest);
        assert_eq!(proxy.get(&path).await.refusal(), (502, "UNAVAILABLE".into()));
    }
    let other = origin.blob("c/d", 2, 200_000);
    for _ in 0..2 {
        assert!(!proxy.get(&blob("c/d", &other.digest)).await.complete);
    }
    // A proof would let these bytes out, once another repository has brought them here.
    origin.put_blob("a/b", &other);
    assert_eq!(proxy.get(&blob("a/b", &other.digest)).await.status, 200);
    let path = blob("c/d", &other.digest);
    assert_eq!(proxy.get(&path).await.refusal(), (502, "UNAVAILABLE".into()));
    origin.repair();
    assert_eq!(proxy.get(&path).await.digest(), other.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_nobody_asked_for_is_refused() {
    refused("206", Fault::Partial).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_differs_from_the_manifests_is_judged_by_the_digest() {
    let image = Image::new(1, &[200_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let layer = &image.layers[0];
    let proxy = Proxy::of(&origin).await;
    proxy.get(&manifest("a/b", "v1")).await;
    origin.fault(On::path(&layer.digest).gets(), Fault::Extra(10));
    assert!(!proxy.get(&blob("a/b", &layer.digest)).await.complete);
    assert!(!proxy.has_stored(&layer.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_here_and_without_the_credential_elsewhere() {
    let (origin, cdn) = (Origin::start().await, Origin::start().await);
    let layer = origin.blob("a/b", 1, 200_000);
    cdn.put_blob("any", &layer);
    origin.require(Auth::Bearer(Bearer::default()));
    origin.fault(
        On::kind(Kind::Blob),
        Fault::Redirect(format!("{}storage/{{digest}}?sig=1", cdn.url())),
    );
    let mut setup = Setup::new();
    setup.upstream("docker.io", &origin).blob_hosts = vec![cdn.authority()];
    let proxy = setup.start().await;
    let answer = proxy.get(&blob("a/b", &layer.digest)).await;
    assert_eq!((answer.status, answer.digest()), (200, layer.digest.clone()));
    assert!(cdn.requests().iter().all(|request| request.header("authorization").is_none()));
    assert_eq!(cdn.count(|request| request.query == "sig=1"), 1);

    let near = origin.blob("a/b", 2, 200_000);
    origin.repair();
    origin.fault(On::kind(Kind::Blob), Fault::Redirect("/artifacts/{repository}/{digest}".into()));
    assert_eq!(proxy.get(&blob("a/b", &near.digest)).await.digest(), near.digest);
    assert!(origin.count(|r| r.is_get(Kind::Artifact) && r.header("authorization").is_some()) == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_to_an_address_that_is_not_configured_is_not_followed() {
    let (origin, cdn) = (Origin::start().await, Origin::start().await);
    let layer = origin.blob("a/b", 1, 200_000);
    cdn.put_blob("any", &layer);
    origin.fault(On::kind(Kind::Blob), Fault::Redirect(format!("{}storage/{{digest}}", cdn.url())));
    let proxy = Proxy::of(&origin).await;
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.refusal(), (502, "UNAVAILABLE".into()));
    assert_eq!(cdn.connections(), 0);
}
