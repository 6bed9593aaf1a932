//! Images that stay in the cache whatever needs room (docs/control.md).

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::control::{ask, command, images, names, order};
use crate::support::image::{Image, Manifest};
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::pulled::pull_of;
use crate::support::{eventually, eventually_true};

const MIB: u64 = 1 << 20;

async fn small(origin: &Origin) -> Proxy {
    let mut setup = Setup::of(origin);
    setup.config.cache.max_size = 10 * MIB;
    setup.start().await
}

/// Pulls so many other layers of a MiB that everything goes that may.
async fn flood(proxy: &Proxy, origin: &Origin, seed: u64) {
    for seed in seed * 100..seed * 100 + 12 {
        let layer = origin.blob("x/y", seed, MIB);
        assert_eq!(proxy.get(&blob("x/y", &layer.digest)).await.digest(), layer.digest);
        proxy.clock().advance(Duration::from_secs(1));
        proxy.settled().await;
    }
}

async fn pin(proxy: &Proxy, lines: &[&str]) -> (u16, Value) {
    order(proxy, "/v1/pin", &json!({ "images": lines })).await
}

/// Waits until `images` says so of exactly these.
async fn pinned(proxy: &Proxy, wanted: &[&str]) {
    eventually_true("these are pinned", async || {
        let all = images(proxy, "").await;
        let pinned: Vec<_> = all.into_iter().filter(|image| image["pinned"] == true).collect();
        names(&pinned) == wanted
    })
    .await;
}

fn is_whole(proxy: &Proxy, image: &Image) -> bool {
    let layers = image.layers.iter().map(|layer| &layer.digest);
    layers.chain([&image.manifest.digest, &image.config.digest]).all(|part| proxy.has_stored(part))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_image_stays_until_it_is_unpinned_and_over_restarts() {
    let [image, other] = [1, 2].map(|seed| Image::new(seed, &[2 * MIB]));
    let origin = Origin::with("a/b", "v1", &image).await;
    origin.push("a/b", "v2", &other);
    let mut proxy = small(&origin).await;
    pull_of(&proxy, "a/b", "v1", &image).await;
    pull_of(&proxy, "a/b", "v2", &other).await;
    let (status, answer) = pin(&proxy, &["docker.io/a/b:v1"]).await;
    assert_eq!((status, &answer["pins"][0]["images"]), (200, &json!(1)), "{answer}");
    assert_eq!(answer["pins"][0]["by"], "command");
    pinned(&proxy, &["docker.io/a/b:v1"]).await;
    for start in 1..4 {
        flood(&proxy, &origin, start).await;
        assert!(is_whole(&proxy, &image), "{start}");
        assert!(proxy.metric("roadstead_store_bytes", &[]) <= 10 << 20);
        proxy.restart().await;
        // Before anything can be evicted.
        pinned(&proxy, &["docker.io/a/b:v1"]).await;
    }
    assert!(!is_whole(&proxy, &other), "it was not pinned");
    let taken = || proxy.metric("roadstead_store_pinned_bytes", &[]);
    eventually("the index is loaded", || taken() > 2 << 20).await;
    assert_eq!(origin.blob_gets(&image.layers[0].digest), 1);
    let (status, answer) = order(&proxy, "/v1/unpin", &json!({ "images": ["a/b:v1"] })).await;
    assert_eq!((status, &answer["unpinned"]), (200, &json!(["docker.io/a/b:v1"])), "{answer}");
    assert_eq!(
        (&answer["bytes"], proxy.metric("roadstead_store_pinned_bytes", &[])),
        (&json!(0), 0)
    );
    flood(&proxy, &origin, 9).await;
    assert!(!proxy.has_stored(&image.layers[0].digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pin_holds_what_comes_later_and_follows_its_tag() {
    let [first, next] = [1, 2].map(|seed| Image::new(seed, &[2 * MIB]));
    let origin = Origin::with("a/b", "v1", &first).await;
    let proxy = small(&origin).await;
    assert_eq!(pin(&proxy, &["a/b:v1"]).await.0, 200, "nobody has pulled it yet");
    pull_of(&proxy, "a/b", "v1", &first).await;
    pinned(&proxy, &["docker.io/a/b:v1"]).await;
    flood(&proxy, &origin, 1).await;
    assert!(is_whole(&proxy, &first));
    origin.push("a/b", "v1", &next);
    proxy.clock().advance(Duration::from_hours(1));
    pull_of(&proxy, "a/b", "v1", &next).await;
    eventually_true("the tag has moved, and the pin with it", async || {
        let all = images(&proxy, "").await;
        let pinned = all.iter().filter(|image| image["pinned"] == true);
        pinned.map(|image| &image["digest"]).collect::<Vec<_>>() == [next.manifest.digest.as_str()]
    })
    .await;
    flood(&proxy, &origin, 2).await;
    assert!(is_whole(&proxy, &next));
    assert!(!proxy.has_stored(&first.layers[0].digest), "it is let go");
}

#[tokio::test(flavor = "multi_thread")]
async fn wanted_platforms_and_what_is_attached_stay_and_others_go() {
    let [amd, arm, signature] = [1, 2, 3].map(|seed| Image::new(seed, &[MIB]));
    let entry = |image: &Image, architecture: &str| {
        json!({ "mediaType": image.manifest.media_type, "digest": image.manifest.digest.as_str(),
            "size": image.manifest.bytes.len(),
            "platform": { "os": "linux", "architecture": architecture } })
    };
    let kind = "application/vnd.oci.image.index.v1+json";
    let text = json!({ "schemaVersion": 2, "mediaType": kind,
        "manifests": [entry(&amd, "amd64"), entry(&arm, "arm64")] });
    let index = Manifest::new(kind, text.to_string());
    let origin = Origin::start().await;
    for image in [&amd, &arm] {
        origin.push("a/b", "part", image);
    }
    origin.put_manifest("a/b", &index);
    origin.tag("a/b", "all", &index.digest);
    let sig = format!("sha256-{}.sig", amd.manifest.digest.hex());
    origin.push("a/b", &sig, &signature);
    let proxy = small(&origin).await;
    assert_eq!(pin(&proxy, &["a/b:all platform=linux/amd64"]).await.0, 200);
    assert_eq!(proxy.get(&manifest("a/b", "all")).await.body, index.bytes);
    for image in [&amd, &arm] {
        pull_of(&proxy, "a/b", image.manifest.digest.as_str(), image).await;
    }
    pull_of(&proxy, "a/b", &sig, &signature).await;
    pinned(&proxy, &["docker.io/a/b:all", &format!("docker.io/a/b:{sig}")]).await;
    flood(&proxy, &origin, 1).await;
    assert!(
        proxy.has_stored(&index.digest) && is_whole(&proxy, &amd) && is_whole(&proxy, &signature)
    );
    assert!(!proxy.has_stored(&arm.layers[0].digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_with_the_sizes_and_what_grows_out_of_it_blocks_nobody() {
    let [large, fits, grown] = [(1, 4 * MIB), (2, 4 * MIB), (3, 4 * MIB)]
        .map(|(seed, size)| Image::new(seed, &[size, seed + 1]));
    let more = Image::new(4, &[4 * MIB, 3 * MIB]);
    let origin = Origin::with("a/b", "large", &large).await;
    origin.push("a/b", "fits", &fits);
    let proxy = small(&origin).await;
    for (tag, image) in [("fits", &fits), ("large", &large)] {
        pull_of(&proxy, "a/b", tag, image).await;
        assert_eq!(pin(&proxy, &[&format!("a/b:{tag}")]).await.0, 200);
    }
    origin.push("a/b", "more", &grown);
    assert_eq!(proxy.get(&manifest("a/b", "more")).await.status, 200);
    let (status, answer) = pin(&proxy, &["a/b:more"]).await;
    let said = answer["error"].as_str().expect("a sentence");
    assert!(
        status == 409 && said.starts_with("docker.io/a/b:more does not fit: it takes 4"),
        "{said}"
    );
    assert!(said.contains("pins may take 9437184 bytes") && said.contains("and 83"), "{said}");
    let (_, answer) = ask(&proxy, "/v1/pins").await;
    assert_eq!(answer["pins"].as_array().map(Vec::len), Some(2), "{answer}");
    // The tag moves to something larger: it is told, cached like other things, and the rest goes on.
    origin.push("a/b", "fits", &more);
    proxy.clock().advance(Duration::from_hours(1));
    assert_eq!(proxy.get(&manifest("a/b", "fits")).await.status, 200);
    eventually("it is told", || proxy.metric("roadstead_pins_unheld", &[]) == 1).await;
    let (_, answer) = ask(&proxy, "/v1/pins").await;
    assert_eq!(answer["pins"][0]["unheld"], json!(["docker.io/a/b:fits"]), "{answer}");
    flood(&proxy, &origin, 1).await;
    assert!(is_whole(&proxy, &large) && !proxy.has_stored(&fits.layers[0].digest));
    let layer = origin.blob("x/y", 1111, MIB);
    proxy.get(&blob("x/y", &layer.digest)).await;
    eventually("others are cached", || proxy.has_stored(&layer.digest)).await;
    // With room again it is kept, as it comes.
    assert_eq!(order(&proxy, "/v1/unpin", &json!({ "images": ["a/b:large"] })).await.0, 200);
    pull_of(&proxy, "a/b", "fits", &more).await;
    eventually("it fits", || proxy.metric("roadstead_pins_unheld", &[]) == 0).await;
    flood(&proxy, &origin, 2).await;
    assert!(is_whole(&proxy, &more));
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_of_the_configuration_come_and_go_with_it() {
    let image = Image::new(1, &[2 * MIB]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let with = |pins: &str| {
        format!(
            "cache: {{ path: CACHE, min_free: 0, max_size: 10MiB, pins: [{pins}] }}\n\
             upstreams: {{ docker.io: {{ url: \"{}\" }} }}\n\
             access: {{ rules: [{{ who: anonymous, networks: [0.0.0.0/0], allow: [pull], images: ['**'] }}] }}\n",
            origin.url()
        )
    };
    let proxy = Setup::written(&with("'docker.io/a/*'")).start().await;
    pull_of(&proxy, "a/b", "v1", &image).await;
    pinned(&proxy, &["docker.io/a/b:v1"]).await;
    flood(&proxy, &origin, 1).await;
    assert!(is_whole(&proxy, &image));
    let (status, answer) = order(&proxy, "/v1/unpin", &json!({ "images": ["a/b:v1"] })).await;
    let said = answer["error"].as_str().expect("a sentence");
    assert!(status == 409 && said.contains("docker.io/a/* stands in `cache.pins`"), "{said}");
    assert_eq!(proxy.reconfigure(&with("")).await, (1, 0));
    pinned(&proxy, &[]).await;
    assert_eq!(proxy.reconfigure(&with("\"a/b:v1\"")).await, (2, 0));
    pinned(&proxy, &["docker.io/a/b:v1"]).await;
    assert_eq!(proxy.reconfigure(&with("A/b")).await, (2, 1), "it is no name");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_is_not_purged() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    origin.push("a/b", "v2", &image);
    let proxy = Proxy::of(&origin).await;
    for tag in ["v1", "v2"] {
        pull_of(&proxy, "a/b", tag, &image).await;
    }
    assert_eq!(pin(&proxy, &["a/b:v1"]).await.0, 200);
    proxy.clock().advance(Duration::from_hours(1000));
    for request in [json!({ "images": "docker.io/**" }), json!({ "unused_for": 60 })] {
        let (_, answer) = order(&proxy, "/v1/purge", &request).await;
        assert_eq!(answer["pinned"][0]["tag"], "v1", "{answer}");
        assert_eq!(answer["freed"]["files"], 0);
    }
    assert_eq!(names(&images(&proxy, "").await), ["docker.io/a/b:v1"], "the other tag is gone");
    assert!(is_whole(&proxy, &image));
    let (code, _, errors) = command(&proxy, &["purge", "a/b:v1"]);
    assert!(code == Some(1) && errors.contains("a/b:v1 is pinned: unpin it first"), "{errors}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_pin_with_a_server_and_without_and_say_what_is_pinned() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let mut proxy = Proxy::of(&origin).await;
    pull_of(&proxy, "a/b", "v1", &image).await;
    let (code, said, errors) = command(&proxy, &["pin", "a/b:v1", "--platform", "linux/amd64"]);
    let line = "docker.io/a/b:v1 platform=linux/amd64: ";
    assert!(code == Some(0) && said.starts_with(line), "{said}{errors}");
    proxy.stop().await;
    let (code, said, _) = command(&proxy, &["pin"]);
    assert!(code == Some(0) && said.starts_with(line) && said.contains("in 1 images\n"), "{said}");
    assert_eq!(command(&proxy, &["pin", "quay.io/**"]).0, Some(0));
    for (arguments, word) in [
        (&["pin", "Nginx"][..], "lower-case"),
        (&["pin", "a/b", "--platform", "amd64"], "a platform is"),
        (&["unpin", "a/c"], "nothing is pinned as docker.io/a/c:latest"),
        (&["unpin", "a/b:v2"], "docker.io/a/b:v1 is"),
    ] {
        let (code, _, errors) = command(&proxy, arguments);
        assert!(code == Some(1) && errors.contains(word), "{arguments:?}: {errors}");
    }
    let (code, table, _) = command(&proxy, &["images"]);
    let row = table.lines().nth(1).expect("a row");
    assert!(code == Some(0) && row.contains("  yes  "), "{table}");
    let (code, said, errors) = command(&proxy, &["unpin", "**"]);
    assert!(
        code == Some(0) && said.starts_with("docker.io/a/b:v1\nquay.io/**\n0 B of "),
        "{said}{errors}"
    );
    assert_eq!(command(&proxy, &["unpin"]).0, Some(2));
}
