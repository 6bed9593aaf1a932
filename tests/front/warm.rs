//! Images that are brought in before anybody pulls them, over the control socket (docs/warm.md).

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::support::commands::Answering;
use crate::support::content::{Blob, Content};
use crate::support::eventually;
use crate::support::image::{Image, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::support::origin::{Fault, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::pulled::pull_exactly;

const MIB: u64 = 1 << 20;

async fn begin(proxy: &Proxy, order: Value) -> Answering {
    let answering = Answering::to(proxy, "/v1/warm", &order).await;
    assert_eq!(answering.status, 200);
    answering
}

/// What comes of warming these lines of a list.
async fn warm(proxy: &Proxy, lines: &[&str]) -> Value {
    begin(proxy, json!({ "images": lines })).await.next_with("done").await
}

/// What is missing: image, what, reason.
fn missing(done: &Value) -> Vec<(String, String)> {
    let images = done["incomplete"].as_array().expect("a list");
    let parts = images.iter().flat_map(|image| image["missing"].as_array().expect("a list"));
    let text = |part: &Value, key: &str| part[key].as_str().expect("a text").to_owned();
    parts.map(|part| (text(part, "what"), text(part, "reason"))).collect()
}

/// An index of these images, each for linux and an architecture.
fn index(images: &[(&Image, &str)]) -> Manifest {
    let entry = |(image, architecture): &(&Image, &str)| {
        json!({
            "mediaType": OCI_MANIFEST, "digest": image.manifest.digest.as_str(),
            "size": image.manifest.bytes.len(),
            "platform": { "os": "linux", "architecture": architecture },
        })
    };
    let entries: Vec<_> = images.iter().map(entry).collect();
    let document = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    Manifest::new(OCI_INDEX, document.to_string())
}

/// `a/b:v1` for two platforms.
async fn for_two_platforms() -> (Origin, Manifest, Image, Image) {
    let [first, second] = [1, 2].map(|seed| Image::new(seed, &[100_000, 50_000]));
    let origin = Origin::with("a/b", "first", &first).await;
    origin.push("a/b", "second", &second);
    let index = index(&[(&first, "amd64"), (&second, "arm64")]);
    origin.put_manifest("a/b", &index);
    origin.tag("a/b", "v1", &index.digest);
    (origin, index, first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_warmed_is_pulled_without_the_registry() {
    let image = Image::new(1, &[300_000, MIB]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    let done = warm(&proxy, &["a/b:v1"]).await;
    assert_eq!(done["complete"], true, "{done}");
    assert_eq!(done["fetched"]["blobs"], 3);
    let bytes = image.config.len() + 300_000 + MIB;
    assert_eq!(done["fetched"]["bytes"], bytes);
    origin.stop().await;
    pull_exactly(&proxy, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_is_not_fetched_again() {
    let image = Image::new(1, &[300_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    warm(&proxy, &["a/b:v1"]).await;
    let done = warm(&proxy, &["a/b:v1", "docker.io/a/b:v1"]).await;
    assert_eq!((&done["complete"], &done["present"]["blobs"]), (&json!(true), &json!(2)));
    assert_eq!(done["fetched"], json!({ "blobs": 0, "bytes": 0 }));
    assert_eq!(origin.blob_gets(&image.layers[0].digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_pull_meanwhile_cost_no_second_download() {
    let image = Image::new(1, &[4 * MIB]);
    let layer = &image.layers[0];
    let origin = Origin::with("a/b", "v1", &image).await;
    let gate = origin.hold_at(&layer.digest, MIB);
    let proxy = Proxy::of(&origin).await;
    let mut warming = begin(&proxy, json!({ "images": ["a/b:v1"] })).await;
    eventually("it is asked for", || origin.blob_gets(&layer.digest) == 1).await;
    let path = blob("a/b", &layer.digest);
    let readings = [proxy.open(&path).await, proxy.open(&path).await];
    gate.open();
    for reading in readings {
        assert_eq!(reading.finish().await.digest(), layer.digest);
    }
    assert_eq!(warming.next_with("done").await["complete"], true);
    assert_eq!(origin.blob_gets(&layer.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_cut_goes_on_from_where_it_was() {
    let image = Image::new(1, &[4 * MIB]);
    let layer = &image.layers[0];
    let origin = Origin::with("a/b", "v1", &image).await;
    origin.fault(On::path(layer.digest.as_str()).gets().once(), Fault::CutAfter(2 * MIB));
    let proxy = Proxy::of(&origin).await;
    assert_eq!(warm(&proxy, &["a/b:v1"]).await["complete"], true);
    let ranges = origin.ranges(&layer.digest);
    assert!(ranges.len() == 2 && ranges[1].is_some(), "{ranges:?}");
    pull_exactly(&proxy, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_is_tried_again_and_what_goes_on_failing_is_told() {
    let image = Image::new(1, &[1000, 2000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let first = image.layers[0].digest.clone();
    origin.fault(On::path(first.as_str()).gets().times(4), Fault::Status(500));
    let proxy = Proxy::of(&origin).await;
    assert_eq!(warm_patiently(&proxy, "a/b:v1").await["complete"], true);
    let image = Image::of(2, vec![image.layers[0].clone(), Blob::seeded(9, 2000)]);
    origin.push("c/d", "v1", &image);
    let lost = image.layers[1].digest.clone();
    origin.fault(On::path(lost.as_str()), Fault::Status(500));
    let done = warm_patiently(&proxy, "c/d:v1").await;
    assert_eq!(missing(&done), [(lost.to_string(), "failed".to_owned())]);
    let tries = origin.blob_gets(&lost);
    assert!((8..=40).contains(&tries), "{tries}");
}

/// Lets time pass whenever something waits.
async fn warm_patiently(proxy: &Proxy, line: &str) -> Value {
    let mut warming = begin(proxy, json!({ "images": [line] })).await;
    loop {
        let mut line = warming.next().await.expect("it has an end");
        if let Some(done) = line.get_mut("done") {
            return done.take();
        }
        if line.get("waits").is_some() {
            proxy.clock().advance(Duration::from_mins(1));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_the_registry_asks_for_is_kept() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let throttled = On::path(image.layers[0].digest.as_str()).gets().once();
    origin.fault(throttled.clone(), Fault::Status(429));
    origin.fault(throttled, Fault::Header("Retry-After", Some("2".to_owned())));
    let proxy = Proxy::of(&origin).await;
    let mut warming = begin(&proxy, json!({ "images": ["a/b:v1"] })).await;
    let waits = warming.next_with("waits").await;
    assert_eq!(waits["name"], "docker.io/a/b");
    assert!(waits["why"].as_str().expect("a text").contains("no more requests"), "{waits}");
    proxy.clock().advance(Duration::from_secs(2));
    assert_eq!(warming.next_with("done").await["complete"], true);
    assert_eq!(origin.blob_gets(&image.layers[0].digest), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_index_the_wanted_platforms_come_and_all_if_nothing_is_said() {
    let (origin, index, first, second) = for_two_platforms().await;
    let proxy = Proxy::of(&origin).await;
    let done = warm(&proxy, &["a/b:v1 platform=linux/arm64"]).await;
    assert_eq!(done["complete"], true, "{done}");
    assert!(proxy.has_stored(&second.layers[1].digest));
    assert!(!proxy.has_stored(&first.manifest.digest) && !proxy.has_stored(&first.config.digest));
    let done = warm(&proxy, &["a/b:v1"]).await;
    assert_eq!((&done["complete"], &done["fetched"]["blobs"]), (&json!(true), &json!(3)));
    origin.stop().await;
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, index.bytes);
    for image in [&first, &second] {
        let found = proxy.get(&manifest("a/b", &image.manifest.digest)).await;
        assert_eq!(found.body, image.manifest.bytes);
        for part in image.layers.iter().chain([&image.config]) {
            assert_eq!(proxy.get(&blob("a/b", &part.digest)).await.digest(), part.digest);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_the_image_is_not_for_is_missing() {
    let (origin, ..) = for_two_platforms().await;
    let config = json!({ "os": "linux", "architecture": "amd64" }).to_string();
    let own = Image::new(3, &[70_000]);
    let single = with_config(&own, Blob::new(Content::given(config)));
    origin.push("a/b", "single", &single);
    let proxy = Proxy::of(&origin).await;
    for (line, lacks, found) in [
        ("a/b:v1 platform=linux/amd64,linux/s390x", &["platform linux/s390x"][..], false),
        ("a/b:single platform=linux/arm64", &["platform linux/arm64"], false),
        ("a/b:single platform=linux/amd64", &[], true),
    ] {
        let done = warm(&proxy, &[line]).await;
        let told: Vec<_> = missing(&done);
        let expected: Vec<_> =
            lacks.iter().map(|what| ((*what).to_owned(), "absent".to_owned())).collect();
        assert_eq!(told, expected, "{line}");
        assert_eq!(done["complete"], lacks.is_empty(), "{line}");
        assert_eq!(proxy.has_stored(&own.layers[0].digest), found, "{line}");
    }
}

/// The same layers with another configuration.
fn with_config(image: &Image, config: Blob) -> Image {
    let descriptor = |media_type: &str, blob: &Blob| json!({ "mediaType": media_type, "digest": blob.digest.as_str(), "size": blob.len() });
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", layer))
        .collect();
    let document = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
        "layers": layers,
    });
    let manifest = Manifest::new(OCI_MANIFEST, document.to_string());
    Image { manifest, config, layers: image.layers.clone() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_is_told_from_what_is_absent_and_neither_is_tried_again() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    origin.fault(On::path("secret/image"), Fault::Status(403));
    let proxy = Proxy::of(&origin).await;
    let done = warm(&proxy, &["secret/image:v1", "a/b:v1", "a/b:nowhere"]).await;
    let expected = [("tag v1", "refused"), ("tag nowhere", "absent")];
    assert_eq!(missing(&done), expected.map(|(what, why)| (what.to_owned(), why.to_owned())));
    assert_eq!(done["images"], 3);
    let refused = origin.count(|request| request.path.contains("secret/image"));
    assert!(refused <= 2, "HEAD and GET: {:?}", origin.requests());
    assert!(proxy.has_stored(&image.layers[0].digest), "the others come all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_are_told_together_before_anything_is_asked_for() {
    let origin = Origin::with("a/b", "v1", &Image::new(1, &[1000])).await;
    let proxy = Proxy::of(&origin).await;
    let order = json!({ "images": ["a/b:v1", "quay.io/x/y:1", "A", "a/b platform=x"] });
    let mut answering = Answering::to(&proxy, "/v1/warm", &order).await;
    assert_eq!(answering.status, 400);
    let error = answering.next_with("error").await;
    let lines: Vec<_> = error.as_str().expect("a text").lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "{lines:#?}");
    for (line, told) in lines.iter().zip(["quay.io", "lower-case", "platform"]) {
        assert!(line.contains(told), "{line}");
    }
    assert_eq!(origin.requests().len(), 0);
    for wrong in
        [json!({}), json!({ "images": [], "colour": 1 }), json!({ "images": [], "jobs": 0 })]
    {
        assert_eq!(Answering::to(&proxy, "/v1/warm", &wrong).await.status, 400, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_hangs_up_cancels_what_has_not_begun() {
    let images: Vec<_> = (1..=3).map(|seed| Image::new(seed, &[4 * MIB])).collect();
    let origin = Origin::start().await;
    for (image, nth) in images.iter().zip(1..) {
        origin.push("a/b", &format!("v{nth}"), image);
    }
    let gate = origin.hold_at(&images[0].layers[0].digest, MIB);
    let proxy = Proxy::of(&origin).await;
    let order = json!({ "images": ["a/b:v1", "a/b:v2", "a/b:v3"], "jobs": 1 });
    let warming = begin(&proxy, order).await;
    eventually("it is asked for", || origin.blob_gets(&images[0].layers[0].digest) == 1).await;
    drop(warming);
    // As long as the command runs, there is room for three others that take long.
    let mut others = Vec::new();
    eventually("the work has ended", || {
        tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current().block_on(async {
                others.clear();
                for _ in 0..4 {
                    let order = json!({ "images": ["a/b:v1"] });
                    others.push(Answering::to(&proxy, "/v1/warm", &order).await);
                }
            });
        });
        others.iter().all(|other| other.status == 200)
    })
    .await;
    gate.open();
    for mut other in others {
        assert_eq!(other.next_with("done").await["complete"], true);
    }
    for image in &images[1..] {
        assert_eq!(origin.blob_gets(&image.layers[0].digest), 0);
    }
    assert_eq!(origin.blob_gets(&images[0].layers[0].digest), 1, "what had begun was joined");
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_come_before_warming() {
    let image = Image::new(1, &[4 * MIB, 4 * MIB, 4 * MIB]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let gates: Vec<_> =
        image.layers.iter().map(|layer| origin.hold_at(&layer.digest, MIB)).collect();
    let clients = Image::new(2, &[MIB]);
    origin.push("c/d", "v1", &clients);
    let mut setup = Setup::of(&origin);
    (setup.limits.fills, setup.limits.fills_per_upstream) = (1, 1);
    setup.limits.slow_transfer = Duration::from_hours(1);
    let proxy = setup.start().await;
    let mut warming = begin(&proxy, json!({ "images": ["a/b:v1"], "jobs": 4 })).await;
    eventually("all are asked for", || {
        image.layers.iter().all(|layer| origin.blob_gets(&layer.digest) > 0)
    })
    .await;
    // Nothing of what is warmed can come to its end before the client has been served.
    let answer = proxy.get(&blob("c/d", &clients.layers[0].digest)).await;
    assert_eq!(answer.digest(), clients.layers[0].digest);
    for gate in &gates {
        gate.open();
    }
    assert_eq!(warming.next_with("done").await["complete"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_told_at_the_end() {
    let origin = Origin::start().await;
    for (seed, tag) in (1..).zip(["v1", "v2", "v3"]) {
        origin.push("a/b", tag, &Image::new(seed, &[500_000]));
    }
    let mut setup = Setup::of(&origin);
    setup.config.cache.max_size = 1_400_000;
    let proxy = setup.start().await;
    let order = json!({ "images": ["a/b:v1", "a/b:v2", "a/b:v3"], "jobs": 1 });
    let done = begin(&proxy, order).await.next_with("done").await;
    assert_eq!(done["complete"], false, "{done}");
    let why = done["incomplete"][0]["missing"][0]["why"].as_str().expect("a text");
    assert!(why.contains("max_size"), "{done}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_registries_need_not_have_is_no_loss() {
    let image = Image::new(1, &[1000, 2000]);
    let foreign = String::from_utf8(image.manifest.bytes.to_vec()).expect("text").replacen(
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        1,
    );
    let image = Image { manifest: Manifest::new(OCI_MANIFEST, Bytes::from(foreign)), ..image };
    let origin = Origin::with("a/b", "v1", &image).await;
    origin.remove_blob("a/b", &image.layers[0].digest);
    let proxy = Proxy::of(&origin).await;
    let done = warm(&proxy, &["a/b:v1"]).await;
    assert_eq!(done["complete"], true, "{done}");
    assert!(proxy.has_stored(&image.layers[1].digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_fetches_manifests_and_says_what_is_missing() {
    let (origin, index, first, second) = for_two_platforms().await;
    let proxy = Proxy::of(&origin).await;
    let order = json!({ "images": ["a/b:v1"], "dry_run": true });
    let mut answering = begin(&proxy, order).await;
    let told = answering.next_with("image").await;
    let bytes = first.config.len() + second.config.len() + 300_000;
    assert_eq!(told["absent"], json!({ "blobs": 6, "bytes": bytes }));
    assert_eq!(told["digest"], index.digest.as_str());
    assert_eq!(told["platforms"], json!(["linux/amd64", "linux/arm64"]));
    let done = answering.next_with("done").await;
    assert_eq!((&done["dry_run"], &done["fetched"]), (&json!(true), &told["absent"]));
    assert_eq!(origin.count(|request| request.kind == Kind::Blob), 0);
}

/// As registries are pulled from by clients that may: a proof for this name, and for no other.
#[tokio::test(flavor = "multi_thread")]
async fn warming_gives_no_right_to_what_another_name_holds() {
    let image = Image::new(1, &[300_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    warm(&proxy, &["a/b:v1"]).await;
    let layer = &image.layers[0].digest;
    assert_eq!(proxy.get(&blob("c/d", layer)).await.status, 404);
    assert_eq!(proxy.get(&blob("a/b", layer)).await.status, 200);
}

/// An artifact that is attached to `subject`.
fn referrer(subject: &Manifest, seed: u64) -> Image {
    let image = Image::new(seed, &[500]);
    let text = String::from_utf8(image.manifest.bytes.to_vec()).expect("text");
    let mut document: Value = serde_json::from_str(&text).expect("JSON");
    document["subject"] = json!({
        "mediaType": subject.media_type, "digest": subject.digest.as_str(),
        "size": subject.bytes.len(),
    });
    Image { manifest: Manifest::new(OCI_MANIFEST, document.to_string()), ..image }
}

/// The parts of an image, stored or not.
fn stored(proxy: &Proxy, image: &Image) -> Vec<bool> {
    let parts = image.layers.iter().map(|layer| &layer.digest);
    parts
        .chain([&image.manifest.digest, &image.config.digest])
        .map(|of| proxy.has_stored(of))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_attached_comes_along_from_api_and_tags_and_what_is_attached_to_that() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let (sbom, signed) = (referrer(&image.manifest, 2), Image::new(4, &[300]));
    let signature = referrer(&sbom.manifest, 3);
    for (artifact, tag) in [(&sbom, "x"), (&signature, "y")] {
        origin.push("a/b", tag, artifact);
        origin.untag("a/b", tag);
    }
    origin.put_referrers(&image.manifest.digest, Manifest::index(&[&sbom.manifest]).bytes);
    origin.put_referrers(&sbom.manifest.digest, Manifest::index(&[&signature.manifest]).bytes);
    let tag = format!("{}.sig", image.manifest.digest.as_str().replace(':', "-"));
    origin.push("a/b", &tag, &signed);
    let proxy = Proxy::of(&origin).await;
    let done = warm(&proxy, &["a/b:v1 referrers=false"]).await;
    assert_eq!((&done["complete"], &done["fetched"]["blobs"]), (&json!(true), &json!(2)));
    let done = warm(&proxy, &["a/b:v1"]).await;
    assert_eq!((&done["complete"], &done["fetched"]["blobs"]), (&json!(true), &json!(6)), "{done}");
    for artifact in [&sbom, &signature, &signed] {
        assert_eq!(stored(&proxy, artifact), [true; 3]);
    }
    origin.stop().await;
    let found = proxy.get(&manifest("a/b", &tag)).await;
    assert_eq!(found.body, signed.manifest.bytes, "the tag of cosign is known as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tag_that_stands_in_for_the_api_comes_along() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let sbom = referrer(&image.manifest, 2);
    origin.push("a/b", "x", &sbom);
    let list = Manifest::index(&[&sbom.manifest]);
    origin.put_manifest("a/b", &list);
    let tag = image.manifest.digest.as_str().replace(':', "-");
    origin.tag("a/b", &tag, &list.digest);
    let proxy = Proxy::of(&origin).await;
    let done = warm(&proxy, &["a/b:v1"]).await;
    assert_eq!((&done["complete"], &done["fetched"]["blobs"]), (&json!(true), &json!(4)), "{done}");
    assert_eq!(stored(&proxy, &sbom), [true; 3]);
    origin.stop().await;
    assert_eq!(proxy.get(&manifest("a/b", &tag)).await.body, list.bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn attached_content_that_cannot_be_had_is_missing() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let sbom = referrer(&image.manifest, 2);
    origin.push("a/b", "x", &sbom);
    origin.remove_blob("a/b", &sbom.layers[0].digest);
    origin.put_referrers(&image.manifest.digest, Manifest::index(&[&sbom.manifest]).bytes);
    let proxy = Proxy::of(&origin).await;
    let done = warm(&proxy, &["a/b:v1"]).await;
    let expected = [(sbom.layers[0].digest.to_string(), "absent".to_owned())];
    assert_eq!(missing(&done), expected);
    origin.fault(On::path("referrers"), Fault::Status(403));
    let other = Image::new(3, &[1000]);
    origin.push("a/b", "v2", &other);
    let done = warm(&proxy, &["a/b:v2"]).await;
    let what = format!("referrers of {}", other.manifest.digest);
    assert_eq!(missing(&done), [(what, "refused".to_owned())], "{done}");
    assert_eq!(warm(&proxy, &["a/b:v2 referrers=false"]).await["complete"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_sealed_upstream_it_says_what_is_not_here_and_asks_nobody() {
    let [here, away] = [1, 2].map(|seed| Image::new(seed, &[1000]));
    let origin = Origin::with("a/b", "v1", &here).await;
    origin.push("a/b", "v2", &away);
    let sbom = referrer(&here.manifest, 3);
    origin.push("a/b", "x", &sbom);
    origin.put_referrers(&here.manifest.digest, Manifest::index(&[&sbom.manifest]).bytes);
    let mut proxy = Proxy::of(&origin).await;
    assert_eq!(warm(&proxy, &["a/b:v1"]).await["complete"], true);
    assert_eq!(proxy.get(&manifest("a/b", "v2")).await.status, 200);
    proxy.setup().config.upstreams[0].sealed = true;
    proxy.restart().await;
    let before = origin.requests().len();
    assert_eq!(warm(&proxy, &["a/b:v1"]).await["complete"], true);
    let done = warm(&proxy, &["a/b:v2", "a/b:v3"]).await;
    let [layer, config] = [&away.layers[0], &away.config].map(|part| part.digest.to_string());
    let mut told = missing(&done);
    told.sort();
    let mut expected = [layer, config, "tag v3".to_owned()].map(|what| (what, "sealed".to_owned()));
    expected.sort();
    assert_eq!(told, expected);
    assert_eq!(origin.requests().len(), before);
}

/// Where what stands before a registry answers instead of it: no tag of cosign is there, and that is
/// found out once.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_instead_of_a_registrys_404_is_no_loss_of_what_may_not_be_there() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    for what in ["sha256-", "referrers"] {
        let page = Bytes::from_static(b"<html>nothing here</html>");
        origin.fault(On::path(what), Fault::Instead(404, "text/html", page));
    }
    let proxy = Proxy::of(&origin).await;
    let done = warm_patiently(&proxy, "a/b:v1").await;
    assert_eq!(done["complete"], true, "{done}");
}

/// What one asker has on its way may take half of the room: the rest comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn what_finds_no_room_beside_others_comes_after_them() {
    let image = Image::new(1, &[300_000, 310_000, 320_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let old = Image::new(2, &[550_000, 560_000]);
    origin.push("a/b", "old", &old);
    let gates: Vec<_> =
        image.layers.iter().map(|layer| origin.hold_at(&layer.digest, 1000)).collect();
    let mut setup = Setup::of(&origin);
    setup.config.cache.max_size = 1_300_000;
    let proxy = setup.start().await;
    assert_eq!(warm(&proxy, &["a/b:old"]).await["complete"], true);
    let mut warming = begin(&proxy, json!({ "images": ["a/b:v1"] })).await;
    eventually("all are asked for", || {
        image.layers.iter().all(|layer| origin.blob_gets(&layer.digest) > 0)
    })
    .await;
    for gate in &gates {
        gate.open();
    }
    let done = warming.next_with("done").await;
    assert_eq!(done["complete"], true, "{done}");
}
