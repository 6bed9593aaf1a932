//! Digests, gaps and overlaps: what the registry says is passed on, in our words.

use bytes::Bytes;
use http::Method;
use roadstead::oci::{Algorithm, Digest};

use crate::support::content::{Blob, Content};
use crate::support::eventually;
use crate::support::image::{Image, Manifest, OCI_MANIFEST};
use crate::support::origin::{Fault, Kind, On, Origin};
use crate::support::proxy::{blob, manifest};
use crate::support::push::{anyone, ending, location, proxy_keeping_pushes, uploads, writes};

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_digest_is_refused_and_nothing_is_kept() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let client = anyone(&proxy);
    let (layer, other) = (Blob::seeded(1, 100_000), Blob::seeded(2, 100_000));
    let begun = client.begin("a/b").await;
    let sent = client.patch(&begun, layer.bytes()).await;
    let refused = client.put(&location(&sent), &other.digest, Bytes::new()).await;
    assert_eq!(refused.refusal(), (400, "DIGEST_INVALID".into()));
    let (ours, its) =
        ("what arrived at the registry does not have this digest", "the origin says so");
    assert_eq!(refused.message(), format!("{ours}: {its}"));
    let refused = client.blob("a/b", &Blob { digest: other.digest.clone(), ..layer.clone() }).await;
    assert_eq!(refused.refusal(), (400, "DIGEST_INVALID".into()));
    let refused = client.send(Method::PUT, &location(&sent), &[], Bytes::new()).await;
    assert_eq!(refused.refusal(), (400, "DIGEST_INVALID".into()));
    eventually("no file is left", || proxy.staged_files() == 0).await;
    assert_eq!(proxy.metric("roadstead_store_blobs", &[]), 0);
    for digest in [&layer.digest, &other.digest] {
        assert!(!proxy.has_stored(digest));
        assert_eq!(proxy.get(&blob("a/b", digest)).await.status, 404);
    }
}

/// A registry that takes anything.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_have_its_digest_is_not_kept_even_if_the_registry_takes_it() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let (layer, other) = (Blob::seeded(1, 100_000), Blob::seeded(2, 100_000));
    let begun = anyone(&proxy).begin("a/b").await;
    let on = crate::support::origin::On::kind(Kind::Upload).method("PUT");
    origin.fault(on, crate::support::origin::Fault::Instead(201, "text/plain", Bytes::new()));
    let taken = anyone(&proxy).put(&begun, &other.digest, layer.bytes()).await;
    assert_eq!(taken.status, 201);
    eventually("no file is left", || proxy.staged_files() == 0).await;
    assert!(!proxy.has_stored(&layer.digest) && !proxy.has_stored(&other.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_under_a_digest_that_is_not_its_own_asks_nobody() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let (image, other) = (Image::new(1, &[]), Image::new(2, &[]));
    let refused =
        anyone(&proxy).manifest("a/b", other.manifest.digest.as_str(), &image.manifest).await;
    assert_eq!(refused.refusal(), (400, "DIGEST_INVALID".into()));
    let untyped = anyone(&proxy)
        .send(Method::PUT, &manifest("a/b", "v1"), &[], image.manifest.bytes.clone())
        .await;
    assert_eq!(untyped.refusal(), (400, "MANIFEST_INVALID".into()));
    let bad_tag = format!("{}?tag=%2F", manifest("a/b", &image.manifest.digest));
    let headers = [("content-type", OCI_MANIFEST)];
    let refused =
        anyone(&proxy).send(Method::PUT, &bad_tag, &headers, image.manifest.bytes.clone()).await;
    assert_eq!(refused.refusal(), (400, "MANIFEST_INVALID".into()));
    assert_eq!(origin.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_does_not_like_about_a_manifest_is_said() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let image = Image::new(1, &[10]);
    let refused = anyone(&proxy).manifest("a/b", "v1", &image.manifest).await;
    assert_eq!(refused.refusal(), (404, "MANIFEST_BLOB_UNKNOWN".into()));
    assert!(refused.message().contains("push that first"));
    let refused = anyone(&proxy).manifest("a/b", "v1", &Manifest::new(OCI_MANIFEST, "{")).await;
    assert_eq!(refused.refusal(), (400, "MANIFEST_INVALID".into()));
    assert_eq!(proxy.metric("roadstead_store_blobs", &[]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn sha512_is_carried_through() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let client = anyone(&proxy);
    let layer = Blob::with(Algorithm::Sha512, Content::seeded(1, 100_000));
    let begun = client.post(&format!("{}?digest-algorithm=sha512", uploads("a/b"))).await;
    let sent = client.patch(&location(&begun), layer.bytes()).await;
    assert_eq!(client.put(&location(&sent), &layer.digest, Bytes::new()).await.status, 201);
    // With all bytes in the PUT, its digest tells the algorithm.
    let other = Blob::with(Algorithm::Sha512, Content::seeded(2, 100_000));
    assert_eq!(client.blob("a/b", &other).await.status, 201);
    for pushed in [&layer, &other] {
        assert!(proxy.has_stored(&pushed.digest), "{}", pushed.digest);
        assert_eq!(proxy.get(&blob("a/b", &pushed.digest)).await.body, pushed.bytes());
        assert_eq!(origin.blob_gets(&pushed.digest), 0);
    }
    let bytes = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[]}"#;
    let digest = Digest::of(Algorithm::Sha512, bytes.as_bytes());
    let taken = client.manifest("a/b", digest.as_str(), &Manifest::new(OCI_MANIFEST, bytes)).await;
    assert_eq!((taken.status, taken.header("docker-content-digest")), (201, Some(digest.as_str())));
    assert_eq!(proxy.get(&manifest("a/b", &digest)).await.text(), bytes);
    let bad = client.post(&format!("{}?digest-algorithm=md5", uploads("a/b"))).await;
    assert_eq!(bad.refusal(), (400, "DIGEST_INVALID".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn gaps_and_overlaps_are_the_registrys_to_refuse_and_the_upload_goes_on() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let (client, layer) = (anyone(&proxy), Blob::seeded(1, 100_000));
    let bytes = layer.bytes();
    let begun = client.begin("a/b").await;
    let headers = [("content-range", "0-49999")];
    let sent = client.send(Method::PATCH, &begun, &headers, bytes.slice(..50_000)).await;
    let mut at = location(&sent);
    for (first, range) in [(60_000, "60000-99999"), (40_000, "40000-99999"), (0, "0-99999")] {
        let refused = client
            .send(Method::PATCH, &at, &[("content-range", range)], bytes.slice(first..))
            .await;
        assert_eq!(refused.refusal(), (416, "RANGE_INVALID".into()), "{range}");
        let path = ending(&at, &layer.digest);
        let refused = client
            .send(Method::PUT, &path, &[("content-range", range)], bytes.slice(first..))
            .await;
        assert_eq!(refused.refusal(), (416, "RANGE_INVALID".into()), "{range}");
        let status = proxy.get(&at).await;
        assert_eq!((status.status, status.header("range")), (204, Some("0-49999")));
        at = location(&status);
    }
    let headers = [("content-range", "50000-99999")];
    let done = client
        .send(Method::PUT, &ending(&at, &layer.digest), &headers, bytes.slice(50_000..))
        .await;
    assert_eq!(done.status, 201, "{done:?}");
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.body, bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_does_not_say_where_it_belongs_reaches_nobody() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let begun = anyone(&proxy).begin("a/b").await;
    let before = writes(&origin);
    for range in ["x", "9-0", "-9", "0-", "+0-9", "0-9-10", "0-99999999999999999999999"] {
        let refused = anyone(&proxy)
            .send(Method::PATCH, &begun, &[("content-range", range)], "0123456789")
            .await;
        assert_eq!(refused.refusal(), (400, "BLOB_UPLOAD_INVALID".into()), "{range}");
    }
    assert_eq!(writes(&origin), before);
}

/// A registry may keep a blob by an algorithm of its own; that it has another blob is no answer.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_says_it_has_is_proven_and_nothing_else() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let (layer, other) = (Blob::seeded(1, 1000), Blob::seeded(2, 1000));
    let told = |digest: &Digest| Fault::Header("Docker-Content-Digest", Some(digest.to_string()));
    origin.fault(On::path("uploads").method("PUT").once(), told(&other.digest));
    let answer = anyone(&proxy).blob("a/b", &layer).await;
    assert_eq!(answer.refusal(), (502, "UNAVAILABLE".into()));
    assert!(!proxy.has_stored(&layer.digest) && !proxy.has_stored(&other.digest));
    let anew = Digest::of(Algorithm::Sha512, &layer.bytes());
    origin.fault(On::path("uploads").method("PUT").once(), told(&anew));
    let answer = anyone(&proxy).blob("a/b", &layer).await;
    assert_eq!((answer.status, answer.header("docker-content-digest")), (201, Some(anew.as_str())));
}
