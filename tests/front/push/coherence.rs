//! After the answer to a write, nobody is told what was true before it (UPL-8).

use std::time::Duration;

use http::Method;
use roadstead::config::Writes;
use serde_json::json;

use crate::support::image::{Image, Manifest, OCI_MANIFEST};
use crate::support::origin::{Dialect, Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, blob, manifest};
use crate::support::push::{anyone, open_to_all, proxy_keeping_pushes};

fn tags_list() -> String {
    "/v2/a/b/tags/list".to_owned()
}

fn manifest_reads(origin: &Origin) -> usize {
    origin.count(|request| request.kind == Kind::Manifest && !request.is_write())
}

async fn tags(proxy: &Proxy) -> serde_json::Value {
    proxy.get(&tags_list()).await.json()["tags"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_from_before_a_push_is_forgotten_with_it() {
    for writes in [Writes::Kept, Writes::Passed] {
        let origin = Origin::start().await;
        let proxy = open_to_all(&origin, writes).start().await;
        let image = Image::new(1, &[1_000]);
        let (layer, digest) = (&image.layers[0].digest, &image.manifest.digest);
        let paths =
            [manifest("a/b", "v1"), manifest("a/b", digest), blob("a/b", layer), tags_list()];
        for path in &paths {
            assert_eq!(proxy.get(path).await.status, 404, "{path}");
        }
        anyone(&proxy).image("a/b", "v1", &image).await;
        for path in &paths {
            assert_eq!(proxy.get(path).await.status, 200, "{writes:?} {path}");
        }
        assert_eq!(tags(&proxy).await, json!(["v1"]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_pushed_again_is_the_new_one_at_once() {
    for (writes, reads) in [(Writes::Kept, 0), (Writes::Passed, 2)] {
        let origin = Origin::start().await;
        let proxy = open_to_all(&origin, writes).start().await;
        let (first, second) = (Image::new(1, &[1_000]), Image::new(2, &[1_000]));
        for image in [&first, &second, &first] {
            anyone(&proxy).image("a/b", "v1", image).await;
            proxy.clock().advance(Duration::from_millis(1));
            let before = manifest_reads(&origin);
            let head = proxy.head(&manifest("a/b", "v1")).await;
            assert_eq!(
                head.header("docker-content-digest"),
                Some(image.manifest.digest.as_str()),
                "{writes:?}"
            );
            assert_eq!(
                proxy.get(&manifest("a/b", "v1")).await.body,
                image.manifest.bytes,
                "{writes:?}"
            );
            assert!(manifest_reads(&origin) - before <= reads, "{writes:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_gone_at_once_and_can_come_back() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let image = Image::new(1, &[1_000]);
    let client = anyone(&proxy);
    client.image("a/b", "v1", &image).await;
    client.image("a/b", "v2", &image).await;
    let by_digest = manifest("a/b", &image.manifest.digest);
    assert_eq!(client.delete(&manifest("a/b", "v1")).await.status, 202);
    assert_eq!(
        (proxy.get(&manifest("a/b", "v1")).await.status, tags(&proxy).await),
        (404, json!(["v2"]))
    );
    assert_eq!(proxy.get(&by_digest).await.status, 200);
    assert_eq!(client.delete(&by_digest).await.status, 202);
    for path in [&by_digest, &manifest("a/b", "v2")] {
        assert_eq!(proxy.get(path).await.refusal(), (404, "MANIFEST_UNKNOWN".into()));
    }
    assert_eq!(tags(&proxy).await, json!([]));
    let layer = blob("a/b", &image.layers[0].digest);
    assert_eq!((proxy.get(&layer).await.status, client.delete(&layer).await.status), (200, 202));
    assert_eq!((proxy.get(&layer).await.status, proxy.head(&layer).await.status), (404, 404));
    client.image("a/b", "v1", &image).await;
    for path in [&by_digest, &manifest("a/b", "v1"), &layer] {
        assert_eq!(proxy.get(path).await.status, 200, "{path}");
    }
}

/// Somebody else was quicker, or it was tried again after an answer that got lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_does_not_have_any_more_is_forgotten_when_its_delete_says_so() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let image = Image::new(1, &[1_000]);
    anyone(&proxy).image("a/b", "v1", &image).await;
    let (layer, digest) = (&image.layers[0].digest, &image.manifest.digest);
    origin.untag("a/b", "v1");
    origin.remove_manifest("a/b", digest);
    origin.remove_blob("a/b", layer);
    for path in [manifest("a/b", "v1"), manifest("a/b", digest), blob("a/b", layer)] {
        assert_eq!(proxy.get(&path).await.status, 200, "nobody has told us: {path}");
        assert_eq!(anyone(&proxy).delete(&path).await.status, 404, "{path}");
        assert_eq!(proxy.get(&path).await.status, 404, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_that_did_not_exist_before_a_push_do_after_it() {
    let origin = Origin::start().await;
    origin.behave(Dialect { subject: true, ..Dialect::default() });
    let proxy = proxy_keeping_pushes(&origin).await;
    let image = Image::new(1, &[]);
    anyone(&proxy).image("a/b", "v1", &image).await;
    let subject = &image.manifest.digest;
    let paths = [
        format!("/v2/a/b/referrers/{subject}"),
        manifest("a/b", subject.as_str().replace(':', "-")),
    ];
    assert_eq!(proxy.get(&paths[0]).await.json()["manifests"], json!([]));
    assert_eq!(proxy.get(&paths[1]).await.status, 404);
    let document = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": { "digest": image.config.digest.as_str(), "size": 2 },
        "layers": [], "subject": { "mediaType": OCI_MANIFEST, "digest": subject.as_str(), "size": 7 },
    });
    let signature = Manifest::new(OCI_MANIFEST, document.to_string());
    let taken = anyone(&proxy).manifest("a/b", signature.digest.as_str(), &signature).await;
    assert_eq!((taken.status, taken.header("oci-subject")), (201, Some(subject.as_str())));
    origin.put_referrers(subject, "{\"manifests\":[{}]}");
    assert_eq!(proxy.get(&paths[0]).await.json()["manifests"], json!([{}]));
    // Where there is no such API the client puts the tag that stands for it.
    origin.behave(Dialect::default());
    let tag = subject.as_str().replace(':', "-");
    let taken = anyone(&proxy).manifest("a/b", &tag, &Manifest::index(&[&signature])).await;
    assert_eq!((taken.status, taken.header("oci-subject")), (201, None));
    assert_eq!(proxy.get(&paths[1]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn further_tags_are_there_if_the_registry_says_so() {
    for tags in [true, false] {
        let origin = Origin::start().await;
        origin.behave(Dialect { tags, ..Dialect::default() });
        let proxy = proxy_keeping_pushes(&origin).await;
        let (first, second) = (Image::new(1, &[]), Image::new(2, &[]));
        anyone(&proxy).image("a/b", "old", &first).await;
        assert_eq!(anyone(&proxy).blob("a/b", &second.config).await.status, 201);
        let path = format!("{}?tag=new&tag=old", manifest("a/b", &second.manifest.digest));
        let headers = [("content-type", OCI_MANIFEST)];
        let taken =
            anyone(&proxy).send(Method::PUT, &path, &headers, second.manifest.bytes.clone()).await;
        let told: Vec<_> = taken.headers.get_all("oci-tag").iter().collect();
        assert_eq!((taken.status, told.len()), (201, if tags { 2 } else { 0 }));
        let got =
            [proxy.get(&manifest("a/b", "new")).await, proxy.get(&manifest("a/b", "old")).await];
        let expected = if tags { [&second, &second] } else { [&second, &first] };
        assert_eq!(got[1].body, expected[1].manifest.bytes, "{tags}");
        assert_eq!(got[0].status, if tags { 200 } else { 404 }, "{tags}");
    }
}

/// It may have been done; what was known before may stand in for a registry that does not answer,
/// and for no other.
#[tokio::test(flavor = "multi_thread")]
async fn a_tag_whose_push_ended_nobody_knows_how_is_asked_about() {
    let origin = Origin::start().await;
    let mut setup = open_to_all(&origin, Writes::Kept);
    setup.limits.flight_head = Duration::from_secs(2);
    let proxy = setup.start().await;
    let (first, second) = (Image::new(1, &[]), Image::new(2, &[]));
    anyone(&proxy).image("a/b", "v1", &first).await;
    assert_eq!(anyone(&proxy).blob("a/b", &second.config).await.status, 201);
    origin.fault(On::kind(Kind::Manifest).method("PUT"), Fault::HoldHead(Gate::new()));
    assert_eq!(anyone(&proxy).manifest("a/b", "v1", &second.manifest).await.status, 504);
    origin.fault(On::kind(Kind::Manifest), Fault::Status(503));
    let stale = proxy.get(&manifest("a/b", "v1")).await;
    assert_eq!((stale.body, stale.headers.contains_key("warning")), (first.manifest.bytes, true));
    origin.repair();
    // So long the failure of its HEAD stands for the next one (DESIGN §14.4).
    proxy.clock().advance(Duration::from_secs(5));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, second.manifest.bytes);
}

/// It has taken something, whatever it says about it.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_tells_another_digest_leaves_no_old_tag_behind() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let (first, second) = (Image::new(1, &[]), Image::new(2, &[]));
    anyone(&proxy).image("a/b", "v1", &first).await;
    assert_eq!(anyone(&proxy).blob("a/b", &second.config).await.status, 201);
    let digest = first.manifest.digest.to_string();
    origin.fault(
        On::kind(Kind::Manifest).method("PUT"),
        Fault::Header("Docker-Content-Digest", Some(digest)),
    );
    let answer = anyone(&proxy).manifest("a/b", "v1", &second.manifest).await;
    assert_eq!(answer.refusal(), (502, "UNAVAILABLE".into()));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, second.manifest.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_of_another_registry_learns_nothing_of_a_push() {
    let (origin, other) = (Origin::start().await, Origin::start().await);
    let mut setup = open_to_all(&origin, Writes::Kept);
    setup.upstream("other.test", &other);
    let proxy = setup.start().await;
    let image = Image::new(1, &[1_000]);
    anyone(&proxy).image("a/b", "v1", &image).await;
    for (path, tag) in [("other.test/a/b", "v1"), ("a/c", "v1")] {
        assert_eq!(proxy.get(&blob(path, &image.layers[0].digest)).await.status, 404);
        assert_eq!(proxy.get(&manifest(path, tag)).await.status, 404);
        assert_eq!(proxy.get(&manifest(path, &image.manifest.digest)).await.status, 404);
    }
}
