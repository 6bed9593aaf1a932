//! Stored files are read again once in a while, so that rot is found before it is served.

use std::fs::{File, FileTimes};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use roadstead::clock::Clock;
use serde_json::json;

use crate::support::access_log;
use crate::support::content::Blob;
use crate::support::control::{command, order};
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob, manifest};
use crate::support::pulled::{pull_of, pulled};

const DAY: Duration = Duration::from_hours(24);

async fn scrubbed(origin: &Origin) -> Proxy {
    let mut setup = Setup::of(origin);
    // Files are younger than nothing that the clock says.
    setup.clock = Clock::manual(Clock::system().now().unix());
    setup.config.cache.scrub = 30 * DAY;
    setup.limits.scrub_look = Duration::from_millis(100);
    setup.start().await
}

/// Flips a bit, and leaves size and time as they are.
fn rot(proxy: &Proxy, digest: &roadstead::oci::Digest) {
    let path = proxy.blob_path(digest);
    let modified = path.metadata().and_then(|found| found.modified()).expect("it is there");
    let file = File::options().read(true).write(true).open(&path).expect("ours");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 7).expect("long enough");
    file.write_all_at(&[byte[0] ^ 1], 7).expect("ours");
    file.set_times(FileTimes::new().set_modified(modified)).expect("ours");
}

fn damaged(proxy: &Proxy) -> i64 {
    proxy.metric("roadstead_scrub_damaged_total", &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_rotten_files_are_all_found_by_one_scrub_and_none_is_served_after() {
    let origin = Origin::start().await;
    let proxy = scrubbed(&origin).await;
    // Some of them are kept in memory as well.
    let size = |nth: u64| if nth.is_multiple_of(10) { 200_000 } else { 3000 };
    let blobs: Vec<Blob> = (0..200).map(|nth| origin.blob("a/b", nth, size(nth))).collect();
    let sound = origin.blob("a/b", 999, 5000);
    for layer in blobs.iter().chain([&sound]) {
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
        eventually("it is kept", || proxy.has_stored(&layer.digest)).await;
    }
    for layer in &blobs {
        rot(&proxy, &layer.digest);
    }
    proxy.clock().advance(31 * DAY);
    eventually("all are found", || damaged(&proxy) == 200).await;
    assert!(blobs.iter().all(|layer| !proxy.has_stored(&layer.digest)));
    assert!(proxy.has_stored(&sound.digest));
    assert_eq!(proxy.metric("roadstead_store_corrupt_total", &[]), 200);
    for layer in blobs.iter().chain([&sound]) {
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    }
    assert!(blobs.iter().all(|layer| origin.blob_gets(&layer.digest) == 2));
    assert_eq!(origin.blob_gets(&sound.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_and_rotten_is_fetched_again_by_itself_and_its_images_are_told() {
    access_log::gather();
    let image = Image::new(4711, &[200_000; 20]);
    let origin = Origin::with("a/b", "rotten", &image).await;
    let proxy = scrubbed(&origin).await;
    pull_of(&proxy, "a/b", "rotten", &image).await;
    assert_eq!(order(&proxy, "/v1/pin", &json!({ "images": ["a/b:rotten"] })).await.0, 200);
    let blobs: Vec<_> = image.layers.iter().chain([&image.config]).collect();
    for digest in blobs.iter().map(|blob| &blob.digest).chain([&image.manifest.digest]) {
        rot(&proxy, digest);
    }
    proxy.clock().advance(31 * DAY);
    eventually("all are found", || damaged(&proxy) == 22).await;
    eventually("all are here again", || {
        proxy.has_stored(&image.manifest.digest)
            && blobs.iter().all(|blob| proxy.has_stored(&blob.digest))
    })
    .await;
    assert!(blobs.iter().all(|blob| origin.blob_gets(&blob.digest) == 2));
    assert_eq!(proxy.get(&manifest("a/b", "rotten")).await.body, image.manifest.bytes);
    for part in blobs {
        assert_eq!(proxy.get(&blob("a/b", &part.digest)).await.digest(), part.digest);
        assert_eq!(origin.blob_gets(&part.digest), 2, "clients find them here");
    }
    let told = access_log::warnings("images", "docker.io/a/b:rotten");
    assert!(told.len() >= 20 && told[0].contains("a damaged file was removed"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_not_read_again_after_a_restart() {
    let origin = Origin::start().await;
    let mut proxy = scrubbed(&origin).await;
    let read = |proxy: &Proxy| proxy.metric("roadstead_scrub_read_bytes_total", &[]);
    let first = [1, 2, 3].map(|seed| origin.blob("a/b", seed, 10_000));
    for layer in &first {
        proxy.get(&blob("a/b", &layer.digest)).await;
        eventually("it is kept", || proxy.has_stored(&layer.digest)).await;
    }
    proxy.clock().advance(31 * DAY);
    eventually("they are read", || read(&proxy) == 30_000).await;
    // It is noted a moment after it is counted.
    proxy.stop().await;
    proxy.start().await;
    let later = origin.blob("a/b", 4, 70_000);
    proxy.get(&blob("a/b", &later.digest)).await;
    // By the clock of the disk it was written a month ago.
    eventually("it is read", || read(&proxy) >= 70_000).await;
    assert_eq!(read(&proxy), 70_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_checks_everything_when_it_is_asked_to() {
    let (origin, image, proxy) = pulled().await;
    let layer = &image.layers[0];
    let (code, said, errors) = command(&proxy, &["fsck"]);
    assert!(code == Some(0) && said.starts_with("3 files of "), "{said}{errors}");
    rot(&proxy, &layer.digest);
    let (code, said, errors) = command(&proxy, &["fsck"]);
    assert!(code == Some(1) && said.contains("wrong content"), "{said}{errors}");
    assert!(errors.contains("1 wrong in ") && proxy.has_stored(&layer.digest), "{errors}");
    let (code, said, _) = command(&proxy, &["fsck", "--repair", "--json"]);
    let lines: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((code, lines.len()), (Some(0), 2), "{said}");
    assert_eq!(
        (&lines[0]["state"], &lines[0]["digest"]),
        (&json!("repaired"), &json!(layer.digest.as_str()))
    );
    assert_eq!(lines[1]["totals"]["repaired"], 1);
    assert!(!proxy.has_stored(&layer.digest));
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    assert_eq!(origin.blob_gets(&layer.digest), 2);
    let (status, answer) = order(&proxy, "/v1/fsck", &json!({ "mend": true })).await;
    assert!(status == 400 && answer["error"].as_str().is_some_and(|said| said.contains("mend")));
}
