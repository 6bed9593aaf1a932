//! A manifest that says a wrong size of a good blob harms nobody but those who pull by it (DESIGN
//! §14.5).

use serde_json::json;

use crate::support::content::Blob;
use crate::support::eventually;
use crate::support::image::{Image, Manifest, OCI_MANIFEST};
use crate::support::origin::{Fault, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

const SIZE: u64 = 300_000;

/// A manifest that says that `layer` has `size` bytes.
fn claim(layer: &Blob, size: u64) -> Manifest {
    let layer = json!({ "mediaType": "x/y", "digest": layer.digest.as_str(), "size": size });
    let document = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": [layer] });
    Manifest::new(OCI_MANIFEST, document.to_string())
}

/// An image in `a/b`, beside it a manifest that says a wrong size of its layer, and a proxy that
/// has seen that one.
async fn lied_to(size: u64, setup: impl FnOnce(&mut Setup)) -> (Origin, Image, Proxy) {
    let image = Image::new(1, &[SIZE]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let lie = claim(&image.layers[0], size);
    origin.put_manifest("a/b", &lie);
    let mut with = Setup::of(&origin);
    setup(&mut with);
    let proxy = with.start().await;
    assert_eq!(proxy.get(&manifest("a/b", &lie.digest)).await.status, 200);
    (origin, image, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_layer_is_served_whatever_another_manifest_says() {
    for size in [0, 10, SIZE - 1, SIZE + 1, 1 << 50] {
        for honest_first in [true, false] {
            let (origin, image, proxy) = lied_to(size, |_| {}).await;
            let layer = &image.layers[0];
            if honest_first {
                proxy.get(&manifest("a/b", "v1")).await;
            }
            let path = blob("a/b", &layer.digest);
            let head = proxy.head(&path).await;
            assert_eq!(head.header("content-length"), Some("300000"), "{size}");
            let part = proxy.get_range(&path, "bytes=200000-200009").await;
            assert_eq!((part.status, part.body), (206, layer.content.slice(200_000..200_010)));
            let whole = proxy.get(&path).await;
            assert_eq!((whole.status, whole.digest()), (200, layer.digest.clone()), "{size}");
            assert_eq!(origin.blob_gets(&layer.digest), 1, "{size}: and kept");
            let beyond = proxy.get_range(&path, "bytes=300000-").await;
            assert_eq!(beyond.header("content-range"), Some("bytes */300000"), "{size}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_differ_are_no_hint_where_upstream_announces_no_size() {
    let (origin, image, proxy) = lied_to(SIZE - 1, |_| {}).await;
    let layer = &image.layers[0];
    proxy.get(&manifest("a/b", "v1")).await;
    origin.fault(On::path(&layer.digest), Fault::Chunked);
    let cold = proxy.get(&blob("a/b", &layer.digest)).await;
    assert_eq!((cold.header("content-length"), cold.digest()), (None, layer.digest.clone()));
    eventually("it is stored", || proxy.has_stored(&layer.digest)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_hint_costs_one_client_its_connection_and_nobody_else() {
    for size in [100, 100_000, SIZE - 1, SIZE + 1, SIZE + 100_000] {
        for fault in [Fault::Chunked, Fault::UntilClose] {
            let (origin, image, proxy) = lied_to(size, |_| {}).await;
            let layer = &image.layers[0];
            origin.fault(On::path(&layer.digest), fault);
            let path = blob("a/b", &layer.digest);
            let first = proxy.get(&path).await;
            assert!(!first.complete || first.digest() == layer.digest, "{size}: {first:?}");
            eventually("it is stored", || proxy.has_stored(&layer.digest)).await;
            assert_eq!(proxy.get(&path).await.digest(), layer.digest, "{size}");
            assert_eq!(origin.blob_gets(&layer.digest), 1, "{size}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_not_kept_is_promised_no_size_by_a_manifest() {
    for size in [SIZE - 1, SIZE + 1] {
        let (origin, image, proxy) = lied_to(size, |setup| {
            setup.config.cache.max_size = SIZE;
        })
        .await;
        let layer = &image.layers[0];
        origin.fault(On::path(&layer.digest), Fault::Chunked);
        let answer = proxy.get(&blob("a/b", &layer.digest)).await;
        assert_eq!((answer.status, answer.digest()), (200, layer.digest.clone()), "{size}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_manifests_say_of_sizes_is_known_after_a_restart() {
    let image = Image::new(1, &[SIZE, 200_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let [first, second] = [&image.layers[0], &image.layers[1]];
    // Another manifest differs about the second, and another repository about the first.
    origin.put_manifest("a/b", &claim(second, 10));
    origin.put_manifest("c/d", &claim(first, 10));
    let mut proxy = Proxy::of(&origin).await;
    for (name, digest) in [
        ("a/b", &image.manifest.digest),
        ("a/b", &claim(second, 10).digest),
        ("c/d", &claim(first, 10).digest),
    ] {
        assert_eq!(proxy.get(&manifest(name, digest)).await.status, 200);
    }
    proxy.restart().await;
    for (layer, told) in [(first, Some("300000")), (second, None)] {
        origin.fault(On::path(&layer.digest), Fault::Chunked);
        let answer = proxy.get(&blob("a/b", &layer.digest)).await;
        assert_eq!(answer.header("content-length"), told);
        assert_eq!(answer.digest(), layer.digest);
    }
}
