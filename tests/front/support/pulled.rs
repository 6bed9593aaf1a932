//! An image that has been pulled, to see what becomes of it.

use super::eventually;
use super::image::Image;
use super::origin::Origin;
use super::proxy::{Proxy, blob, manifest};

/// A proxy that has pulled `a/b:v1` whole, from the default upstream.
pub(crate) async fn pulled() -> (Origin, Image, Proxy) {
    let image = Image::new(1, &[300_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    pull(&proxy, &image).await;
    (origin, image, proxy)
}

/// Pulls `a/b:v1` and waits until all of it is stored.
pub(crate) async fn pull(proxy: &Proxy, image: &Image) {
    for path in paths(image) {
        assert_eq!(proxy.get(&path).await.status, 200, "{path}");
    }
    for part in image.layers.iter().chain([&image.config]) {
        eventually("the blob is stored", || proxy.has_stored(&part.digest)).await;
    }
}

/// Pulls a tag with all that it needs, and waits until it is stored.
pub(crate) async fn pull_of(proxy: &Proxy, repository: &str, tag: &str, image: &Image) {
    assert_eq!(proxy.get(&manifest(repository, tag)).await.status, 200);
    for part in image.layers.iter().chain([&image.config]) {
        assert_eq!(proxy.get(&blob(repository, &part.digest)).await.status, 200);
        eventually("it is kept", || proxy.has_stored(&part.digest)).await;
    }
    eventually("it is kept", || proxy.has_stored(&image.manifest.digest)).await;
}

/// Pulls `a/b:v1`, and compares every byte that is kept.
pub(crate) async fn pull_exactly(proxy: &Proxy, image: &Image) {
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, image.manifest.bytes);
    for layer in image.layers.iter().chain([&image.config]) {
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    }
}

/// Everything that a pull of `a/b:v1` asks for: by tag, by digest, the configuration, the first
/// layer.
pub(crate) fn paths(image: &Image) -> [String; 4] {
    [
        manifest("a/b", "v1"),
        manifest("a/b", &image.manifest.digest),
        blob("a/b", &image.config.digest),
        blob("a/b", &image.layers[0].digest),
    ]
}
