//! Who may read what is cached: only a repository that its upstream has vouched for (DESIGN §14.1).

use std::time::Duration;

use crate::support::content::{Blob, Content};
use crate::support::eventually;
use crate::support::image::{Image, Manifest, OCI_MANIFEST};
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

const MIB: u64 = 1 << 20;
const PROOF_TTL: Duration = Duration::from_secs(601);

fn asked(origin: &Origin, method: &str, repository: &str) -> usize {
    origin.count(|request| request.method == method && request.repository == repository)
}

/// Pulls each of these through `a/b`, and waits until it is stored.
async fn store(proxy: &Proxy, layers: [&Blob; 2]) {
    for layer in layers {
        proxy.get(&blob("a/b", &layer.digest)).await;
        eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    }
}

/// A proxy that has stored a layer through `a/b`.
async fn stored() -> (Origin, Blob, Proxy) {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 300_000);
    let proxy = Proxy::of(&origin).await;
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    (origin, layer, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_without_the_blob_cannot_read_it() {
    let (origin, layer, proxy) = stored().await;
    let path = blob("c/d", &layer.digest);
    assert_eq!(proxy.get(&path).await.refusal(), (404, "BLOB_UNKNOWN".into()));
    assert_eq!(proxy.head(&path).await.status, 404);
    assert_eq!(proxy.get_range(&path, "bytes=0-9").await.status, 404);
    assert_eq!((asked(&origin, "HEAD", "c/d"), asked(&origin, "GET", "c/d")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_with_the_blob_proves_it_once_and_downloads_nothing() {
    let (origin, layer, proxy) = stored().await;
    origin.put_blob("c/d", &layer);
    for _ in 0..3 {
        assert_eq!(proxy.get(&blob("c/d", &layer.digest)).await.digest(), layer.digest);
    }
    assert_eq!((asked(&origin, "HEAD", "c/d"), asked(&origin, "GET", "c/d")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_upstreams_do_not_vouch_for_each_other() {
    let (hub, quay) = (Origin::start().await, Origin::start().await);
    let layer = hub.blob("a/b", 1, 300_000);
    let mut setup = Setup::of(&hub);
    setup.upstream("quay.io", &quay);
    let proxy = setup.start().await;
    proxy.get(&blob("a/b", &layer.digest)).await;
    eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    assert_eq!(proxy.get(&blob("quay.io/a/b", &layer.digest)).await.status, 404);

    quay.put_blob("a/b", &layer);
    proxy.clock().advance(Duration::from_secs(11));
    assert_eq!(proxy.get(&blob("quay.io/a/b", &layer.digest)).await.digest(), layer.digest);
    assert_eq!(quay.blob_gets(&layer.digest), 0, "the bytes are shared, the right is not");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_is_guarded_like_a_blob() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    proxy.get(&manifest("a/b", "v1")).await;
    assert_eq!(proxy.get(&manifest("c/d", &image.manifest.digest)).await.status, 404);
    origin.push("e/f", "v1", &image);
    assert_eq!(
        proxy.get(&manifest("e/f", &image.manifest.digest)).await.body,
        image.manifest.bytes
    );
    assert_eq!((asked(&origin, "HEAD", "e/f"), asked(&origin, "GET", "e/f")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_lists_a_digest_proves_nothing() {
    let (origin, layer, proxy) = stored().await;
    let claim = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{OCI_MANIFEST}\",\"layers\":[{{\"mediaType\":\"x/y\",\"digest\":\"{}\",\"size\":300000}}]}}",
        layer.digest
    );
    let claim = Manifest::new(OCI_MANIFEST, claim);
    origin.put_manifest("evil/app", &claim);
    origin.tag("evil/app", "v1", &claim.digest);
    assert_eq!(proxy.get(&manifest("evil/app", "v1")).await.status, 200);
    assert_eq!(proxy.get(&blob("evil/app", &layer.digest)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_in_progress_is_joined_only_with_a_proof() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 4 * MIB);
    origin.put_blob("c/d", &layer);
    let gate = origin.hold_at(&layer.digest, MIB);
    let proxy = Proxy::of(&origin).await;
    let mut first = proxy.open(&blob("a/b", &layer.digest)).await;
    first.read(1).await;
    assert_eq!(proxy.get(&blob("x/y", &layer.digest)).await.status, 404, "unproven");
    let joined = proxy.open(&blob("c/d", &layer.digest)).await;
    assert_eq!(asked(&origin, "HEAD", "c/d"), 1);
    gate.open();
    assert_eq!(joined.finish().await.digest(), layer.digest);
    assert_eq!(first.finish().await.digest(), layer.digest);
    assert_eq!(origin.blob_gets(&layer.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_is_believed_for_its_time_and_renewed_with_one_head() {
    let (origin, layer, proxy) = stored().await;
    let path = blob("a/b", &layer.digest);
    assert_eq!(proxy.get(&path).await.status, 200);
    assert_eq!(asked(&origin, "HEAD", "a/b"), 0);
    proxy.clock().advance(PROOF_TTL);
    for _ in 0..3 {
        assert_eq!(proxy.get(&path).await.digest(), layer.digest);
    }
    assert_eq!((asked(&origin, "HEAD", "a/b"), asked(&origin, "GET", "a/b")), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn any_answer_of_a_repository_renews_its_proofs() {
    let image = Image::new(1, &[300_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    let layer = blob("a/b", &image.layers[0].digest);
    proxy.get(&manifest("a/b", "v1")).await;
    proxy.get(&layer).await;
    proxy.clock().advance(PROOF_TTL);
    proxy.get(&manifest("a/b", "v1")).await;
    let before = origin.requests().len();
    assert_eq!(proxy.get(&layer).await.status, 200);
    assert_eq!(origin.requests().len(), before, "the tag's check was proof enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_takes_every_proof_of_the_repository() {
    for status in [401, 403] {
        let origin = Origin::start().await;
        let (one, two) = (origin.blob("a/b", 1, 1000), origin.blob("a/b", 2, 1000));
        let proxy = Proxy::of(&origin).await;
        store(&proxy, [&one, &two]).await;
        proxy.clock().advance(PROOF_TTL);
        origin.fault(On::kind(Kind::Blob), Fault::Status(status));
        let refused = proxy.get(&blob("a/b", &one.digest)).await;
        assert_eq!(refused.refusal(), (404, "NAME_UNKNOWN".into()), "{status}");
        let other = proxy.get(&blob("a/b", &two.digest)).await;
        assert_eq!(other.status, 404, "{status}: the other blob of that repository too");
        origin.stop().await;
        let answer = proxy.get(&blob("a/b", &two.digest)).await;
        assert_ne!(answer.status, 200, "{status}: an outage does not bring the right back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_deleted_upstream_is_gone_and_its_neighbours_are_not() {
    let origin = Origin::start().await;
    let (gone, kept) = (origin.blob("a/b", 1, 1000), origin.blob("a/b", 2, 1000));
    let proxy = Proxy::of(&origin).await;
    store(&proxy, [&gone, &kept]).await;
    origin.remove_blob("a/b", &gone.digest);
    proxy.clock().advance(PROOF_TTL);
    assert_eq!(proxy.get(&blob("a/b", &gone.digest)).await.refusal(), (404, "BLOB_UNKNOWN".into()));
    assert_eq!(proxy.get(&blob("a/b", &kept.digest)).await.digest(), kept.digest);
    assert_eq!(origin.blob_gets(&kept.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_out_about_one_blob_says_nothing_about_another() {
    let origin = Origin::start().await;
    let (one, two) = (origin.blob("a/b", 1, 1000), origin.blob("a/b", 2, 1000));
    let proxy = Proxy::of(&origin).await;
    store(&proxy, [&one, &two]).await;
    origin.remove_blob("a/b", &one.digest);
    origin.remove_blob("a/b", &two.digest);
    proxy.clock().advance(PROOF_TTL);
    let gate = Gate::new();
    origin.fault(On::path(&one.digest).heads(), Fault::HoldHead(gate.clone()));
    let (path_one, path_two) = (blob("a/b", &one.digest), blob("a/b", &two.digest));
    let (first, second, ()) = tokio::join!(proxy.get(&path_one), proxy.get(&path_two), async {
        eventually("the first doubt is under way", || gate.reached() == 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        gate.open();
    });
    assert_eq!((first.status, second.status), (404, 404));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_deleted_upstream_is_gone_by_digest_too() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    let path = manifest("a/b", &image.manifest.digest);
    assert_eq!(proxy.get(&path).await.status, 200);
    origin.remove_manifest("a/b", &image.manifest.digest);
    assert_eq!(proxy.get(&path).await.status, 200, "within the proof's time");
    proxy.clock().advance(PROOF_TTL);
    assert_eq!(proxy.get(&path).await.refusal(), (404, "MANIFEST_UNKNOWN".into()));
}

/// Two images of `a/b`, the second of which is tagged `kept`, both pulled by digest.
async fn two_images() -> (Origin, [Image; 2], Proxy) {
    let images = [Image::new(1, &[1000]), Image::new(2, &[1000])];
    let origin = Origin::with("a/b", "gone", &images[0]).await;
    origin.push("a/b", "kept", &images[1]);
    let proxy = Proxy::of(&origin).await;
    for image in &images {
        assert_eq!(proxy.get(&manifest("a/b", &image.manifest.digest)).await.status, 200);
        let layer = &image.layers[0].digest;
        assert_eq!(proxy.get(&blob("a/b", layer)).await.status, 200);
        eventually("the layer is stored", || proxy.has_stored(layer)).await;
    }
    (origin, images, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_image_is_gone_although_another_of_its_repository_is_confirmed() {
    let (origin, [gone, kept], mut proxy) = two_images().await;
    origin.remove_manifest("a/b", &gone.manifest.digest);
    origin.untag("a/b", "gone");
    let path = manifest("a/b", &gone.manifest.digest);
    assert_eq!(proxy.get(&path).await.status, 200, "within the proof's time");
    proxy.clock().advance(PROOF_TTL);
    // Each confirms the repository anew, in every way.
    assert_eq!(proxy.get(&manifest("a/b", "kept")).await.status, 200);
    assert_eq!(proxy.get(&manifest("a/b", &kept.manifest.digest)).await.status, 200);
    assert_eq!(proxy.get(&blob("a/b", &kept.layers[0].digest)).await.status, 200);
    for method in [http::Method::HEAD, http::Method::GET] {
        assert_eq!(proxy.request(method, &path, &[]).await.status, 404);
    }
    let layer = blob("a/b", &gone.layers[0].digest);
    assert_eq!(proxy.get(&layer).await.status, 200, "its blobs stand and fall with the repository");
    proxy.restart().await;
    origin.stop().await;
    assert_ne!(proxy.get(&path).await.status, 200, "an outage does not bring it back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_its_registry_has_as_a_blob_still_is_deleted() {
    let (origin, [gone, _], proxy) = two_images().await;
    origin.remove_manifest("a/b", &gone.manifest.digest);
    let bytes = gone.manifest.bytes.clone();
    origin.put_blob("a/b", &Blob::new(Content::given(bytes)));
    proxy.clock().advance(PROOF_TTL);
    let digest = &gone.manifest.digest;
    proxy.head(&blob("a/b", digest)).await;
    assert_eq!(proxy.get(&manifest("a/b", digest)).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_manifest_is_confirmed_once_in_its_time_however_many_ask() {
    let (origin, images, mut proxy) = two_images().await;
    let heads = |image: &Image| {
        let digest = image.manifest.digest.to_string();
        origin.count(|request| request.method == "HEAD" && request.path.ends_with(&digest))
    };
    for round in 1..=2 {
        proxy.clock().advance(PROOF_TTL);
        for image in &images {
            let path = manifest("a/b", &image.manifest.digest);
            let answers = futures_util::future::join_all((0..5).map(|_| proxy.get(&path))).await;
            assert!(answers.iter().all(|answer| answer.status == 200));
        }
        proxy.restart().await;
        proxy.clock().advance(PROOF_TTL / 2);
        let before = origin.requests().len();
        for image in &images {
            assert_eq!(proxy.get(&manifest("a/b", &image.manifest.digest)).await.status, 200);
        }
        assert_eq!(origin.requests().len(), before, "a warm hit asks nothing");
        assert_eq!(images.each_ref().map(heads), [round, round]);
    }
    // A check of the tag is about its manifest too.
    proxy.clock().advance(PROOF_TTL);
    assert_eq!(proxy.get(&manifest("a/b", "kept")).await.status, 200);
    let before = origin.requests().len();
    assert_eq!(proxy.get(&manifest("a/b", &images[1].manifest.digest)).await.status, 200);
    assert_eq!(origin.requests().len(), before, "what the tag's check has named");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_keeps_every_manifest_of_a_repository_that_was_confirmed() {
    let (origin, images, proxy) = two_images().await;
    proxy.clock().advance(Duration::from_hours(20));
    assert_eq!(proxy.get(&manifest("a/b", "kept")).await.status, 200);
    origin.fault(On::any(), Fault::Status(503));
    proxy.clock().advance(Duration::from_hours(20));
    for image in &images {
        assert_eq!(proxy.get(&manifest("a/b", &image.manifest.digest)).await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_keeps_proofs_for_as_long_as_tags_may_be_stale() {
    for (what, fault) in
        [("hang-up", Fault::Hangup), ("503", Fault::Status(503)), ("429", Fault::Status(429))]
    {
        let (origin, layer, proxy) = stored().await;
        origin.fault(On::any(), fault);
        proxy.clock().advance(PROOF_TTL);
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest, "{what}");
        proxy.clock().advance(Duration::from_hours(24));
        let late = proxy.get(&blob("a/b", &layer.digest)).await;
        assert!(matches!(late.status, 429 | 502), "{what}: {}", late.status);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn proofs_outlive_a_restart() {
    let (origin, layer, mut proxy) = stored().await;
    proxy.restart().await;
    origin.stop().await;
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    assert_ne!(proxy.get(&blob("c/d", &layer.digest)).await.status, 200);
}
