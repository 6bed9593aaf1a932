//! Disks that are full, read-only or failing: what is cached is served, what is not is passed
//! through, and nothing is lost over it.

use std::path::Path;
use std::time::Duration;

use roadstead::config::MinFree;

use crate::support::content::Blob;
use crate::support::disk::Disk;
use crate::support::image::Image;
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::pulled::pull_exactly;
use crate::support::{eventually, how_often};

const MIB: u64 = 1 << 20;

/// A proxy whose cache lies on `disk`, and that has pulled `a/b:v1` whole.
async fn pulled(disk: &Disk) -> (Origin, Image, Proxy) {
    let image = Image::new(1, &[300_000, 200_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let mut setup = Setup::of(&origin);
    setup.config.cache.path = disk.path("cache");
    setup.config.cache.min_free = MinFree::Bytes(0);
    let proxy = setup.start().await;
    pull_exactly(&proxy, &image).await;
    for layer in image.layers.iter().chain([&image.config]) {
        eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    }
    (origin, image, proxy)
}

fn evidence(cache: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(cache).expect("the cache").filter_map(Result::ok);
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.contains("damaged")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_on_a_full_disk_loses_no_records() {
    let Some(disk) = Disk::of(16) else { return };
    let (origin, image, mut proxy) = pulled(&disk).await;
    proxy.stop().await;
    disk.fill();
    origin.stop().await;
    for start in 0..2 {
        proxy.start().await;
        pull_exactly(&proxy, &image).await;
        assert_eq!(evidence(&disk.path("cache")), [""; 0], "start {start}");
        proxy.stop().await;
    }
    disk.free();
    proxy.start().await;
    pull_exactly(&proxy, &image).await;
}

/// Makes of the records what the version of roadstead left that knew nothing of senders.
fn age(records: &Path) {
    let tables = rusqlite::Connection::open(records).expect("tables");
    tables
        .execute_batch("ALTER TABLE blobs DROP COLUMN senders; PRAGMA user_version = 3")
        .expect("an earlier version");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_on_a_disk_that_takes_nothing_serves_what_it_holds() {
    for read_only in [false, true] {
        let Some(disk) = Disk::of(16) else { return };
        let (origin, image, mut proxy) = pulled(&disk).await;
        proxy.stop().await;
        let records = disk.path("cache/records.sqlite");
        age(&records);
        if read_only {
            disk.set_read_only(true);
        } else {
            disk.fill();
        }
        let before = std::fs::read(&records).expect("tables");
        origin.stop().await;
        for start in 0..2 {
            proxy.start().await;
            pull_exactly(&proxy, &image).await;
            proxy.stop().await;
            let now = std::fs::read(&records).expect("tables");
            assert!(!read_only || now == before, "start {start}: nothing is changed");
            assert_eq!(evidence(&disk.path("cache")), [""; 0]);
        }
        if read_only {
            disk.set_read_only(false);
        } else {
            disk.free();
        }
        proxy.start().await;
        pull_exactly(&proxy, &image).await;
        assert_eq!(evidence(&disk.path("cache")), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_read_only_disk_hits_are_served_and_misses_passed_through() {
    let Some(disk) = Disk::of(16) else { return };
    let (origin, image, mut proxy) = pulled(&disk).await;
    proxy.stop().await;
    disk.set_read_only(true);
    proxy.start().await;
    pull_exactly(&proxy, &image).await;
    for seed in [7, 8] {
        let layer = origin.blob("a/b", seed, MIB);
        for _ in 0..2 {
            assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
        }
        assert!(!proxy.has_stored(&layer.digest) && origin.blob_gets(&layer.digest) == 2);
    }
    assert_eq!(proxy.metric("roadstead_store_full", &[]), 1);
    assert_eq!(origin.blob_gets(&image.layers[0].digest), 1, "it is served from here");
    disk.set_read_only(false);
    let layer = origin.blob("a/b", 9, MIB);
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    eventually("what comes now is kept", || proxy.has_stored(&layer.digest)).await;
    assert_eq!(proxy.metric("roadstead_store_full", &[]), 0);
    proxy.stop().await;
    disk.set_read_only(true);
    origin.stop().await;
    proxy.start().await;
    pull_exactly(&proxy, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_read_only_disk_one_head_confirms_a_manifest_for_as_long_as_elsewhere() {
    let Some(disk) = Disk::of(16) else { return };
    let (origin, image, mut proxy) = pulled(&disk).await;
    proxy.stop().await;
    disk.set_read_only(true);
    proxy.start().await;
    let path = manifest("a/b", &image.manifest.digest);
    let heads = || origin.count(|request| request.is_head(Kind::Manifest));
    for round in 1..=2 {
        proxy.clock().advance(Duration::from_hours(48));
        let before = heads();
        for _ in 0..100 {
            assert_eq!(proxy.get(&path).await.digest(), image.manifest.digest, "round {round}");
        }
        assert_eq!(heads() - before, 1, "round {round}");
    }
}

/// Downloads, or as many as `INODES` says: `INODES=5000 cargo test --test front inodes -- --nocapture`
#[tokio::test(flavor = "multi_thread")]
async fn without_free_inodes_the_newest_is_kept_and_others_go() {
    let downloads = how_often("INODES", 400);
    let Some(disk) = Disk::with("size=64m,nr_inodes=400") else { return };
    let (origin, _, proxy) = pulled(&disk).await;
    for seed in 100..100 + downloads {
        let layer = origin.blob("a/b", seed, 1000);
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
        eventually("the newest is kept", || proxy.has_stored(&layer.digest)).await;
    }
    let evicted = proxy.metric("roadstead_evictions_total", &[("reason", "size")]);
    println!("inodes: {downloads} downloads to a disk with 400, each was kept, {evicted} evicted");
    assert!(evicted > 100);
}

/// Two readers of one download, of all of it and of its middle, when the disk takes no more.
async fn readers_go_on(
    proxy: &Proxy,
    origin: &Origin,
    gate: &Gate,
    layer: &Blob,
    fail: impl FnOnce(),
) {
    let path = blob("a/b", &layer.digest);
    let mut whole = proxy.open(&path).await;
    whole.read(200_000).await;
    let mut late = proxy.open(&path).await;
    late.read(1).await;
    eventually("the origin holds back the rest", || gate.reached() == 1).await;
    fail();
    gate.open();
    for (who, reader) in [("ahead", whole), ("behind", late)] {
        let answer = reader.finish().await;
        assert!(answer.complete, "the reader {who}");
        assert_eq!(answer.digest(), layer.digest, "the reader {who}");
    }
    let rest: Vec<_> = origin.ranges(&layer.digest).into_iter().flatten().collect();
    assert_eq!(rest.len(), 2, "each asked for what it had not: {rest:?}");
    assert!(rest.iter().all(|range| range != "bytes=0-"), "{rest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_up_during_a_download_cuts_no_reader() {
    let Some(disk) = Disk::of(16) else { return };
    let (origin, _, proxy) = pulled(&disk).await;
    let (layer, gate) = (origin.blob("a/b", 7, 3 * MIB), Gate::new());
    // Of unknown length, so that nothing could be allocated ahead.
    let once = || On::path(&layer.digest).gets().once();
    origin.fault(once(), Fault::Chunked);
    origin.fault(once(), Fault::HoldAt(MIB, gate.clone()));
    readers_go_on(&proxy, &origin, &gate, &layer, || disk.fill()).await;
    assert!(!proxy.has_stored(&layer.digest));
    disk.free();
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    eventually("it is kept as soon as there is room", || proxy.has_stored(&layer.digest)).await;
}
