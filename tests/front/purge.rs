//! Taking images out of the cache (docs/control.md).

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::control::{command, images, names, order};
use crate::support::eventually;
use crate::support::image::{Image, Manifest};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::pulled::{pull, pull_of, pulled};

async fn purge(proxy: &Proxy, request: Value) -> Value {
    let (status, answer) = order(proxy, "/v1/purge", &request).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// `a/b:v1` and `c/d:v2`, which share their layer.
async fn two_with_one_layer() -> (Origin, [Image; 2], Proxy) {
    let (origin, image, proxy) = pulled().await;
    let other = Image::of(7, vec![image.layers[0].clone()]);
    origin.push("c/d", "v2", &other);
    pull_of(&proxy, "c/d", "v2", &other).await;
    (origin, [image, other], proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_is_said_first_then_goes_and_what_others_need_stays() {
    let (origin, [image, other], proxy) = two_with_one_layer().await;
    let own = image.manifest.bytes.len() as u64 + image.config.len();
    let goes =
        json!([{ "name": "docker.io/a/b", "tag": "v1", "digest": image.manifest.digest.as_str() }]);
    for dry_run in [true, false] {
        let request = json!({ "images": "docker.io/a/b:v1", "dry_run": dry_run });
        let answer = purge(&proxy, request).await;
        assert_eq!(answer["images"], goes);
        assert_eq!(answer["freed"], json!({ "files": 2, "bytes": own }), "{answer}");
        let layer = json!({ "files": 1, "bytes": image.layers[0].len() });
        assert_eq!((&answer["shared"], &answer["dry_run"]), (&layer, &json!(dry_run)));
        for part in [&image.manifest.digest, &image.config.digest] {
            assert_eq!(proxy.has_stored(part), dry_run, "{part}");
        }
    }
    assert_eq!(names(&images(&proxy, "").await), ["docker.io/c/d:v2"]);
    let asked = origin.count(|_| true);
    assert_eq!(
        proxy.get(&blob("c/d", &other.layers[0].digest)).await.digest(),
        other.layers[0].digest
    );
    assert_eq!(origin.count(|_| true), asked, "it is still cached for those who have it");
    // Nothing but not cached: the next pull asks upstream, and is whole.
    pull(&proxy, &image).await;
    assert!(origin.count(|_| true) > asked);
    assert_eq!(images(&proxy, "").await.len(), 2);
    // As containerd pulls: the tag is known from before, and its bytes come by their digest.
    purge(&proxy, json!({ "images": "docker.io/**" })).await;
    assert_eq!(proxy.head(&manifest("c/d", "v2")).await.status, 200);
    assert_eq!(proxy.get(&manifest("c/d", &other.manifest.digest)).await.status, 200);
    assert_eq!(names(&images(&proxy, "").await), ["docker.io/c/d:v2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_named_by_tag_digest_repository_or_pattern() {
    let [first, second, other] = [1, 2, 3].map(|seed| Image::new(seed, &[1000]));
    let origin = Origin::start().await;
    let proxy = Setup::of(&origin).start().await;
    let all = [
        ("a/b", "v1", &first),
        ("a/b", "v2", &second),
        ("a/b", "latest", &second),
        ("c/d", "v1", &other),
    ];
    let digest = &second.manifest.digest;
    for (named, stay) in [
        ("docker.io/a/b:v1", &["a/b:latest", "a/b:v2", "c/d:v1"][..]),
        ("a/b:v1", &["a/b:latest", "a/b:v2", "c/d:v1"]),
        (&format!("a/b@{digest}"), &["a/b:v1", "c/d:v1"]),
        ("a/b:v2", &["a/b:latest", "a/b:v1", "c/d:v1"]),
        ("a/b", &["c/d:v1"]),
        ("docker.io/*/d", &["a/b:latest", "a/b:v1", "a/b:v2"]),
        ("docker.io/**", &[]),
        ("quay.io/**", &["a/b:latest", "a/b:v1", "a/b:v2", "c/d:v1"]),
        ("c/d:v7", &["a/b:latest", "a/b:v1", "a/b:v2", "c/d:v1"]),
    ] {
        for (repository, tag, image) in all {
            origin.push(repository, tag, image);
            pull_of(&proxy, repository, tag, image).await;
        }
        let gone = purge(&proxy, json!({ "images": named })).await;
        let stay: Vec<_> = stay.iter().map(|name| format!("docker.io/{name}")).collect();
        assert_eq!(names(&images(&proxy, "").await), stay, "{named}: {gone}");
        let needed = stay.iter().any(|name| name.contains("v2") || name.contains("latest"));
        assert_eq!(proxy.has_stored(digest), needed, "{named}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_goes_with_its_images_and_with_what_is_attached_to_it() {
    let [here, signature] = [1, 2].map(|seed| Image::new(seed, &[1000]));
    let index = Manifest::index(&[&here.manifest]);
    let origin = Origin::start().await;
    origin.push("a/b", "one", &here);
    origin.put_manifest("a/b", &index);
    origin.tag("a/b", "all", &index.digest);
    let sig = format!("sha256-{}.sig", index.digest.hex());
    origin.push("a/b", &sig, &signature);
    let proxy = Setup::of(&origin).start().await;
    assert_eq!(proxy.get(&manifest("a/b", "all")).await.body, index.bytes);
    let digest = here.manifest.digest.as_str();
    pull_of(&proxy, "a/b", digest, &here).await;
    pull_of(&proxy, "a/b", &sig, &signature).await;
    let answer = purge(&proxy, json!({ "images": "a/b:all" })).await;
    assert_eq!(answer["images"].as_array().map(Vec::len), Some(2), "{answer}");
    assert_eq!(images(&proxy, "").await, [] as [Value; 0]);
    assert_eq!(answer["freed"]["files"], 7);
    assert_eq!(proxy.metric("roadstead_store_blobs", &[]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_used_for_so_long_goes_with_what_belongs_to_nothing() {
    let (origin, image, proxy) = pulled().await;
    let loose = Image::new(9, &[5000]);
    origin.push("e/f", "v1", &loose);
    assert_eq!(proxy.get(&blob("e/f", &loose.layers[0].digest)).await.status, 200);
    eventually("it is kept", || proxy.has_stored(&loose.layers[0].digest)).await;
    proxy.clock().advance(Duration::from_hours(24));
    let other = Image::new(7, &[1000]);
    origin.push("c/d", "v2", &other);
    pull_of(&proxy, "c/d", "v2", &other).await;
    let day = 24 * 3600;
    let idle = |seconds: u64| json!({ "unused_for": seconds });
    assert_eq!(purge(&proxy, idle(day + 60)).await["freed"]["files"], 0);
    let answer = purge(&proxy, json!({ "unused_for": day - 60, "images": "c/**" })).await;
    assert_eq!(answer["freed"]["files"], 0, "{answer}");
    let answer = purge(&proxy, idle(day - 60)).await;
    assert_eq!(answer["images"].as_array().map(Vec::len), Some(1), "{answer}");
    assert_eq!(answer["freed"]["files"], 4, "a manifest, two blobs of it, and a loose one");
    assert_eq!(names(&images(&proxy, "").await), ["docker.io/c/d:v2"]);
    assert!(
        !proxy.has_stored(&image.layers[0].digest) && !proxy.has_stored(&loose.layers[0].digest)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_what_goes_reads_it_to_its_end() {
    let image = Image::new(1, &[40 << 20]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    pull(&proxy, &image).await;
    let layer = &image.layers[0];
    let mut reader = proxy.open(&blob("a/b", &layer.digest)).await;
    assert!(reader.read(1000).await >= 1000);
    let answer = purge(&proxy, json!({ "images": "a/b" })).await;
    assert_eq!(answer["freed"]["files"], 3);
    assert!(!proxy.has_stored(&layer.digest));
    assert_eq!(reader.finish().await.digest(), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_order_is_told_in_a_sentence() {
    let (_origin, _image, proxy) = pulled().await;
    for (request, word) in [
        (json!({}), "say which images"),
        (json!({ "images": "a//*" }), "empty component"),
        (json!({ "images": "Nginx" }), "lower-case"),
        (json!({ "image": "a/b" }), "image"),
        (json!({ "unused_for": "30d" }), "30d"),
        (json!([]), "cannot be read"),
    ] {
        let (status, answer) = order(&proxy, "/v1/purge", &request).await;
        let said = answer["error"].as_str().expect("a sentence");
        assert!(status == 400 && said.contains(word), "{request}: {status} {said}");
    }
    assert_eq!(images(&proxy, "").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_purges_with_a_server_and_without_and_its_exit_code_tells() {
    let (_origin, _image, mut proxy) = pulled().await;
    let (code, said, _) = command(&proxy, &["purge", "a/b:v1", "--dry-run"]);
    assert!(code == Some(0) && said.starts_with("docker.io/a/b:v1\n1 image would go: "), "{said}");
    let (code, said, errors) = command(&proxy, &["purge", "a/b:v2"]);
    assert!(code == Some(1) && errors.contains("nothing that is cached is a/b:v2"), "{said}");
    assert_eq!(command(&proxy, &["purge", "quay.io/**"]).0, Some(0), "a pattern may match nothing");
    assert_eq!(command(&proxy, &["purge", "--unused-for", "30d"]).0, Some(0));
    for wrong in [&["purge"][..], &["purge", "--unused-for", "30"]] {
        assert_eq!(command(&proxy, wrong).0, Some(2), "{wrong:?}");
    }
    proxy.stop().await;
    let (code, json, errors) = command(&proxy, &["purge", "a/b:v1", "--json"]);
    let answer: Value = serde_json::from_str(&json).expect("JSON");
    assert!(code == Some(0) && answer["freed"]["files"] == 3, "{json}{errors}");
    proxy.start().await;
    assert_eq!(images(&proxy, "").await, [] as [Value; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_on_its_way_while_its_image_goes_arrives_whole() {
    let image = Image::new(1, &[3 << 20]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    let layer = &image.layers[0];
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
    let gate = origin.hold_at(&layer.digest, 1 << 20);
    let mut reader = proxy.open(&blob("a/b", &layer.digest)).await;
    assert!(reader.read(1000).await >= 1000);
    let answer = purge(&proxy, json!({ "images": "a/b" })).await;
    assert_eq!(answer["freed"]["files"], 1, "its manifest");
    gate.open();
    assert_eq!(reader.finish().await.digest(), layer.digest);
    eventually("it is kept", || proxy.has_stored(&layer.digest)).await;
    pull(&proxy, &image).await;
    assert_eq!(origin.blob_gets(&layer.digest), 1);
}
