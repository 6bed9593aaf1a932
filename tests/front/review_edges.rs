//! Edges of the data path: files nobody vouches for, doubts shared by many, tags that move, ranges
//! nobody gives.

use std::time::Duration;

use bytes::Bytes;
use roadstead::config::MinFree;

use crate::support::content::Blob;
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::{Fault, Gate, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

const MIB: u64 = 1 << 20;
const PROOF_TTL: Duration = Duration::from_secs(601);

/// A proxy whose one stored blob, too large to be hashed at once, was cut to half while it was
/// stopped.
async fn cut_short() -> (Origin, Blob, Proxy) {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, MIB);
    let mut setup = Setup::of(&origin);
    setup.limits.manifest = 1000;
    let mut proxy = setup.start().await;
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    proxy.stop().await;
    std::fs::write(proxy.blob_path(&layer.digest), &layer.bytes()[..500_000])
        .expect("the directory is ours");
    proxy.start().await;
    (origin, layer, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_size_of_a_file_that_nobody_vouches_for_is_not_told() {
    let (_origin, layer, proxy) = cut_short().await;
    let head = proxy.head(&blob("a/b", &layer.digest)).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("1048576")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_behind_the_end_of_a_file_cut_short_makes_it_whole_again() {
    let (_origin, layer, proxy) = cut_short().await;
    let mut last = 0;
    for _ in 0..3 {
        let part = proxy.get_range(&blob("a/b", &layer.digest), "bytes=600000-600009").await;
        last = part.status;
        if last == 206 {
            assert_eq!(part.body, layer.content.slice(600_000..600_010));
            return;
        }
    }
    panic!("still {last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_found_out_about_one_blob_says_nothing_about_another() {
    let origin = Origin::start().await;
    let (one, two) = (origin.blob("a/b", 1, 1000), origin.blob("a/b", 2, 1000));
    let proxy = Proxy::of(&origin).await;
    for layer in [&one, &two] {
        proxy.get(&blob("a/b", &layer.digest)).await;
        eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
        origin.remove_blob("a/b", &layer.digest);
    }
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
async fn an_empty_body_that_is_passed_through_is_checked_too() {
    for lie in [Bytes::new(), Bytes::from_static(b"something else")] {
        let origin = Origin::start().await;
        let layer = origin.blob("a/b", 1, 1000);
        origin.fault(
            On::path(&layer.digest).gets(),
            Fault::Instead(200, "application/octet-stream", lie),
        );
        let mut setup = Setup::of(&origin);
        setup.config.cache.min_free = MinFree::Bytes(u64::MAX);
        let proxy = setup.start().await;
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.status, 502);
        origin.repair();
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_moved_within_its_ttl_is_followed_once_its_manifest_is_gone() {
    let (old, new) = (Image::new(1, &[10]), Image::new(2, &[10]));
    let origin = Origin::with("a/b", "v1", &old).await;
    let proxy = Proxy::of(&origin).await;
    let path = manifest("a/b", "v1");
    assert_eq!(
        proxy.head(&path).await.header("docker-content-digest"),
        Some(old.manifest.digest.as_str())
    );
    origin.push("a/b", "v1", &new);
    origin.remove_manifest("a/b", &old.manifest.digest);
    proxy.clock().advance(Duration::from_secs(1));
    let answer = proxy.get(&path).await;
    assert_eq!((answer.status, &answer.body), (200, &new.manifest.bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_far_range_that_upstream_does_not_give_comes_from_the_download() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 8 * MIB);
    origin.fault(On::path(&layer.digest).ranged(), Fault::IgnoreRange);
    let gate = origin.hold_at(&layer.digest, MIB);
    let mut setup = Setup::of(&origin);
    setup.limits.read_ahead = MIB;
    let proxy = setup.start().await;
    let path = blob("a/b", &layer.digest);
    let mut first = proxy.open(&path).await;
    first.read(1).await;
    let (part, ()) = tokio::join!(proxy.get_range(&path, "bytes=6000000-6000009"), async {
        eventually("the range is asked for", || origin.blob_gets(&layer.digest) == 2).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        gate.open();
    });
    assert_eq!((part.status, part.body), (206, layer.content.slice(6_000_000..6_000_010)));
    assert_eq!(first.finish().await.digest(), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_files_among_the_shelves_do_not_stop_eviction() {
    let origin = Origin::start().await;
    let layers: Vec<Blob> = (0..4).map(|seed| origin.blob("a/b", seed, 2 * MIB)).collect();
    let mut setup = Setup::of(&origin);
    setup.config.cache.max_size = 5 * MIB;
    let mut proxy = setup.start().await;
    proxy.stop().await;
    std::fs::write(proxy.directory().join("cache/blobs/sha256/README"), "keep out")
        .expect("the directory is ours");
    proxy.start().await;
    for layer in &layers {
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
        eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
        proxy.clock().advance(Duration::from_secs(1));
    }
    eventually("the first one goes", || !proxy.has_stored(&layers[0].digest)).await;
}
