//! Single flight: many clients of one blob or tag cost one download, which belongs to none of them.

use std::time::Duration;

use futures_util::future::join_all;

use crate::support::client::Reading;
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::Kind;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob, manifest};

const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_clients_cost_one_download() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 8 * MIB);
    let gate = origin.hold_at(&layer.digest, MIB);
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    let readings = join_all((0..64).map(|_| proxy.open(&path))).await;
    gate.open();
    for answer in join_all(readings.into_iter().map(Reading::finish)).await {
        assert_eq!(
            (answer.status, answer.complete, answer.digest()),
            (200, true, layer.digest.clone())
        );
    }
    assert_eq!(origin.blob_gets(&layer.digest), 1);
    proxy.settled().await;
    let outcome = |outcome| {
        proxy.metric("roadstead_cache_requests_total", &[("kind", "blob"), ("outcome", outcome)])
    };
    assert_eq!((outcome("miss"), outcome("joined")), (1, 63));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_client_may_leave_and_the_others_get_everything() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 8 * MIB);
    let gate = origin.hold_at(&layer.digest, 2 * MIB);
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    let mut first = proxy.open(&path).await;
    assert!(first.read(1 << 20).await >= 1 << 20);
    let second = proxy.open(&path).await;
    drop(first);
    eventually("the proxy sees that it left", || {
        proxy.metric("roadstead_http_requests_in_flight", &[]) == 1
    })
    .await;
    gate.open();
    assert_eq!(second.finish().await.digest(), layer.digest);
    assert_eq!(origin.blob_gets(&layer.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_completes_although_every_client_left() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 64 * MIB);
    let gate = origin.hold_at(&layer.digest, 2 * MIB);
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    let mut only = proxy.open(&path).await;
    assert!(only.read(1 << 20).await >= 1 << 20);
    drop(only);
    eventually("the proxy sees that it left", || {
        proxy.metric("roadstead_http_requests_in_flight", &[]) == 0
    })
    .await;
    gate.open();
    eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    assert_eq!(proxy.get(&path).await.digest(), layer.digest);
    assert_eq!(origin.ranges(&layer.digest), [None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_nobody_wants_for_long_stops_and_keeps_nothing() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 8 * MIB);
    let gate = origin.hold_at(&layer.digest, 2 * MIB);
    let mut setup = Setup::of(&origin);
    setup.config.cache.abandon_after = Duration::from_millis(50);
    let proxy = setup.start().await;
    let mut only = proxy.open(&blob("a/b", &layer.digest)).await;
    only.read(1 << 20).await;
    drop(only);
    eventually("the download stops", || {
        proxy.clock().advance(Duration::from_millis(10));
        proxy.metric("roadstead_fills_in_flight", &[]) == 0
    })
    .await;
    assert!(!proxy.has_stored(&layer.digest));
    eventually("the staged file goes", || proxy.staged_files() == 0).await;
    gate.open();
    assert_eq!(
        proxy.get(&blob("a/b", &layer.digest)).await.digest(),
        layer.digest,
        "and it can start anew"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_repositories_of_one_upstream_share_a_download() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 4 * MIB);
    origin.put_blob("c/d", &layer);
    let gate = origin.hold_at(&layer.digest, MIB);
    let proxy = Proxy::of(&origin).await;
    let first = proxy.open(&blob("a/b", &layer.digest)).await;
    let second = proxy.open(&blob("c/d", &layer.digest)).await;
    gate.open();
    assert_eq!(
        (first.finish().await.digest(), second.finish().await.digest()),
        (layer.digest.clone(), layer.digest.clone())
    );
    assert_eq!(origin.blob_gets(&layer.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_of_one_tag_cost_one_head_and_one_get() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let proxy = Proxy::of(&origin).await;
    let path = manifest("a/b", "v1");
    for answer in join_all((0..32).map(|_| proxy.get(&path))).await {
        assert_eq!((answer.status, answer.body), (200, image.manifest.bytes.clone()));
    }
    assert_eq!(origin.count(|r| r.is_head(Kind::Manifest)), 1);
    assert_eq!(origin.count(|r| r.is_get(Kind::Manifest)), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_helper_that_hangs_takes_nobodys_turn() {
    let origin = Origin::start().await;
    let (theirs, ours) = (origin.blob("slow/app", 1, 10), origin.blob("a/b", 2, 10));
    let mut setup = Setup::new();
    let started = setup.file("started", "");
    let credential = setup.helper("slow/*", "echo yes > started; sleep 1000");
    setup.upstream("docker.io", &origin).credentials = vec![credential];
    setup.limits.fills_per_upstream = 1;
    let proxy = setup.start().await;
    let path = blob("slow/app", &theirs.digest);
    let waiting = async {
        proxy.get(&path).await;
        panic!("the helper has answered");
    };
    let others = async {
        eventually("the helper runs", || {
            std::fs::read(&started).is_ok_and(|text| !text.is_empty())
        })
        .await;
        assert_eq!(proxy.get(&blob("a/b", &ours.digest)).await.digest(), ours.digest);
    };
    tokio::select! {
        () = waiting => {}
        () = others => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_beyond_the_limit_wait_their_turn() {
    let origin = Origin::start().await;
    let (first, second) = (origin.blob("a/b", 1, 4 * MIB), origin.blob("a/b", 2, 4 * MIB));
    let gate = origin.hold_at(&first.digest, MIB);
    let mut setup = Setup::of(&origin);
    setup.limits.fills_per_upstream = 1;
    let proxy = setup.start().await;
    let mut held = proxy.open(&blob("a/b", &first.digest)).await;
    held.read(1).await;
    let path = blob("a/b", &second.digest);
    let waiting = proxy.get(&path);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waiting).await;
    assert!(early.is_err(), "it waits");
    assert!(!proxy.has_stored(&second.digest));
    gate.open();
    assert_eq!(waiting.await.digest(), second.digest);
    assert_eq!(held.finish().await.digest(), first.digest);
}
