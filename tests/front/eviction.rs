//! Room: the cap holds, the least used goes first, and what cannot be kept is passed through.

use std::path::Path;
use std::time::Duration;

use http::Method;

use bytes::Bytes;
use roadstead::config::MinFree;

use crate::support::access_log;
use crate::support::content::Blob;
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

const MIB: u64 = 1 << 20;

async fn proxy_of(origin: &Origin, max_size: u64) -> Proxy {
    let mut setup = Setup::of(origin);
    setup.config.cache.max_size = max_size;
    setup.start().await
}

/// Pulls a blob and waits until it is stored.
async fn pull(proxy: &Proxy, layer: &Blob) {
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    proxy.clock().advance(Duration::from_secs(1));
}

/// Bytes of the files below `directory`.
fn bytes_below(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let sizes = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

fn relayed(proxy: &Proxy) -> i64 {
    proxy.metric("roadstead_cache_requests_total", &[("kind", "blob"), ("outcome", "relay")])
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_never_holds_more_than_it_may() {
    let origin = Origin::start().await;
    let proxy = proxy_of(&origin, 10 * MIB).await;
    for seed in 0..8 {
        let layer = origin.blob("a/b", seed, 2 * MIB);
        pull(&proxy, &layer).await;
        assert!(proxy.metric("roadstead_store_bytes", &[]) <= 10 << 20);
        let blobs = proxy.directory().join("cache/blobs");
        eventually("the disk follows", || bytes_below(&blobs) <= 10 * MIB).await;
    }
    assert!(proxy.metric("roadstead_evictions_total", &[]) >= 3);
    assert_eq!(proxy.metric("roadstead_store_limit_bytes", &[]), 10 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_least_recently_used_goes_first() {
    let origin = Origin::start().await;
    let proxy = proxy_of(&origin, 7 * MIB).await;
    let layers: Vec<Blob> = (0..4).map(|seed| origin.blob("a/b", seed, 2 * MIB)).collect();
    for layer in &layers[..3] {
        pull(&proxy, layer).await;
    }
    pull(&proxy, &layers[0]).await;
    pull(&proxy, &layers[3]).await;
    eventually("one goes", || !proxy.has_stored(&layers[1].digest)).await;
    let kept: Vec<bool> = layers.iter().map(|layer| proxy.has_stored(&layer.digest)).collect();
    assert_eq!(kept, [true, false, true, true]);
    assert_eq!(
        proxy.get(&blob("a/b", &layers[1].digest)).await.digest(),
        layers[1].digest,
        "and can be fetched again"
    );
    assert_eq!(origin.blob_gets(&layers[1].digest), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_outlives_the_eviction_of_what_it_reads() {
    let origin = Origin::start().await;
    let proxy = proxy_of(&origin, 65 * MIB).await;
    let read = origin.blob("a/b", 0, 32 * MIB);
    pull(&proxy, &read).await;
    let mut reading = proxy.open(&blob("a/b", &read.digest)).await;
    reading.read(1).await;
    proxy.clock().advance(Duration::from_secs(1));
    for seed in 1..4 {
        let layer = origin.blob("a/b", seed, 16 * MIB);
        // As often as the first, which gives way to what was used later.
        pull(&proxy, &layer).await;
        pull(&proxy, &layer).await;
    }
    eventually("it is evicted", || !proxy.has_stored(&read.digest)).await;
    assert_eq!(reading.finish().await.digest(), read.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_go_last() {
    let image = Image::new(1, &[2 * MIB, 2 * MIB, 2 * MIB, 2 * MIB]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = proxy_of(&origin, 5 * MIB).await;
    proxy.get(&manifest("a/b", "v1")).await;
    proxy.clock().advance(Duration::from_secs(1));
    for layer in &image.layers {
        pull(&proxy, layer).await;
    }
    assert!(proxy.metric("roadstead_evictions_total", &[]) >= 2);
    assert!(proxy.has_stored(&image.manifest.digest), "the oldest of all, and still there");
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, image.manifest.bytes);
    assert_eq!(origin.count(|request| request.is_get(Kind::Manifest)), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_cannot_be_listed_does_not_stop_eviction() {
    let origin = Origin::start().await;
    let layers: Vec<Blob> = (0..4).map(|seed| origin.blob("a/b", seed, 2 * MIB)).collect();
    let mut proxy = proxy_of(&origin, 5 * MIB).await;
    proxy.stop().await;
    let shelf = |n: u8| format!("{n:02x}");
    let unused = (0..=u8::MAX)
        .map(shelf)
        .find(|shelf| !layers.iter().any(|layer| layer.digest.hex().starts_with(shelf.as_str())));
    let place = proxy.directory().join("cache/blobs/sha256").join(unused.expect("there are 256"));
    std::fs::write(place, "no folder").expect("the directory is ours");
    proxy.start().await;
    for layer in &layers {
        pull(&proxy, layer).await;
    }
    eventually("the first one goes", || !proxy.has_stored(&layers[0].digest)).await;
    assert!(proxy.metric("roadstead_store_errors_total", &[("operation", "list")]) >= 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_is_known_after_a_restart() {
    let origin = Origin::start().await;
    let mut proxy = proxy_of(&origin, 10 * MIB).await;
    let hot: Vec<Blob> = (0..3).map(|seed| origin.blob("a/b", seed, 2 * MIB)).collect();
    for layer in hot.iter().chain(&hot) {
        pull(&proxy, layer).await;
    }
    proxy.restart().await;
    for seed in 100..112 {
        pull(&proxy, &origin.blob("a/b", seed, MIB)).await;
    }
    assert!(hot.iter().all(|layer| proxy.has_stored(&layer.digest)));
}

/// Bytes of the records and their log.
fn records(proxy: &Proxy) -> u64 {
    let file = |name: &str| proxy.directory().join("cache").join(name);
    let files = [file("records.sqlite"), file("records.sqlite-wal")];
    files.iter().map(|file| file.metadata().map_or(0, |metadata| metadata.len())).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_take_their_share_whatever_is_asked_for() {
    const LIMIT: u64 = 4 * MIB;
    let origin = Origin::start().await;
    let proxy = proxy_of(&origin, LIMIT).await;
    let kept = origin.blob("a/b", 1, MIB);
    pull(&proxy, &kept).await;
    let repository = format!("a/{}", "b".repeat(200));
    let mut largest = 0;
    for seed in 0..6000 {
        let layer = origin.blob(&repository, 1000 + seed, 10);
        assert_eq!(proxy.head(&blob(&repository, &layer.digest)).await.status, 200);
        proxy.clock().advance(Duration::from_millis(10));
        largest = largest.max(records(&proxy));
    }
    assert!(largest <= MIB + MIB + MIB / 4, "{largest}: a share of 1 MiB and the log");
    assert!(proxy.has_stored(&kept.digest), "they drive nothing out");
    let content = i64::try_from(LIMIT - records(&proxy)).expect("small");
    pull(&proxy, &origin.blob("a/b", 2, 2 * MIB)).await;
    assert!(proxy.metric("roadstead_store_bytes", &[]) <= content, "and count as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strange_file_among_the_blobs_does_not_stop_eviction() {
    let origin = Origin::start().await;
    let layers: Vec<Blob> = (0..4).map(|seed| origin.blob("a/b", seed, 2 * MIB)).collect();
    let mut proxy = proxy_of(&origin, 5 * MIB).await;
    proxy.stop().await;
    std::fs::write(proxy.directory().join("cache/blobs/sha256/README"), "keep out")
        .expect("the directory is ours");
    proxy.start().await;
    for layer in &layers {
        pull(&proxy, layer).await;
    }
    eventually("the first one goes", || !proxy.has_stored(&layers[0].digest)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_above_half_of_the_cache_is_passed_through() {
    let origin = Origin::start().await;
    let proxy = proxy_of(&origin, 10 * MIB).await;
    let small = origin.blob("a/b", 1, MIB);
    pull(&proxy, &small).await;
    let large = origin.blob("a/b", 2, 6 * MIB);
    let path = blob("a/b", &large.digest);
    for round in 1..=2 {
        let answer = proxy.get(&path).await;
        assert_eq!(
            (answer.status, answer.complete, answer.digest()),
            (200, true, large.digest.clone())
        );
        assert_eq!(answer.header("content-length"), Some((6 * MIB).to_string().as_str()));
        proxy.settled().await;
        assert_eq!(
            (relayed(&proxy), origin.blob_gets(&large.digest)),
            (round, usize::try_from(round).expect("small"))
        );
    }
    assert!(!proxy.has_stored(&large.digest));
    assert!(proxy.has_stored(&small.digest), "nothing was evicted for it");
    let part = proxy.get_range(&path, "bytes=6000000-6000009").await;
    assert_eq!((part.status, part.body), (206, large.content.slice(6_000_000..6_000_010)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_blob_that_is_passed_through_has_no_clean_end_either() {
    let origin = Origin::start().await;
    let proxy = proxy_of(&origin, 2 * MIB).await;
    let large = origin.blob("a/b", 2, 6 * MIB);
    origin.fault(On::path(&large.digest), Fault::Flip(5));
    let answer = proxy.get(&blob("a/b", &large.digest)).await;
    assert!(
        !answer.complete && (answer.body.len() as u64) < 6 * MIB,
        "{} bytes",
        answer.body.len()
    );
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
async fn downloads_in_progress_count_and_a_third_is_passed_through() {
    let origin = Origin::start().await;
    let proxy = proxy_of(&origin, 10 * MIB).await;
    let layers: Vec<Blob> = (0..3).map(|seed| origin.blob("a/b", seed, 4 * MIB)).collect();
    let gates = [origin.hold_at(&layers[0].digest, MIB), origin.hold_at(&layers[1].digest, MIB)];
    let mut held = Vec::new();
    for layer in &layers[..2] {
        let mut reading = proxy.open(&blob("a/b", &layer.digest)).await;
        reading.read(1).await;
        held.push(reading);
    }
    assert_eq!(proxy.get(&blob("a/b", &layers[2].digest)).await.digest(), layers[2].digest);
    eventually("it was passed through", || relayed(&proxy) == 1).await;
    assert!(!proxy.has_stored(&layers[2].digest));
    gates.iter().for_each(Gate::open);
    for (reading, layer) in held.into_iter().zip(&layers) {
        assert_eq!(reading.finish().await.digest(), layer.digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_evicts_nothing_until_its_bytes_come() {
    let origin = Origin::start().await;
    let proxy = proxy_of(&origin, 11 * MIB).await;
    let kept: Vec<Blob> = (0..4).map(|seed| origin.blob("a/b", seed, 2 * MIB)).collect();
    for layer in &kept {
        pull(&proxy, layer).await;
    }
    let large: Vec<Blob> = (10..12).map(|seed| origin.blob("a/b", seed, 4 * MIB)).collect();
    let gates: Vec<Gate> =
        large.iter().map(|layer| origin.hold_at(&layer.digest, MIB / 2)).collect();
    let mut reading = Vec::new();
    for layer in &large {
        let mut body = proxy.open(&blob("a/b", &layer.digest)).await;
        body.read(1000).await;
        reading.push(body);
    }
    assert_eq!(proxy.metric("roadstead_evictions_total", &[]), 0, "16 of them fit");
    assert!(kept.iter().all(|layer| proxy.has_stored(&layer.digest)));
    gates.iter().for_each(Gate::open);
    for (body, layer) in reading.into_iter().zip(&large) {
        assert_eq!(body.finish().await.digest(), layer.digest);
        eventually("a promise is kept", || proxy.has_stored(&layer.digest)).await;
    }
    assert_eq!(proxy.metric("roadstead_evictions_total", &[]), 3, "room for their bytes alone");
    assert!(bytes_below(&proxy.directory().join("cache/blobs")) <= 11 * MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_asker_has_in_flight_leaves_half_of_the_cache_to_others() {
    let origin = Origin::start().await;
    let mut setup = Setup::of(&origin);
    setup.config.cache.max_size = 12 * MIB;
    setup.config.access.trusted_proxies = vec!["127.0.0.1/32".parse().expect("valid")];
    let proxy = setup.start().await;
    for seed in 0..5 {
        pull(&proxy, &origin.blob("a/b", seed, 2 * MIB)).await;
    }
    let large = [origin.blob("a/b", 10, 5 * MIB), origin.blob("c/d", 11, 5 * MIB)];
    let gate = origin.hold_at(&large[0].digest, MIB);
    let mut reading = proxy.open(&blob("a/b", &large[0].digest)).await;
    reading.read(1).await;
    assert_eq!(proxy.get(&blob("c/d", &large[1].digest)).await.digest(), large[1].digest);
    eventually("it is passed through", || relayed(&proxy) == 1).await;
    let other = origin.blob("a/b", 12, 5 * MIB);
    let path = blob("a/b", &other.digest);
    let answer = proxy.open_with(Method::GET, &path, &[("x-forwarded-for", "192.0.2.2")]).await;
    assert_eq!(answer.finish().await.digest(), other.digest);
    eventually("another's is stored", || proxy.has_stored(&other.digest)).await;
    gate.open();
    assert_eq!(reading.finish().await.digest(), large[0].digest);
    eventually("and so is the first", || proxy.has_stored(&large[0].digest)).await;
    assert_eq!(proxy.get(&blob("c/d", &large[1].digest)).await.digest(), large[1].digest);
    eventually("the second too, once it is alone", || proxy.has_stored(&large[1].digest)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pulled_once_does_not_drive_out_what_is_used() {
    let origin = Origin::start().await;
    let proxy = proxy_of(&origin, 10 * MIB).await;
    let hot: Vec<Blob> = (0..3).map(|seed| origin.blob("a/b", seed, 2 * MIB)).collect();
    for layer in hot.iter().chain(&hot) {
        pull(&proxy, layer).await;
    }
    for seed in 100..160 {
        pull(&proxy, &origin.blob("a/b", seed, MIB)).await;
    }
    let left = hot.iter().filter(|layer| proxy.has_stored(&layer.digest)).count();
    assert_eq!(left, 3, "six times the cache has passed");
    assert!(proxy.metric("roadstead_store_bytes", &[]) <= 10 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_no_more_goes_for_what_is_used_now() {
    let origin = Origin::start().await;
    let proxy = proxy_of(&origin, 10 * MIB).await;
    let blobs = |seeds: std::ops::Range<u64>| -> Vec<Blob> {
        seeds.map(|seed| origin.blob("a/b", seed, 2 * MIB)).collect()
    };
    let (before, now) = (blobs(0..4), blobs(10..14));
    for layer in before.iter().chain(&before).chain(&before) {
        pull(&proxy, layer).await;
    }
    proxy.clock().advance(Duration::from_hours(72));
    for _ in 0..3 {
        for layer in &now {
            pull(&proxy, layer).await;
        }
    }
    let left = now.iter().filter(|layer| proxy.has_stored(&layer.digest)).count();
    assert!(left >= 3, "{left} of 4");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_of_a_blob_that_is_fetched_once_are_not_further_uses() {
    let origin = Origin::start().await;
    let proxy = proxy_of(&origin, 10 * MIB).await;
    let hot: Vec<Blob> = (0..3).map(|seed| origin.blob("a/b", seed, 2 * MIB)).collect();
    for layer in hot.iter().chain(&hot) {
        pull(&proxy, layer).await;
    }
    for seed in 100..112 {
        let layer = origin.blob("a/b", seed, MIB);
        pull(&proxy, &layer).await;
        for part in ["bytes=1000-1999", "bytes=2000-", "bytes=-5"] {
            assert_eq!(proxy.get_range(&blob("a/b", &layer.digest), part).await.status, 206);
        }
        assert_eq!(proxy.head(&blob("a/b", &layer.digest)).await.status, 200);
    }
    assert!(hot.iter().all(|layer| proxy.has_stored(&layer.digest)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_passes_everything_through() {
    let image = Image::new(1, &[MIB]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let mut setup = Setup::of(&origin);
    setup.config.cache.min_free = MinFree::Bytes(u64::MAX);
    let proxy = setup.start().await;
    let layer = &image.layers[0];
    for _ in 0..2 {
        assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, image.manifest.bytes);
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    }
    assert!(!proxy.has_stored(&layer.digest));
    proxy.settled().await;
    assert_eq!(relayed(&proxy), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_one_warning_and_so_is_room_again() {
    access_log::gather();
    let origin = Origin::start().await;
    let text = |min_free| {
        format!(
            "cache: {{ path: CACHE, max_size: 10MiB, min_free: {min_free} }}\n\
             access: {{ rules: [{{ who: anonymous, allow: [pull], images: ['**'] }}] }}\n\
             default_upstream: quay.io\nupstreams: {{ quay.io: {{ url: '{}' }} }}\n",
            origin.url()
        )
    };
    let proxy = Setup::written(&text("1000TiB")).start().await;
    let cache = proxy.directory().join("cache").display().to_string();
    let told = || access_log::warnings("cache", &cache);
    let full = || proxy.metric("roadstead_store_full", &[]);
    for seed in 0..3 {
        let layer = origin.blob("a/b", seed, MIB);
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    }
    assert_eq!((told().len(), full()), (1, 1), "not one for each request: {:?}", told());
    assert!(told()[0].contains("no room"), "{:?}", told());
    let scrape = proxy.admin("/metrics").await;
    let figure = |name: &str| -> f64 {
        let line =
            scrape.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}")).parse().expect("a number")
    };
    assert!(figure("roadstead_store_free_bytes") > 0.0);
    assert!(figure("roadstead_store_effective_limit_bytes") < 10_485_760.0);

    assert_eq!(proxy.reconfigure(&text("0%")).await, (1, 0));
    let too_large = origin.blob("a/b", 8, 6 * MIB);
    proxy.get(&blob("a/b", &too_large.digest)).await;
    assert_eq!(told().len(), 1, "a blob above half of the cache says nothing: {:?}", told());
    pull(&proxy, &origin.blob("a/b", 9, MIB)).await;
    assert_eq!((told().len(), full()), (2, 0), "{:?}", told());
    assert!(told()[1].contains("room in the cache again"), "{:?}", told());
}
