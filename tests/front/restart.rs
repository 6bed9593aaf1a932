//! What a new start finds, and what it must not trip over.

use roadstead::app::{App, Environment};

use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::{Kind, Origin};
use crate::support::proxy::{Proxy, blob};
use crate::support::pulled::pull_exactly;

/// A proxy that has pulled `a/b:v1` whole.
async fn pulled() -> (Origin, Image, Proxy) {
    let image = Image::new(1, &[300_000, 200_000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    pull_exactly(&proxy, &image).await;
    for layer in &image.layers {
        eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    }
    (origin, image, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_needs_nothing_from_upstream() {
    let (origin, image, mut proxy) = pulled().await;
    let before = origin.requests().len();
    proxy.restart().await;
    pull_exactly(&proxy, &image).await;
    assert_eq!(origin.requests().len(), before);
    eventually("the sizes are known again", || proxy.metric("roadstead_store_blobs", &[]) == 4)
        .await;
    let bytes = 500_000 + image.config.len() + image.manifest.bytes.len() as u64;
    assert_eq!(proxy.metric("roadstead_store_bytes", &[]), i64::try_from(bytes).expect("small"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_half_written_is_swept() {
    let (_origin, image, mut proxy) = pulled().await;
    proxy.stop().await;
    let staging = proxy.directory().join("cache/staging");
    std::fs::create_dir_all(&staging).expect("the directory is ours");
    let left = format!("{}-3", image.layers[0].digest.hex());
    for name in [left.as_str(), "somebody-else's"] {
        std::fs::write(staging.join(name), b"half").expect("the directory is ours");
    }
    proxy.start().await;
    eventually("it is swept", || !staging.join(&left).exists()).await;
    assert!(staging.join("somebody-else's").exists(), "this is not ours");
    pull_exactly(&proxy, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_or_missing_database_stops_no_start_and_no_right_byte() {
    for what in ["garbage", "empty", "missing"] {
        let (origin, image, mut proxy) = pulled().await;
        proxy.stop().await;
        let database = proxy.directory().join("cache/records.sqlite");
        for suffix in ["-wal", "-shm"] {
            let beside = database.with_file_name(format!("records.sqlite{suffix}"));
            if beside.exists() {
                std::fs::remove_file(beside).expect("the directory is ours");
            }
        }
        match what {
            "garbage" => {
                std::fs::write(&database, vec![0x5a; 10_000]).expect("the directory is ours");
            }
            "empty" => std::fs::write(&database, b"").expect("the directory is ours"),
            _ => std::fs::remove_file(&database).expect("the database is there"),
        }
        proxy.start().await;
        pull_exactly(&proxy, &image).await;
        let gets = origin.count(|request| request.is_get(Kind::Blob));
        assert_eq!(
            gets, 3,
            "{what}: the blobs are still there; only the right to them is asked for"
        );
        assert_eq!(
            proxy.get(&blob("c/d", &image.layers[0].digest)).await.status,
            404,
            "{what}: lost means ask"
        );
    }
}

/// As a kill between making and writing has left it.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_was_cut_short_stops_no_start() {
    for left in ["", "half of a k"] {
        let (_origin, image, mut proxy) = pulled().await;
        proxy.stop().await;
        let key = proxy.directory().join("cache/keys/access");
        std::fs::write(&key, left).expect("the directory is ours");
        proxy.start().await;
        pull_exactly(&proxy, &image).await;
        proxy.restart().await;
        assert!(std::fs::read(&key).expect("the key").len() >= 32, "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_files_in_the_cache_are_left_alone() {
    let (_origin, image, mut proxy) = pulled().await;
    proxy.stop().await;
    let strange = proxy.directory().join("cache/blobs/sha256/zz");
    std::fs::create_dir_all(&strange).expect("the directory is ours");
    std::fs::write(strange.join("README"), b"what is this").expect("the directory is ours");
    proxy.start().await;
    pull_exactly(&proxy, &image).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_directory_serves_one_process() {
    let (_origin, image, mut proxy) = pulled().await;
    let config = proxy.setup().config.clone();
    let environment = Environment::default;
    let second = App::start(&config, environment()).expect_err("the directory is in use");
    let said = format!("{second:#}");
    assert!(said.contains("cache") && said.contains("use"), "{said}");
    pull_exactly(&proxy, &image).await;
    proxy.stop().await;
    assert!(App::start(&config, environment()).is_ok(), "free again");
}

/// As on a disk that had no room for it, or after somebody has tidied up.
#[tokio::test(flavor = "multi_thread")]
async fn one_directory_serves_one_process_also_without_its_lock_file() {
    let (_origin, image, mut proxy) = pulled().await;
    let lock = proxy.directory().join("cache/LOCK");
    let config = proxy.setup().config.clone();
    let second = || App::start(&config, Environment::default());
    std::fs::remove_file(&lock).expect("the directory is ours");
    let said = format!("{:#}", second().expect_err("the directory is in use"));
    assert!(said.contains("in use"), "{said}");
    assert!(!lock.exists(), "the second has changed nothing");
    proxy.stop().await;
    std::fs::create_dir(&lock).expect("the directory is ours");
    proxy.start().await;
    std::fs::remove_dir(&lock).expect("the directory is ours");
    let said = format!("{:#}", second().expect_err("the directory is in use"));
    assert!(said.contains("in use"), "{said}");
    pull_exactly(&proxy, &image).await;
}
