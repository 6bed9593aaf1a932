//! Places for transfers and questions to an upstream: nobody can take them from everybody else.

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;

use crate::support::client::Reading;
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

const MIB: u64 = 1 << 20;

/// A proxy with so many places, behind a trusted proxy: `x-forwarded-for` says who asks.
async fn with_places(origin: &Origin, places: usize) -> Proxy {
    let mut setup = Setup::of(origin);
    setup.limits.fills_per_upstream = places;
    setup.limits.slow_transfer = Duration::from_hours(1);
    setup.config.access.trusted_proxies = vec!["127.0.0.1/32".parse().expect("valid")];
    setup.start().await
}

async fn open_as(proxy: &Proxy, path: &str, address: &str) -> Reading {
    proxy.open_with(Method::GET, path, &[("x-forwarded-for", address)]).await
}

/// All who have asked have left.
async fn all_left(proxy: &Proxy) {
    eventually("the proxy sees that they left", || {
        proxy.metric("roadstead_http_requests_in_flight", &[]) == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_waits_for_gives_its_place_to_whoever_waits_and_goes_on_after_that() {
    let origin = Origin::start().await;
    let (left, wanted) = (origin.blob("a/b", 1, 4 * MIB), origin.blob("a/b", 2, MIB));
    let gate = origin.hold_at(&left.digest, 2 * MIB);
    let proxy = with_places(&origin, 1).await;
    let mut reading = proxy.open(&blob("a/b", &left.digest)).await;
    reading.read(1 << 20).await;
    drop(reading);
    all_left(&proxy).await;
    assert_eq!(proxy.get(&blob("a/b", &wanted.digest)).await.digest(), wanted.digest);
    gate.open();
    eventually("the first is stored", || proxy.has_stored(&left.digest)).await;
    let ranges = origin.ranges(&left.digest);
    assert_eq!((ranges.len(), &ranges[0]), (2, &None));
    assert!(ranges[1].as_ref().is_some_and(|range| *range != "bytes=0-"), "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_takes_no_place_and_tells_nothing_of_what_is_stored() {
    let origin = Origin::start().await;
    let (stored, slow) = (origin.blob("c/d", 1, 300_000), origin.blob("a/b", 2, 4 * MIB));
    let unknown = Image::new(7, &[10]).layers[0].digest.clone();
    let proxy = with_places(&origin, 1).await;
    assert_eq!(proxy.get(&blob("c/d", &stored.digest)).await.digest(), stored.digest);
    let gate = origin.hold_at(&slow.digest, MIB);
    let mut held = proxy.open(&blob("a/b", &slow.digest)).await;
    held.read(1).await;
    // Here for another repository; nowhere.
    for digest in [&stored.digest, &unknown] {
        let answer = proxy.get(&blob("a/b", digest)).await;
        assert_eq!((answer.status, answer.code()), (404, "BLOB_UNKNOWN".to_owned()));
    }
    gate.open();
    assert_eq!(held.finish().await.digest(), slow.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_that_hang_take_no_place() {
    let origin = Origin::start().await;
    let (hanging, wanted) = (origin.blob("a/b", 1, MIB), origin.blob("a/b", 2, MIB));
    let gate = Gate::new();
    origin.fault(On::path(&hanging.digest), Fault::HoldHead(gate.clone()));
    let proxy = with_places(&origin, 1).await;
    let (slow_path, path) = (blob("a/b", &hanging.digest), blob("a/b", &wanted.digest));
    let slow = proxy.get(&slow_path);
    let quick = async {
        eventually("the slow one is asked for", || gate.reached() == 1).await;
        assert_eq!(proxy.get(&path).await.digest(), wanted.digest);
        gate.open();
    };
    let (slow, ()) = tokio::join!(slow, quick);
    assert_eq!(slow.digest(), hanging.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_asker_keeps_at_most_half_of_the_places_while_another_waits() {
    let origin = Origin::start().await;
    let theirs: Vec<_> = (0..4).map(|nth| origin.blob("a/b", nth, 4 * MIB)).collect();
    let ours = origin.blob("a/b", 9, MIB);
    let gates: Vec<_> = theirs.iter().map(|layer| origin.hold_at(&layer.digest, MIB)).collect();
    let proxy = with_places(&origin, 4).await;
    let mut held = Vec::new();
    for layer in &theirs {
        let mut reading = open_as(&proxy, &blob("a/b", &layer.digest), "192.0.2.1").await;
        reading.read(1).await;
        held.push(reading);
    }
    let other = open_as(&proxy, &blob("a/b", &ours.digest), "192.0.2.2").await;
    assert_eq!(other.finish().await.digest(), ours.digest);
    gates.iter().for_each(Gate::open);
    for (reading, layer) in held.into_iter().zip(&theirs) {
        assert_eq!(reading.finish().await.digest(), layer.digest, "only later");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_drips_yields_and_goes_on_later() {
    let origin = Origin::start().await;
    let (drip, wanted) = (origin.blob("a/b", 1, 200_000), origin.blob("a/b", 2, MIB));
    origin.fault(On::path(&drip.digest).once(), Fault::Rate(100));
    let mut setup = Setup::of(&origin);
    setup.limits.fills_per_upstream = 1;
    setup.limits.slow_transfer = Duration::from_millis(100);
    let proxy = setup.start().await;
    let slow = proxy.open(&blob("a/b", &drip.digest)).await;
    assert_eq!(proxy.get(&blob("a/b", &wanted.digest)).await.digest(), wanted.digest);
    assert_eq!(slow.finish().await.digest(), drip.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_far_ahead_take_places_like_any_transfer() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 8 * MIB);
    let gate = origin.hold_at(&layer.digest, MIB);
    let mut setup = Setup::of(&origin);
    setup.limits.fills_per_upstream = 2;
    setup.limits.read_ahead = MIB;
    setup.limits.fill_queue = Duration::from_millis(200);
    let proxy = setup.start().await;
    let path = blob("a/b", &layer.digest);
    let mut whole = proxy.open(&path).await;
    whole.read(1).await;
    let part_gate = Gate::new();
    let far_ahead = On::path(&layer.digest).ranged();
    origin.fault(far_ahead, Fault::HoldAt(4 * MIB + 1000, part_gate.clone()));
    let range = format!("bytes={}-{}", 4 * MIB, 5 * MIB - 1);
    let parts = join_all((0..3).map(|_| {
        let (proxy, path, range) = (&proxy, &path, &range);
        async move { proxy.open_with(Method::GET, path, &[("range", range)]).await }
    }))
    .await;
    let relayed = || {
        proxy.metric("roadstead_cache_requests_total", &[("kind", "blob"), ("outcome", "relay")])
    };
    gate.open();
    part_gate.open();
    for part in parts {
        let answer = part.finish().await;
        assert_eq!((answer.status, answer.body.len() as u64), (206, MIB));
    }
    assert_eq!(whole.finish().await.digest(), layer.digest);
    proxy.settled().await;
    assert_eq!(relayed(), 1, "the others wait for the flight, which brings their bytes as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_bounded_and_end_when_nobody_waits() {
    const QUESTIONS: usize = 4; // of eight
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let gate = Gate::new();
    origin.fault(On::path("/slow/"), Fault::HoldHead(gate.clone()));
    let mut setup = Setup::of(&origin);
    setup.limits.questions = 2 * QUESTIONS;
    let proxy = setup.start().await;
    let paths: Vec<_> = (0..20).map(|nth| manifest("slow/app", format!("v{nth}"))).collect();
    let asking = join_all(paths.iter().map(|path| proxy.get(path)));
    tokio::select! {
        _ = asking => panic!("the origin has answered"),
        () = eventually("they ask", || gate.reached() == QUESTIONS) => {}
    }
    all_left(&proxy).await;
    let answer = proxy.get(&manifest("a/b", "v1")).await;
    assert_eq!((answer.status, answer.body), (200, image.manifest.bytes.clone()));
    // As the first end, some of the others may come before they end themselves.
    let asked = origin.count(|r| r.path.contains("/slow/") && r.is_head(Kind::Manifest));
    assert!(asked < paths.len(), "{asked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_asker_leaves_questions_to_others() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let gate = Gate::new();
    origin.fault(On::path("/slow/"), Fault::HoldHead(gate.clone()));
    let mut setup = Setup::of(&origin);
    setup.limits.questions = 4;
    setup.config.access.trusted_proxies = vec!["127.0.0.1/32".parse().expect("valid")];
    let proxy = setup.start().await;
    let paths: Vec<_> = (0..20).map(|nth| manifest("slow/app", format!("v{nth}"))).collect();
    let asking = join_all(paths.iter().map(|path| open_as(&proxy, path, "192.0.2.1")));
    let other = async {
        eventually("they ask", || gate.reached() >= 2).await;
        open_as(&proxy, &manifest("a/b", "v1"), "192.0.2.2").await.finish().await
    };
    tokio::select! {
        _ = asking => panic!("the origin has answered"),
        answer = other => assert_eq!(answer.body, image.manifest.bytes),
    }
    assert_eq!(gate.reached(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_that_nobody_waits_for_do_not_wait_for_questions() {
    let origin = Origin::start().await;
    let gate = Gate::new();
    origin.fault(On::path("/slow/"), Fault::HoldHead(gate.clone()));
    let mut setup = Setup::of(&origin);
    setup.limits.questions = 4;
    let proxy = setup.start().await;
    let layers = &Image::new(1, &[10; 20]).layers;
    let paths: Vec<_> = layers.iter().map(|layer| blob("slow/app", &layer.digest)).collect();
    let ask = |paths| join_all(<[String]>::iter(paths).map(|path| proxy.get(path)));
    let in_flight = || proxy.metric("roadstead_fills_in_flight", &[]);
    let leaving = async {
        eventually("their questions are sent", || gate.reached() == 2).await;
        tokio::select! {
            _ = ask(&paths[2..]) => panic!("the origin has answered"),
            () = eventually("others wait", || in_flight() == 20) => {}
        }
        eventually("those are left that are waited for", || in_flight() == 2).await;
    };
    tokio::select! {
        _ = ask(&paths[..2]) => panic!("the origin has answered"),
        () = leaving => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_waits_for_a_place_gives_its_question_to_whoever_has_one() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let (held, waiting) = (origin.blob("a/b", 1, 4 * MIB), origin.blob("a/b", 2, MIB));
    let gate = origin.hold_at(&held.digest, MIB);
    let mut setup = Setup::of(&origin);
    setup.limits.fills_per_upstream = 1;
    setup.limits.questions = 2; // of which one asker has one
    let proxy = setup.start().await;
    let mut reading = proxy.open(&blob("a/b", &held.digest)).await;
    reading.read(1).await;
    let path = blob("a/b", &waiting.digest);
    let asked = || origin.count(|r| r.path.contains(waiting.digest.as_str()));
    let question = async {
        eventually("it is asked for", || asked() == 1).await;
        let answer = proxy.get(&manifest("a/b", "v1")).await;
        assert_eq!((answer.status, answer.body), (200, image.manifest.bytes.clone()));
        gate.open();
    };
    let (answer, ()) = tokio::join!(proxy.get(&path), question);
    assert_eq!(answer.digest(), waiting.digest);
    assert_eq!(asked(), 2, "once more when it has a place");
    assert_eq!(reading.finish().await.digest(), held.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_passed_through_to_a_reader_who_stops_yields_its_place() {
    let origin = Origin::start().await;
    let (passed, wanted) = (origin.blob("a/b", 1, 32 * MIB), origin.blob("a/b", 2, MIB));
    let mut setup = Setup::of(&origin);
    setup.config.cache.max_size = 10 * MIB;
    setup.limits.fills_per_upstream = 1;
    setup.limits.slow_transfer = Duration::from_millis(100);
    let proxy = setup.start().await;
    let mut stopped = proxy.open(&blob("a/b", &passed.digest)).await;
    stopped.read(1).await;
    assert_eq!(proxy.get(&blob("a/b", &wanted.digest)).await.digest(), wanted.digest);
    assert_eq!(stopped.finish().await.digest(), passed.digest);
    let ranges = origin.ranges(&passed.digest);
    assert!(ranges.last().is_some_and(Option::is_some), "{ranges:?}");
}
