//! Whose turn it is for a place or a question: that is asked when there is one to give (SHARE-1).

use std::time::Duration;

use futures_util::future::join_all;
use http::Method;

use crate::support::client::Reading;
use crate::support::content::Blob;
use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

const MIB: u64 = 1 << 20;

/// Places for one upstream, and as many in all, behind a trusted proxy: `x-forwarded-for` says who
/// asks. Nothing is too slow.
fn with_places(setup: &mut Setup, places: usize) {
    setup.limits.fills = places;
    setup.limits.fills_per_upstream = places;
    setup.limits.slow_transfer = Duration::from_hours(1);
    setup.config.access.trusted_proxies = vec!["127.0.0.1/32".parse().expect("valid")];
}

async fn open_as(proxy: &Proxy, path: &str, address: &str) -> Reading {
    proxy.open_with(Method::GET, path, &[("x-forwarded-for", address)]).await
}

const MANY: &str = "192.0.2.1";
const OTHER: &str = "192.0.2.2";

/// A blob of 4 MiB that comes to 1 MiB and then waits.
fn held(origin: &Origin, seed: u64) -> (Blob, Gate) {
    let layer = origin.blob("a/b", seed, 4 * MIB);
    let gate = origin.hold_at(&layer.digest, MIB);
    (layer, gate)
}

/// So many have asked, and are there still.
async fn asking(proxy: &Proxy, requests: i64) {
    eventually("they ask, or have left", || {
        proxy.metric("roadstead_http_requests_in_flight", &[]) == requests
    })
    .await;
}

async fn asked_for(origin: &Origin, layer: &Blob) {
    eventually("it is asked for", || origin.blob_gets(&layer.digest) > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_has_yielded_comes_first_again_when_somebody_follows_it() {
    let origin = Origin::start().await;
    let [(left, left_gate), (between, gate), (last, _never)] =
        [1, 2, 3].map(|seed| held(&origin, seed));
    let mut setup = Setup::of(&origin);
    with_places(&mut setup, 1);
    let proxy = setup.start().await;
    let path = blob("a/b", &left.digest);
    proxy.open(&path).await.read(1).await;
    asking(&proxy, 0).await;
    let mut other = proxy.open(&blob("a/b", &between.digest)).await;
    other.read(1).await;
    let last_path = blob("a/b", &last.digest);
    let waiting = async {
        let _reading = proxy.open(&last_path).await;
        std::future::pending::<()>().await;
    };
    let story = async {
        asked_for(&origin, &last).await;
        let again = proxy.open(&path).await;
        left_gate.open();
        gate.open();
        assert_eq!(again.finish().await.digest(), left.digest, "before what came later");
    };
    tokio::select! {
        () = waiting => {}
        () = story => {}
    }
    assert_eq!(other.finish().await.digest(), between.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_a_download_that_waits_is_not_the_last_of_its_askers_many() {
    let origin = Origin::start().await;
    let floods: Vec<_> = (0..5).map(|seed| held(&origin, seed)).collect();
    let shared = origin.blob("a/b", 9, MIB);
    let mut setup = Setup::of(&origin);
    with_places(&mut setup, 2);
    let proxy = setup.start().await;
    let paths: Vec<_> = floods.iter().map(|(layer, _)| blob("a/b", &layer.digest)).collect();
    let mut served = Vec::new();
    for path in &paths[..2] {
        let mut reading = open_as(&proxy, path, MANY).await;
        reading.read(1).await;
        served.push(reading);
    }
    let waiting = async {
        join_all(paths[2..].iter().map(|path| open_as(&proxy, path, MANY))).await;
        std::future::pending::<()>().await;
    };
    let path = blob("a/b", &shared.digest);
    let story = async {
        for (layer, _) in &floods[2..] {
            asked_for(&origin, layer).await;
        }
        let own = open_as(&proxy, &path, MANY);
        let joined = async {
            asked_for(&origin, &shared).await;
            open_as(&proxy, &path, OTHER).await.finish().await
        };
        let (own, joined) = tokio::join!(own, joined);
        assert_eq!(joined.digest(), shared.digest);
        assert_eq!(own.finish().await.digest(), shared.digest);
    };
    tokio::select! {
        () = waiting => {}
        () = story => {}
    }
    assert_eq!(origin.blob_gets(&shared.digest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_a_question_that_waits_has_it_asked() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("a/b", "v1", &image).await;
    let gate = Gate::new();
    origin.fault(On::path("/slow/"), Fault::HoldHead(gate.clone()));
    let mut setup = Setup::of(&origin);
    with_places(&mut setup, 1);
    setup.limits.questions = 4; // of which one asker has two
    let proxy = setup.start().await;
    let paths = [1, 2].map(|nth| manifest("slow/app", format!("v{nth}")));
    let slow = join_all(paths.iter().map(|path| open_as(&proxy, path, MANY)));
    let path = manifest("a/b", "v1");
    let story = async {
        eventually("they ask", || gate.reached() == 2).await;
        let joined = async {
            asking(&proxy, 3).await;
            open_as(&proxy, &path, OTHER).await.finish().await
        };
        let (own, joined) = tokio::join!(open_as(&proxy, &path, MANY), joined);
        assert_eq!(joined.body, image.manifest.bytes);
        assert_eq!(own.finish().await.body, image.manifest.bytes);
    };
    tokio::select! {
        _ = slow => panic!("the origin has answered"),
        () = story => {}
    }
    assert_eq!(origin.count(|r| r.path.contains("/a/b/") && r.is_head(Kind::Manifest)), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_the_move_of_a_tag_has_it_asked_for() {
    let [old, new] = [1, 2].map(|seed| Image::new(seed, &[10]));
    let origin = Origin::with("a/b", "v1", &old).await;
    let mut setup = Setup::of(&origin);
    with_places(&mut setup, 1);
    setup.limits.questions = 4; // of which one asker has two
    setup.limits.revalidate = Duration::from_secs(10);
    let proxy = setup.start().await;
    let path = manifest("a/b", "v1");
    assert_eq!(proxy.get(&path).await.body, old.manifest.bytes);
    origin.push("a/b", "v1", &new);
    proxy.clock().advance(Duration::from_hours(1));
    let (slow, head) = (Gate::new(), Gate::new());
    origin.fault(On::path("/slow/"), Fault::HoldHead(slow.clone()));
    origin.fault(On::path("/a/b/manifests/v1").once(), Fault::HoldHead(head.clone()));
    let paths = [1, 2].map(|nth| manifest("slow/app", format!("v{nth}")));
    let slow_ones = async {
        eventually("the tag is asked about", || head.reached() == 1).await;
        join_all(paths.iter().map(|path| open_as(&proxy, path, MANY))).await
    };
    let joined = async {
        eventually("one asks, one waits", || slow.reached() == 1).await;
        asking(&proxy, 3).await;
        head.open();
        eventually("it asks instead of the manifest", || slow.reached() == 2).await;
        open_as(&proxy, &path, OTHER).await.finish().await
    };
    let story = async {
        let (own, joined) = tokio::join!(open_as(&proxy, &path, MANY), joined);
        assert_eq!(joined.body, new.manifest.bytes);
        assert_eq!(own.finish().await.body, new.manifest.bytes);
    };
    tokio::select! {
        _ = slow_ones => panic!("the origin has answered"),
        () = story => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_place_of_all_keeps_none_of_its_upstreams() {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let [one, two] = [1, 2].map(|seed| held(&first, seed));
    let theirs: Vec<_> = (5..7).map(|seed| second.blob("c/d", seed, MIB)).collect();
    let ours = second.blob("c/d", 9, MIB);
    let mut setup = Setup::new();
    setup.upstream("first.test", &first);
    setup.upstream("second.test", &second);
    with_places(&mut setup, 2);
    let proxy = setup.start().await;
    let mut busy = Vec::new();
    for (layer, _) in [&one, &two] {
        let path = blob("first.test/a/b", &layer.digest);
        let mut reading = open_as(&proxy, &path, MANY).await;
        reading.read(1).await;
        busy.push(reading);
    }
    let paths: Vec<_> = theirs.iter().map(|l| blob("second.test/c/d", &l.digest)).collect();
    let waiting = async {
        join_all(paths.iter().map(|path| open_as(&proxy, path, MANY))).await;
        std::future::pending::<()>().await;
    };
    let story = async {
        for layer in &theirs {
            asked_for(&second, layer).await;
        }
        let other = open_as(&proxy, &blob("second.test/c/d", &ours.digest), OTHER).await;
        assert_eq!(other.finish().await.digest(), ours.digest, "they hold all places");
    };
    tokio::select! {
        () = waiting => {}
        () = story => {}
    }
}

/// What keeps a transfer from going on after its first answer was cut.
enum Stuck {
    /// No answer.
    Silent,
    /// It begins with the first byte again, and stops before it is where it was.
    Repeating,
}

impl Stuck {
    fn at(&self, origin: &Origin, layer: &Blob) -> Gate {
        let gate = Gate::new();
        origin.fault(On::path(&layer.digest).gets().once(), Fault::CutAfter(2 * MIB));
        let again = || On::path(&layer.digest).ranged().once();
        match self {
            Self::Silent => origin.fault(again(), Fault::HoldHead(gate.clone())),
            Self::Repeating => {
                origin.fault(again(), Fault::IgnoreRange);
                origin.fault(again(), Fault::HoldAt(MIB, gate.clone()));
            }
        }
        gate
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_being_continued_gives_way_once_nobody_follows_it() {
    for stuck in [Stuck::Silent, Stuck::Repeating] {
        let origin = Origin::start().await;
        let (left, wanted) = (origin.blob("a/b", 1, 4 * MIB), origin.blob("a/b", 2, MIB));
        let gate = stuck.at(&origin, &left);
        let mut setup = Setup::of(&origin);
        with_places(&mut setup, 1);
        let proxy = setup.start().await;
        let mut reading = proxy.open(&blob("a/b", &left.digest)).await;
        reading.read(1 << 20).await;
        eventually("it is asked for the rest", || gate.reached() == 1).await;
        drop(reading);
        asking(&proxy, 0).await;
        assert_eq!(proxy.get(&blob("a/b", &wanted.digest)).await.digest(), wanted.digest);
        eventually("the first goes on", || proxy.has_stored(&left.digest)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_is_being_continued_and_gets_nothing_gives_way() {
    for (stuck, passed_through) in [
        (Stuck::Silent, false),
        (Stuck::Repeating, false),
        (Stuck::Silent, true),
        (Stuck::Repeating, true),
    ] {
        let origin = Origin::start().await;
        let (slow, wanted) = (origin.blob("a/b", 1, 4 * MIB), origin.blob("a/b", 2, MIB));
        let gate = stuck.at(&origin, &slow);
        let mut setup = Setup::of(&origin);
        with_places(&mut setup, 1);
        setup.limits.slow_transfer = Duration::from_millis(100);
        if passed_through {
            setup.config.cache.max_size = 7 * MIB;
        }
        let proxy = setup.start().await;
        let reading = proxy.open(&blob("a/b", &slow.digest)).await;
        let reading = tokio::spawn(reading.finish());
        eventually("it is asked for the rest", || gate.reached() == 1).await;
        assert_eq!(proxy.get(&blob("a/b", &wanted.digest)).await.digest(), wanted.digest);
        assert_eq!(reading.await.expect("no panic").digest(), slow.digest);
        eventually("it is kept, unless it is too large", || {
            proxy.metric("roadstead_fills_in_flight", &[]) == 0
        })
        .await;
        assert_eq!(proxy.has_stored(&slow.digest), !passed_through);
    }
}
