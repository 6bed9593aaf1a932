//! Bytes go on as they come, to each client at its own speed.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::origin::{Fault, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob};
use crate::support::{eventually, soon};

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn the_first_bytes_arrive_before_the_last_have_been_sent() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 4 * MIB);
    let gate = origin.hold_at(&layer.digest, MIB);
    let proxy = Proxy::of(&origin).await;
    let mut reading = proxy.open(&blob("a/b", &layer.digest)).await;
    assert_eq!(reading.read(1 << 20).await, 1 << 20, "everything that the origin has sent");
    gate.open();
    assert_eq!(reading.finish().await.digest(), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_is_held_back_until_the_digest_is_known() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, MIB);
    let gate = origin.hold_at(&layer.digest, MIB - 1);
    let proxy = Proxy::of(&origin).await;
    let mut reading = proxy.open(&blob("a/b", &layer.digest)).await;
    let released = usize::try_from(MIB - 64 * 1024).expect("small");
    assert_eq!(reading.read(released).await, released);
    let more = tokio::time::timeout(Duration::from_millis(50), reading.read(released + 1)).await;
    assert!(more.is_err(), "the last 64 KiB wait");
    gate.open();
    assert_eq!(reading.finish().await.digest(), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_unknown_length_streams_too() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 4 * MIB);
    let gate = origin.hold_at(&layer.digest, MIB);
    origin.fault(On::path(&layer.digest), Fault::Chunked);
    let proxy = Proxy::of(&origin).await;
    let mut reading = proxy.open(&blob("a/b", &layer.digest)).await;
    let released = usize::try_from(MIB - 64 * 1024).expect("small");
    assert!(reading.read(released).await >= released);
    gate.open();
    assert_eq!(reading.finish().await.digest(), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_arrive_before_any_byte_of_the_body() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 4 * MIB);
    let gate = origin.hold_at(&layer.digest, 0);
    let proxy = Proxy::of(&origin).await;
    let reading = proxy.open(&blob("a/b", &layer.digest)).await;
    assert_eq!((reading.status(), gate.reached()), (200, 1));
    gate.open();
    assert_eq!(reading.finish().await.digest(), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_client_slows_nobody() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 32 * MIB);
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    let mut slow = proxy.open(&path).await;
    slow.read(1).await;
    let fast = proxy.get(&path).await;
    assert_eq!(fast.digest(), layer.digest);
    eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    assert_eq!(
        slow.finish().await.digest(),
        layer.digest,
        "the slow one gets everything, from the same file"
    );
    assert_eq!(origin.blob_gets(&layer.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_is_cut_off() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 64 * MIB);
    let mut setup = Setup::of(&origin);
    setup.limits.send_idle = Duration::from_millis(200);
    let proxy = setup.start().await;
    let path = blob("a/b", &layer.digest);
    for round in ["following", "stored"] {
        let mut stalled = proxy.connect().await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stalled.write_all(request.as_bytes()).await.expect("the proxy reads");
        let mut first = [0; 12];
        soon("the status", stalled.read_exact(&mut first)).await.expect("an answer");
        assert_eq!(&first, b"HTTP/1.1 200", "{round}");
        eventually("it is cut off", || proxy.metric("roadstead_http_connections", &[]) == 0).await;
        eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_falls_silent_is_given_up_and_asked_again() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 4 * MIB);
    let gate = crate::support::origin::Gate::new();
    origin.fault(On::path(&layer.digest).gets().once(), Fault::HoldAt(2 * MIB, gate));
    let mut setup = Setup::of(&origin);
    setup.limits.upstream_idle = Duration::from_millis(100);
    let proxy = setup.start().await;
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    assert_eq!(origin.ranges(&layer.digest), [None, Some("bytes=2097152-".to_owned())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_is_slow_but_never_silent_is_not_given_up() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, MIB);
    origin.fault(On::path(&layer.digest), Fault::Rate(2 * MIB));
    let mut setup = Setup::of(&origin);
    setup.limits.upstream_idle = Duration::from_millis(300);
    let proxy = setup.start().await;
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    assert_eq!(origin.ranges(&layer.digest), [None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_come_too_late_are_a_504_and_the_download_goes_on() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 100_000);
    let gate = crate::support::origin::Gate::new();
    origin.fault(On::path(&layer.digest).gets().once(), Fault::HoldHead(gate.clone()));
    let mut setup = Setup::of(&origin);
    setup.limits.head = Duration::from_millis(200);
    let proxy = setup.start().await;
    let path = blob("a/b", &layer.digest);
    assert_eq!(proxy.get(&path).await.refusal(), (504, "UNAVAILABLE".into()));
    gate.open();
    eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    assert_eq!(proxy.get(&path).await.digest(), layer.digest);
    assert_eq!(origin.blob_gets(&layer.digest), 1);
}
