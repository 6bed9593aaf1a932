//! Wrong bytes: no client ever gets a complete wrong body, and nothing wrong is kept.

use crate::support::client::Answer;
use crate::support::content::Blob;
use crate::support::eventually;
use crate::support::origin::{Fault, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob};

const MIB: u64 = 1 << 20;

/// Neither all of the bytes nor a clean end.
fn assert_not_delivered(answer: &Answer, layer: &Blob, what: &str) {
    let whole = answer.status == 200 && answer.complete;
    assert!(!whole, "{what}: a clean end");
    assert!(
        (answer.body.len() as u64) < layer.len() || layer.len() == 0,
        "{what}: {} bytes",
        answer.body.len()
    );
}

/// A blob that arrives wrong is cut, not kept, and right once the origin is repaired.
async fn cut(what: &str, size: u64, faults: Vec<Fault>) {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, size);
    for fault in faults {
        origin.fault(On::path(&layer.digest).gets(), fault);
    }
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    for attempt in 0..2 {
        let answer = proxy.get(&path).await;
        assert_not_delivered(&answer, &layer, &format!("{what}, attempt {attempt}"));
        eventually("the download ends", || proxy.metric("roadstead_fills_in_flight", &[]) == 0)
            .await;
        assert!(!proxy.has_stored(&layer.digest), "{what}");
    }
    eventually("the staged file goes", || proxy.staged_files() == 0).await;
    assert_eq!(proxy.metric("roadstead_store_bytes", &[]), 0, "{what}");
    assert!(
        proxy.metric("roadstead_fill_failures_total", &[("upstream", "docker.io")]) >= 2,
        "{what} is counted"
    );
    origin.repair();
    assert_eq!(proxy.get(&path).await.digest(), layer.digest, "{what}: the repaired origin");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_anywhere_cuts_the_body() {
    for (size, at) in
        [(MIB, 0), (MIB, 500_000), (MIB, MIB - 1), (1000, 999), (64 * 1024, 1), (64 * 1024 + 1, 0)]
    {
        cut(&format!("byte {at} of {size}"), size, vec![Fault::Flip(at)]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_of_unknown_length_are_cut() {
    cut("chunked", MIB, vec![Fault::Chunked, Fault::Flip(5)]).await;
    cut("until close", MIB, vec![Fault::UntilClose, Fault::Flip(5)]).await;
    cut("chunked and short", 1000, vec![Fault::Chunked, Fault::Flip(5)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_longer_than_the_blob_is_cut() {
    cut("ten bytes more", MIB, vec![Fault::Extra(10)]).await;
    cut("ten bytes more, chunked", MIB, vec![Fault::Extra(10), Fault::Chunked]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_promises_more_than_comes_is_cut() {
    cut("ten bytes less than said", MIB, vec![Fault::LengthOff(10)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_beyond_any_disk_is_neither_believed_nor_fatal() {
    for beyond in [1 << 40, i64::MAX] {
        let origin = Origin::start().await;
        let layer = origin.blob("a/b", 1, MIB);
        origin.fault(On::path(&layer.digest).gets(), Fault::LengthOff(beyond));
        let proxy = Proxy::of(&origin).await;
        let path = blob("a/b", &layer.digest);
        assert_not_delivered(&proxy.get(&path).await, &layer, &format!("{beyond} bytes more"));
        assert!(!proxy.has_stored(&layer.digest));
        origin.repair();
        assert_eq!(proxy.get(&path).await.digest(), layer.digest, "the repaired origin");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_that_says_less_than_the_blob_is_cut() {
    cut("said to be shorter", MIB, vec![Fault::LengthOff(-10)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_of_a_wrong_download_is_cut() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 2 * MIB);
    let gate = origin.hold_at(&layer.digest, MIB);
    origin.fault(On::path(&layer.digest), Fault::Flip(1_500_000));
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    let readings = futures_util::future::join_all((0..8).map(|_| proxy.open(&path))).await;
    gate.open();
    for reading in readings {
        assert_not_delivered(&reading.finish().await, &layer, "a follower");
    }
    assert_eq!(origin.blob_gets(&layer.digest), 1);
}

/// A blob that was stored, and a proxy that is stopped.
async fn stored() -> (Origin, Blob, Proxy) {
    stored_with(|_| ()).await
}

/// The same with other settings.
async fn stored_with(change: impl FnOnce(&mut Setup)) -> (Origin, Blob, Proxy) {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, MIB);
    let mut setup = Setup::of(&origin);
    change(&mut setup);
    let mut proxy = setup.start().await;
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    proxy.stop().await;
    (origin, layer, proxy)
}

/// Asks until the blob comes whole; every answer before is short.
async fn heals(proxy: &Proxy, layer: &Blob) {
    for _ in 0..3 {
        let answer = proxy.get(&blob("a/b", &layer.digest)).await;
        if answer.complete && answer.status == 200 {
            assert_eq!(answer.digest(), layer.digest);
            return;
        }
        assert_not_delivered(&answer, layer, "a rotten file");
    }
    panic!("the blob never came back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_flipped_on_disk_is_never_served_as_the_blob() {
    for at in [0, 500_000, (1 << 20) - 1] {
        let (origin, layer, mut proxy) = stored().await;
        let mut bytes = layer.bytes().to_vec();
        bytes[at] ^= 1;
        overwrite(&proxy, &layer, &bytes);
        proxy.start().await;
        heals(&proxy, &layer).await;
        assert_eq!(proxy.metric("roadstead_store_corrupt_total", &[]), 1);
        assert_eq!(origin.blob_gets(&layer.digest), 2);
        eventually("the good bytes are stored", || {
            std::fs::read(proxy.blob_path(&layer.digest)).is_ok_and(|b| b == layer.bytes())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_cut_short_or_emptied_on_disk_is_fetched_again() {
    for len in [0, 1, 500_000] {
        let (origin, layer, mut proxy) = stored().await;
        overwrite(&proxy, &layer, &layer.bytes()[..len]);
        proxy.start().await;
        heals(&proxy, &layer).await;
        assert_eq!(origin.blob_gets(&layer.digest), 2);
    }
}

/// A proxy whose one stored blob was cut to half while it was stopped. The blob is larger than what
/// is hashed before the first answer.
async fn cut_short_on_disk() -> (Origin, Blob, Proxy) {
    let (origin, layer, mut proxy) = stored_with(|setup| setup.limits.manifest = 1000).await;
    std::fs::write(proxy.blob_path(&layer.digest), &layer.bytes()[..500_000])
        .expect("the directory is ours");
    proxy.start().await;
    (origin, layer, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_size_of_a_file_that_nobody_vouches_for_is_not_told() {
    let (_origin, layer, proxy) = cut_short_on_disk().await;
    let head = proxy.head(&blob("a/b", &layer.digest)).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("1048576")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_behind_the_end_of_a_file_cut_short_makes_it_whole_again() {
    let (_origin, layer, proxy) = cut_short_on_disk().await;
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
async fn a_file_touched_but_right_is_served_without_upstream() {
    let (origin, layer, mut proxy) = stored().await;
    overwrite(&proxy, &layer, &layer.bytes());
    proxy.start().await;
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    assert_eq!(origin.blob_gets(&layer.digest), 1);
    assert_eq!(proxy.metric("roadstead_store_corrupt_total", &[]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_vanished_is_fetched_again() {
    let (origin, layer, mut proxy) = stored().await;
    std::fs::remove_file(proxy.blob_path(&layer.digest)).expect("the blob is stored");
    proxy.start().await;
    heals(&proxy, &layer).await;
    assert_eq!(origin.blob_gets(&layer.digest), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failure_of_the_disk_is_counted_once() {
    let (_origin, layer, mut proxy) = stored().await;
    proxy.start().await;
    eventually("the index is loaded", || proxy.metric("roadstead_store_blobs", &[]) == 1).await;
    let path = proxy.blob_path(&layer.digest);
    std::fs::remove_file(&path).expect("the blob is stored");
    // A folder in its place can be neither read nor renamed over.
    std::fs::create_dir(&path).expect("the directory is ours");
    let errors = |of| proxy.metric("roadstead_store_errors_total", &[("operation", of)]);
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    eventually("the failure is counted", || errors("publish") > 0).await;
    eventually("the download ends", || proxy.metric("roadstead_fills_in_flight", &[]) == 0).await;
    let counted = ["open", "publish"].map(errors);
    assert_eq!((counted, proxy.metric("roadstead_store_errors_total", &[])), ([1, 1], 2));
}

fn overwrite(proxy: &Proxy, layer: &Blob, bytes: &[u8]) {
    let path = proxy.blob_path(&layer.digest);
    std::fs::remove_file(&path).expect("the blob is stored");
    std::fs::write(path, bytes).expect("the directory is ours");
}
