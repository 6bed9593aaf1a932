//! Ranges on blobs: the same answers cold and warm, and one download however many ask (BLOB-4 to
//! BLOB-8).

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;

use crate::support::client::Answer;
use crate::support::eventually;
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob};

const MIB: u64 = 1 << 20;

/// The size of the blob in the table.
const SIZE: u64 = 200_000;

/// Range, If-Range, and what comes: status, `Content-Range`, the bytes.
type Row = (&'static str, Option<&'static str>, u16, Option<&'static str>, std::ops::Range<u64>);

const ROWS: [Row; 17] = [
    ("bytes=0-", None, 206, Some("bytes 0-199999/200000"), 0..SIZE),
    ("bytes=5-9", None, 206, Some("bytes 5-9/200000"), 5..10),
    ("bytes=-5", None, 206, Some("bytes 199995-199999/200000"), 199_995..SIZE),
    ("bytes=0-0", None, 206, Some("bytes 0-0/200000"), 0..1),
    ("bytes=199999-", None, 206, Some("bytes 199999-199999/200000"), 199_999..SIZE),
    ("bytes=100000-999999", None, 206, Some("bytes 100000-199999/200000"), 100_000..SIZE),
    ("bytes=-999999", None, 206, Some("bytes 0-199999/200000"), 0..SIZE),
    ("bytes=200000-", None, 416, Some("bytes */200000"), 0..0),
    ("bytes=200000-300000", None, 416, Some("bytes */200000"), 0..0),
    ("bytes=500-0", None, 416, Some("bytes */200000"), 0..0),
    ("bytes=-0", None, 416, Some("bytes */200000"), 0..0),
    ("bytes=0-1,5-9", None, 400, None, 0..0),
    ("pages=1-2", None, 200, None, 0..SIZE),
    ("bytes=x-y", None, 200, None, 0..SIZE),
    ("bytes=5-9", Some("\"{digest}\""), 206, Some("bytes 5-9/200000"), 5..10),
    ("bytes=5-9", Some("\"sha256:0\""), 200, None, 0..SIZE),
    ("bytes=5-9", Some("W/\"{digest}\""), 200, None, 0..SIZE),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Before {
    Cold,
    Warm,
}

/// What a range gets from a proxy that has the blob, or has it not.
async fn ask(before: Before, row: &Row) -> (Answer, bytes::Bytes) {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, SIZE);
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    if before == Before::Warm {
        proxy.get(&path).await;
        eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    }
    let if_range = row.1.map(|text| text.replace("{digest}", layer.digest.as_str()));
    let headers: Vec<_> = [("range", row.0)]
        .into_iter()
        .chain(if_range.as_deref().map(|value| ("if-range", value)))
        .collect();
    let answer = proxy.request(Method::GET, &path, &headers).await;
    (answer, layer.content.slice(row.4.clone()))
}

async fn check(before: Before) {
    for row in &ROWS {
        let (answer, bytes) = ask(before, row).await;
        let what = format!("{before:?} {} {:?}", row.0, row.1);
        assert_eq!((answer.status, answer.header("content-range")), (row.2, row.3), "{what}");
        match row.2 {
            400 | 416 => assert_eq!(answer.code(), "RANGE_INVALID", "{what}"),
            _ => {
                assert!(answer.complete && answer.body == bytes, "{what}");
                assert_eq!(
                    answer.header("content-length"),
                    Some(bytes.len().to_string().as_str()),
                    "{what}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_stored_blob_are_as_the_rules_say() {
    check(Before::Warm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_cold_blob_are_the_same() {
    check(Before::Cold).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_past_the_end_downloads_nothing_once_the_size_is_known() {
    let image = crate::support::image::Image::new(1, &[SIZE]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let layer = &image.layers[0];
    let proxy = Proxy::of(&origin).await;
    proxy.get(&crate::support::proxy::manifest("a/b", "v1")).await;
    let answer = proxy.get_range(&blob("a/b", &layer.digest), "bytes=200000-").await;
    assert_eq!((answer.status, answer.header("content-range")), (416, Some("bytes */200000")));
    assert_eq!(origin.blob_gets(&layer.digest), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn six_open_ended_ranges_of_a_cold_blob_are_one_download() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 24 * MIB);
    let gate = origin.hold_at(&layer.digest, 2 * MIB);
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    let ranges: Vec<String> = (0..6).map(|n| format!("bytes={}-", n * 4 * MIB)).collect();
    let headers = ranges.iter().map(|range| [("range", range.as_str())]).collect::<Vec<_>>();
    let opened = headers.iter().map(|headers| proxy.open_with(Method::GET, &path, headers));
    let readings = join_all(opened).await;
    gate.open();
    let chunk = usize::try_from(4 * MIB).expect("small");
    for (n, mut reading) in (0..).zip(readings) {
        assert_eq!(reading.status(), 206);
        // containerd takes its chunk and closes the connection.
        assert!(reading.read(chunk).await >= chunk);
        assert_eq!(
            reading.so_far()[..chunk],
            layer.content.slice(n * 4 * MIB..(n + 1) * 4 * MIB)[..]
        );
    }
    eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    assert_eq!(origin.ranges(&layer.digest), [None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_far_ahead_of_the_download_is_fetched_directly() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 8 * MIB);
    let gate = Gate::new();
    origin.fault(On::path(&layer.digest).gets().once(), Fault::HoldAt(MIB, gate.clone()));
    let mut setup = Setup::of(&origin);
    setup.limits.read_ahead = 2 * MIB;
    let proxy = setup.start().await;
    let path = blob("a/b", &layer.digest);
    let mut whole = proxy.open(&path).await;
    whole.read(1000).await;
    let far = proxy.get_range(&path, "bytes=8000000-8000009").await;
    assert_eq!((far.status, &far.body), (206, &layer.content.slice(8_000_000..8_000_010)));
    assert_eq!(far.header("content-range"), Some("bytes 8000000-8000009/8388608"));
    assert_eq!(origin.ranges(&layer.digest), [None, Some("bytes=8000000-8000009".to_owned())]);
    gate.open();
    assert_eq!(whole.finish().await.digest(), layer.digest, "the download went on");
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
async fn a_range_near_the_download_waits_for_it() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 8 * MIB);
    let gate = origin.hold_at(&layer.digest, MIB);
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    let whole = proxy.open(&path).await;
    let near = proxy.open_with(Method::GET, &path, &[("range", "bytes=2000000-2000009")]).await;
    assert_eq!(near.status(), 206);
    gate.open();
    assert_eq!(near.finish().await.body, layer.content.slice(2_000_000..2_000_010));
    assert_eq!(whole.finish().await.digest(), layer.digest);
    assert_eq!(origin.blob_gets(&layer.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_unknown_length_gets_the_whole() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, SIZE);
    origin.fault(On::kind(Kind::Blob), Fault::Chunked);
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get_range(&blob("a/b", &layer.digest), "bytes=5-9").await;
    assert_eq!((answer.status, answer.digest()), (200, layer.digest.clone()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_at_the_very_end_comes_only_verified() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, SIZE);
    origin.fault(On::kind(Kind::Blob), Fault::Flip(3));
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get_range(&blob("a/b", &layer.digest), "bytes=-5").await;
    assert!(answer.status != 206 || (!answer.complete && answer.body.is_empty()), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_a_slow_download_reaches_late_is_fetched_directly() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 32 * MIB);
    origin.fault(On::path(&layer.digest).gets().once(), Fault::Rate(MIB));
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    let mut whole = proxy.open(&path).await;
    // A second and a half, so that its pace is known.
    whole.read(3 << 19).await;
    let far = proxy.get_range(&path, "bytes=25000000-25000009").await;
    assert_eq!((far.status, &far.body), (206, &layer.content.slice(25_000_000..25_000_010)));
    let near = proxy.get_range(&path, "bytes=1800000-1800009").await;
    assert_eq!((near.status, &near.body), (206, &layer.content.slice(1_800_000..1_800_010)));
    assert_eq!(origin.ranges(&layer.digest), [None, Some("bytes=25000000-25000009".to_owned())]);
}
