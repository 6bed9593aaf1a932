//! The end: no new work, transfers under way finish within the grace, and nothing half done stays.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob};
use crate::support::{eventually, soon};

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_under_way_finishes_while_readiness_is_off() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 4 * MIB);
    let gate = origin.hold_at(&layer.digest, MIB);
    let mut setup = Setup::of(&origin);
    setup.config.shutdown_grace = Duration::from_secs(15);
    let mut proxy = setup.start().await;
    assert_eq!(proxy.admin("/readyz").await.status, 200);
    let mut reading = proxy.open(&blob("a/b", &layer.digest)).await;
    reading.read(1).await;
    proxy.begin_shutdown();
    for _ in 0..1000 {
        if proxy.admin("/readyz").await.status == 503 {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(
        (proxy.admin("/readyz").await.status, proxy.admin("/healthz").await.status),
        (503, 200)
    );
    gate.open();
    assert_eq!(reading.finish().await.digest(), layer.digest);
    proxy.stop().await;
    assert!(proxy.has_stored(&layer.digest), "what was verified is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_does_not_finish_in_time_leaves_nothing() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 4 * MIB);
    origin.hold_at(&layer.digest, MIB);
    let mut setup = Setup::of(&origin);
    setup.config.shutdown_grace = Duration::from_millis(200);
    let mut proxy = setup.start().await;
    let mut reading = proxy.open(&blob("a/b", &layer.digest)).await;
    reading.read(1).await;
    let began = Instant::now();
    proxy.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(!reading.finish().await.complete);
    assert_eq!((proxy.has_stored(&layer.digest), proxy.staged_files()), (false, 0));

    origin.repair();
    proxy.start().await;
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_proxy_ends_at_once_although_clients_keep_connections() {
    let origin = Origin::start().await;
    let mut setup = Setup::of(&origin);
    setup.config.shutdown_grace = Duration::from_secs(15);
    let mut proxy = setup.start().await;
    assert_eq!(proxy.get("/v2/").await.status, 200);
    let idle = proxy.connect().await;
    eventually("both are connected", || proxy.metric("roadstead_http_connections", &[]) == 2).await;
    let address = proxy.authority();
    let began = Instant::now();
    proxy.stop().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_starts_and_ends_many_times() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 1000);
    let mut proxy = Proxy::of(&origin).await;
    for _ in 0..5 {
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
        proxy.restart().await;
    }
    assert_eq!(origin.blob_gets(&layer.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_clients_are_served_until_balancers_have_noticed() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 1000);
    let mut setup = Setup::of(&origin);
    setup.config.drain_delay = Duration::from_secs(3);
    let mut proxy = setup.start().await;
    proxy.begin_shutdown();
    let end = Instant::now() + Duration::from_secs(2);
    while proxy.admin("/readyz").await.status != 503 {
        assert!(Instant::now() < end, "readiness is off at once");
    }
    let mut stream = proxy.connect().await;
    stream
        .write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .expect("somebody listens");
    let mut answer = String::new();
    soon("an answer", stream.read_to_string(&mut answer)).await.expect("text");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    let address = proxy.authority();
    proxy.stop().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}
