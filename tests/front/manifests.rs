//! Manifests: exact bytes, true digests, the upstream's type; one GET however they are asked for.

use http::Method;
use roadstead::oci::{Algorithm, Digest};

use crate::support::client::Answer;
use crate::support::image::{Image, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::support::origin::{Fault, Kind, On, Origin};
use crate::support::proxy::{Proxy, manifest};

const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// A manifest that no serializer would write.
fn oddly_written() -> Manifest {
    Manifest::new(
        DOCKER_MANIFEST,
        "{ \"schemaVersion\" :2,\n\t\"layers\":[ ],   \"x\":\"\\u00e9\" }\n\n",
    )
}

/// The headers that clients read.
fn headers(answer: &Answer) -> [Option<&str>; 5] {
    [
        "docker-content-digest",
        "content-type",
        "content-length",
        "etag",
        "docker-distribution-api-version",
    ]
    .map(|name| answer.header(name))
}

fn manifest_gets(origin: &Origin) -> usize {
    origin.count(|request| request.is_get(Kind::Manifest))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_keeps_its_bytes_and_type_across_a_restart() {
    let origin = Origin::start().await;
    let odd = oddly_written();
    origin.put_manifest("a/b", &odd);
    origin.tag("a/b", "v1", &odd.digest);
    let mut proxy = Proxy::of(&origin).await;

    let cold = proxy.get(&manifest("a/b", "v1")).await;
    assert_eq!((cold.status, &cold.body), (200, &odd.bytes));
    assert_eq!(cold.header("content-type"), Some(DOCKER_MANIFEST));

    proxy.restart().await;
    origin.stop().await;
    for reference in ["v1", odd.digest.as_str()] {
        let warm = proxy.get(&manifest("a/b", reference)).await;
        assert_eq!((warm.status, &warm.body), (200, &odd.bytes), "{reference}");
        assert_eq!(headers(&warm), headers(&cold), "{reference}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_and_get_by_tag_and_digest_agree_and_cost_one_get() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    let digest = image.manifest.digest.as_str();
    let quoted = format!("\"{digest}\"");
    let length = image.manifest.bytes.len().to_string();
    let expected = [
        Some(digest),
        Some(OCI_MANIFEST),
        Some(length.as_str()),
        Some(quoted.as_str()),
        Some("registry/2.0"),
    ];

    for round in ["cold", "warm"] {
        for reference in ["v1", digest] {
            let head = proxy.head(&manifest("a/b", reference)).await;
            assert_eq!(
                (head.status, headers(&head), head.body.len()),
                (200, expected, 0),
                "HEAD {round} {reference}"
            );
            let get = proxy.get(&manifest("a/b", reference)).await;
            assert_eq!((get.status, headers(&get)), (200, expected), "GET {round} {reference}");
            assert_eq!(get.body, image.manifest.bytes);
        }
    }
    assert_eq!(manifest_gets(&origin), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_by_tag_asks_with_head_and_leaves_the_get_for_the_digest() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    proxy.head(&manifest("a/b", "v1")).await;
    assert_eq!((origin.count(|r| r.is_head(Kind::Manifest)), manifest_gets(&origin)), (1, 0));
    proxy.get(&manifest("a/b", &image.manifest.digest)).await;
    proxy.get(&manifest("a/b", "v1")).await;
    assert_eq!((origin.count(|r| r.is_head(Kind::Manifest)), manifest_gets(&origin)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_by_tag_fetches_the_digest_that_head_named() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
    let asked: Vec<_> =
        origin.requests().into_iter().filter(|r| r.kind == Kind::Manifest).collect();
    let asked: Vec<_> = asked.iter().map(|r| (r.method.as_str(), r.reference.as_str())).collect();
    assert_eq!(asked, [("HEAD", "v1"), ("GET", image.manifest.digest.as_str())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_head_or_digest_header_is_asked_with_get() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    origin.fault(On::kind(Kind::Manifest).heads(), Fault::Status(405));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, image.manifest.bytes);

    origin.repair();
    origin.push("c/d", "v1", &image);
    origin.fault(On::kind(Kind::Manifest), Fault::Header("Docker-Content-Digest", None));
    let answer = proxy.get(&manifest("c/d", "v1")).await;
    assert_eq!((answer.status, answer.body.clone()), (200, image.manifest.bytes.clone()));
    assert_eq!(answer.header("docker-content-digest"), Some(image.manifest.digest.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn upstream_is_asked_for_every_type_whatever_the_client_accepts() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    let narrow = [("accept", DOCKER_MANIFEST), ("accept-encoding", "gzip, zstd")];
    let answer = proxy.request(Method::GET, &manifest("a/b", "v1"), &narrow).await;
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (200, Some(OCI_MANIFEST)),
        "served as stored"
    );
    assert_eq!(answer.header("content-encoding"), None);
    for request in origin.requests().iter().filter(|r| r.kind == Kind::Manifest) {
        let accept = request.header("accept").expect("an Accept");
        for kind in [DOCKER_MANIFEST, OCI_MANIFEST, OCI_INDEX, "*/*"] {
            assert!(accept.contains(kind), "{kind} in {accept}");
        }
        assert_eq!(request.header("accept-encoding"), Some("identity"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_the_manifest_gets_304() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    let digest = image.manifest.digest.as_str();
    let quoted = format!("\"{digest}\"");
    let other = Digest::of(Algorithm::Sha256, b"other");
    let forms = [
        digest.to_owned(),
        quoted.clone(),
        format!("W/{quoted}"),
        format!("\"{other}\", {quoted}"),
        "*".into(),
    ];
    for form in forms {
        for reference in ["v1", digest] {
            let path = manifest("a/b", reference);
            let answer = proxy.request(Method::GET, &path, &[("if-none-match", &form)]).await;
            assert_eq!((answer.status, answer.body.len()), (304, 0), "{form}");
            assert_eq!(answer.header("docker-content-digest"), Some(digest), "{form}");
            assert_eq!(answer.header("etag"), Some(quoted.as_str()), "{form}");
        }
    }
    let other = format!("\"{other}\"");
    let answer =
        proxy.request(Method::GET, &manifest("a/b", "v1"), &[("if-none-match", &other)]).await;
    assert_eq!((answer.status, answer.body), (200, image.manifest.bytes.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_on_manifests_are_ignored() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get_range(&manifest("a/b", "v1"), "bytes=0-3").await;
    assert_eq!((answer.status, answer.body), (200, image.manifest.bytes.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_and_what_it_lists_are_each_fetched_once() {
    let (amd, arm) = (Image::new(1, &[10]), Image::new(2, &[10]));
    let origin = Origin::with("a/b", "amd", &amd).await;
    origin.push("a/b", "arm", &arm);
    let index = Manifest::index(&[&amd.manifest, &arm.manifest]);
    origin.put_manifest("a/b", &index);
    origin.tag("a/b", "v1", &index.digest);
    let proxy = Proxy::of(&origin).await;
    for _ in 0..2 {
        let answer = proxy.get(&manifest("a/b", "v1")).await;
        assert_eq!((answer.header("content-type"), &answer.body), (Some(OCI_INDEX), &index.bytes));
        assert_eq!(
            proxy.get(&manifest("a/b", &arm.manifest.digest)).await.body,
            arm.manifest.bytes
        );
    }
    assert_eq!(manifest_gets(&origin), 2);
}

/// Whatever an upstream sends instead of the manifest: 502, nothing stored, and right again once it
/// is repaired.
async fn refused(what: &str, faults: &[Fault]) {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    for fault in faults {
        origin.fault(On::kind(Kind::Manifest).gets(), fault.clone());
    }
    for reference in ["v1", image.manifest.digest.as_str()] {
        let answer = proxy.get(&manifest("a/b", reference)).await;
        assert_eq!(answer.refusal(), (502, "UNAVAILABLE".into()), "{what} by {reference}");
    }
    assert!(!proxy.has_stored(&image.manifest.digest), "{what}");
    assert_eq!(proxy.metric("roadstead_store_blobs", &[]), 0, "{what}");
    origin.repair();
    for reference in ["v1", image.manifest.digest.as_str()] {
        assert_eq!(
            proxy.get(&manifest("a/b", reference)).await.body,
            image.manifest.bytes,
            "{what}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_are_refused() {
    refused("a flipped byte", &[Fault::Flip(5)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_html_is_refused() {
    refused(
        "HTML",
        &[Fault::Instead(200, "text/html", "<h1>Log in to the hotel's network</h1>".into())],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoded_manifest_is_refused() {
    refused("gzip", &[Fault::Header("Content-Encoding", Some("gzip".into()))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_is_no_manifest_is_refused() {
    refused("octets", &[Fault::Header("Content-Type", Some("application/octet-stream".into()))])
        .await;
    refused("no type", &[Fault::Header("Content-Type", None)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_contradicts_the_document_is_refused() {
    refused("an index", &[Fault::Header("Content-Type", Some(OCI_INDEX.into()))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_manifest_is_refused() {
    refused("a short body", &[Fault::CutAfter(50)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_header_that_lies_is_refused() {
    let lie = Digest::of(Algorithm::Sha256, b"something else");
    refused("a lie", &[Fault::Header("Docker-Content-Digest", Some(lie.to_string()))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_five_mebibytes_is_refused_and_one_of_almost_four_is_not() {
    let padded = |len: usize| {
        let open = "{\"schemaVersion\":2,\"layers\":[],\"x\":\"";
        Manifest::new(OCI_MANIFEST, format!("{open}{}\"}}", "x".repeat(len - open.len() - 2)))
    };
    let (large, huge) = (padded((4 << 20) - 1), padded(5 << 20));
    let origin = Origin::start().await;
    for (tag, manifest) in [("large", &large), ("huge", &huge)] {
        origin.put_manifest("a/b", manifest);
        origin.tag("a/b", tag, &manifest.digest);
    }
    let proxy = Proxy::of(&origin).await;
    assert_eq!(proxy.get(&manifest("a/b", "large")).await.digest(), large.digest);
    let refused = proxy.get(&manifest("a/b", "huge")).await;
    assert_eq!(refused.refusal(), (502, "UNAVAILABLE".into()));
    assert!(refused.text().contains("larger than this proxy takes"), "{}", refused.text());
    assert_eq!(proxy.get(&manifest("a/b", &huge.digest)).await.status, 502);
    assert!(!proxy.has_stored(&huge.digest));
    // HEAD agrees, before anybody has asked by GET, and whatever upstream's HEAD tells.
    for head in [None, Some(Fault::Chunked), Some(Fault::Status(405))] {
        for reference in ["huge", huge.digest.as_str()] {
            origin.repair();
            if let Some(fault) = head.clone() {
                origin.fault(On::kind(Kind::Manifest).heads(), fault);
            }
            let proxy = Proxy::of(&origin).await;
            let path = manifest("a/b", reference);
            assert_eq!(proxy.head(&path).await.status, 502, "{head:?} {reference}");
            assert_eq!(proxy.get(&path).await.status, 502, "{head:?} {reference}");
            assert_eq!(proxy.head(&path).await.status, 502, "{head:?} {reference}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_manifest_is_a_404_that_is_believed_for_a_while() {
    let origin = Origin::with("a/b", "v1", &Image::new(1, &[10])).await;
    let proxy = Proxy::of(&origin).await;
    let unknown = Digest::of(Algorithm::Sha256, b"nobody has this");
    for reference in ["v2", unknown.as_str()] {
        let path = manifest("a/b", reference);
        let asked = || origin.count(|request| request.reference == reference);
        assert_eq!(proxy.get(&path).await.refusal(), (404, "MANIFEST_UNKNOWN".into()));
        let first = asked();
        assert_eq!(proxy.get(&path).await.status, 404);
        assert_eq!(proxy.head(&path).await.status, 404);
        assert_eq!(asked(), first, "{reference}: the second time is answered here");
        proxy.clock().advance(std::time::Duration::from_secs(11));
        assert_eq!(proxy.get(&path).await.status, 404);
        assert!(asked() > first, "{reference}: but not for ever");
    }
}
