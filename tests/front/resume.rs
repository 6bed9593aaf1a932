//! A broken transfer goes on from where it broke, or ends without a clean end (DESIGN §14.6).

use roadstead::oci::Digest;

use crate::support::client::Answer;
use crate::support::content::Blob;
use crate::support::eventually;
use crate::support::origin::{Auth, Bearer, Fault, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob};

const MIB: u64 = 1 << 20;

/// An origin that cuts the first GET of an 8 MiB layer at 3 MB.
async fn cut_once() -> (Origin, Blob) {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 8 * MIB);
    origin.fault(On::path(&layer.digest).gets().once(), Fault::CutAfter(3_000_000));
    (origin, layer)
}

/// The `Range` of everything from `offset` on.
fn from(offset: u64) -> String {
    format!("bytes={offset}-")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_transfer_goes_on_from_the_cut() {
    let (origin, layer) = cut_once().await;
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get(&blob("a/b", &layer.digest)).await;
    assert_eq!(
        (answer.status, answer.complete, answer.digest()),
        (200, true, layer.digest.clone())
    );
    assert_eq!(origin.ranges(&layer.digest), [None, Some(from(3_000_000))]);
    assert!(
        origin.requests().iter().all(|request| request.header("if-range").is_none()),
        "the digest is the validator"
    );
    assert_eq!(proxy.metric("roadstead_fill_resumes_total", &[("upstream", "docker.io")]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_cuts_in_one_transfer_are_one_good_body() {
    const STEP: u64 = 1_200_000;
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 16 * MIB);
    origin.fault(On::path(&layer.digest).gets().times(10), Fault::CutAfter(STEP));
    let proxy = Proxy::of(&origin).await;
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    let expected: Vec<_> =
        std::iter::once(None).chain((1..=10).map(|n| Some(from(n * STEP)))).collect();
    assert_eq!(origin.ranges(&layer.digest), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_origin_that_hangs_up_is_asked_again() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 8 * MIB);
    origin.hold_at(&layer.digest, 2 * MIB);
    let proxy = Proxy::of(&origin).await;
    let mut reading = proxy.open(&blob("a/b", &layer.digest)).await;
    reading.read(1 << 21).await;
    origin.repair();
    origin.hang_up();
    assert_eq!(reading.finish().await.digest(), layer.digest);
    assert_eq!(origin.ranges(&layer.digest), [None, Some(from(2 * MIB))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_that_is_too_small_three_times_ends_it() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 8 * MIB);
    origin.fault(On::path(&layer.digest).gets(), Fault::CutAfter(100_000));
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get(&blob("a/b", &layer.digest)).await;
    assert!(!answer.complete);
    assert!(
        (3..=4).contains(&origin.blob_gets(&layer.digest)),
        "{}",
        origin.blob_gets(&layer.digest)
    );
    ends_without_a_trace(&proxy, &layer.digest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_to_a_resume_goes_on_if_its_beginning_is_the_same() {
    let (origin, layer) = cut_once().await;
    origin.fault(On::path(&layer.digest).ranged(), Fault::IgnoreRange);
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get(&blob("a/b", &layer.digest)).await;
    assert_eq!((answer.complete, answer.digest()), (true, layer.digest.clone()));
    assert_eq!(origin.blob_gets(&layer.digest), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_that_goes_on_beyond_the_blob_is_cut() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 3_000_010);
    origin.fault(On::path(&layer.digest).gets().once(), Fault::CutAfter(3_000_000));
    for fault in [Fault::IgnoreRange, Fault::Chunked, Fault::Extra(10)] {
        origin.fault(On::path(&layer.digest).ranged(), fault);
    }
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get(&blob("a/b", &layer.digest)).await;
    assert!(!answer.complete || answer.digest() == layer.digest, "{} bytes", answer.body.len());
    eventually("the download ends", || proxy.metric("roadstead_fills_in_flight", &[]) == 0).await;
    origin.repair();
    assert_eq!(
        proxy.get(&blob("a/b", &layer.digest)).await.digest(),
        layer.digest,
        "the repaired origin"
    );
}

/// A resume that is answered wrongly: the body is cut and nothing is kept.
async fn fails(what: &str, faults: Vec<Fault>) -> (Origin, Proxy, Answer) {
    let (origin, layer) = cut_once().await;
    for fault in faults {
        origin.fault(On::path(&layer.digest).ranged(), fault);
    }
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get(&blob("a/b", &layer.digest)).await;
    assert!(answer.status == 200 && !answer.complete, "{what}: {} bytes", answer.body.len());
    assert!(
        layer.bytes().starts_with(&answer.body) || what.contains("wrong"),
        "{what}: nothing wrong came either"
    );
    ends_without_a_trace(&proxy, &layer.digest).await;
    origin.repair();
    assert_eq!(
        proxy.get(&blob("a/b", &layer.digest)).await.digest(),
        layer.digest,
        "{what}: the repaired origin"
    );
    (origin, proxy, answer)
}

async fn ends_without_a_trace(proxy: &Proxy, digest: &Digest) {
    eventually("the download ends", || proxy.metric("roadstead_fills_in_flight", &[]) == 0).await;
    eventually("the staged file goes", || proxy.staged_files() == 0).await;
    assert!(!proxy.has_stored(digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_with_another_beginning_ends_it() {
    fails("another beginning", vec![Fault::IgnoreRange, Fault::Flip(5)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_from_another_place_ends_it() {
    fails("another place", vec![Fault::ShiftRange(100)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_total_ends_it() {
    let range = "bytes 3000000-8388607/9999999".to_owned();
    fails("another total", vec![Fault::Header("Content-Range", Some(range))]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_416_to_a_resume_ends_it() {
    fails("416", vec![Fault::Status(416)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_after_a_resume_are_cut() {
    fails("wrong bytes", vec![Fault::Flip(5_000_000)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_of_a_resume_ends_it_and_the_repository_must_prove_itself_again() {
    for status in [401, 403, 404] {
        let (origin, layer) = cut_once().await;
        origin.put_blob("c/d", &layer);
        origin.fault(On::kind(Kind::Blob).ranged(), Fault::Status(status));
        let proxy = Proxy::of(&origin).await;
        let path = blob("a/b", &layer.digest);
        assert!(!proxy.get(&path).await.complete, "{status}");
        origin.repair();
        assert_eq!(
            proxy.get(&blob("c/d", &layer.digest)).await.digest(),
            layer.digest,
            "{status}: the other repository"
        );
        origin.remove_blob("a/b", &layer.digest);
        proxy.clock().advance(std::time::Duration::from_secs(11));
        assert_eq!(
            proxy.get(&path).await.status,
            404,
            "{status}: nothing vouches for this one any more"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_asks_for_a_fresh_token() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 8 * MIB);
    origin.require(Auth::Bearer(Bearer { expires_in: Some(300), ..Bearer::default() }));
    origin.hold_at(&layer.digest, 2 * MIB);
    let proxy = Proxy::of(&origin).await;
    let mut reading = proxy.open(&blob("a/b", &layer.digest)).await;
    reading.read(1).await;
    origin.forget_tokens();
    origin.repair();
    origin.hang_up();
    assert_eq!(reading.finish().await.digest(), layer.digest);
    assert_eq!(origin.count(|request| request.kind == Kind::Token), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resume_asks_the_registry_for_a_fresh_redirect() {
    let (origin, cdn) = (Origin::start().await, Origin::start().await);
    let layer = origin.blob("a/b", 1, 8 * MIB);
    cdn.put_blob("any", &layer);
    let to = format!("{}storage/{{digest}}?signature={{nth}}", cdn.url());
    origin.fault(On::kind(Kind::Blob).gets(), Fault::Redirect(to));
    cdn.fault(On::any().gets().once(), Fault::CutAfter(3_000_000));
    let mut setup = Setup::new();
    setup.upstream("docker.io", &origin).blob_hosts = vec![cdn.authority()];
    let proxy = setup.start().await;
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    let asked: Vec<_> = cdn
        .requests()
        .iter()
        .map(|r| (r.query.clone(), r.header("range").map(str::to_owned)))
        .collect();
    assert_eq!(
        asked,
        [("signature=1".to_owned(), None), ("signature=2".to_owned(), Some(from(3_000_000)))]
    );
}

/// A proxy that has no room for an 8 MiB layer, and so passes it through.
async fn without_room(origin: &Origin) -> Proxy {
    let mut setup = Setup::of(origin);
    setup.config.cache.max_size = 8 * MIB;
    setup.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_is_passed_through_goes_on_from_the_cut() {
    for faults in [&[][..], &[Fault::Chunked], &[Fault::IgnoreRange]] {
        let (origin, layer) = cut_once().await;
        for fault in faults {
            origin.fault(On::path(&layer.digest).gets(), fault.clone());
        }
        let proxy = without_room(&origin).await;
        let answer = proxy.get(&blob("a/b", &layer.digest)).await;
        assert_eq!((answer.status, answer.complete), (200, true), "{faults:?}");
        assert_eq!(answer.digest(), layer.digest, "{faults:?}");
        // Without a length it is stored until it has outgrown its room, and passed through then.
        let outgrown = usize::from(matches!(faults, [Fault::Chunked]));
        let ranges = origin.ranges(&layer.digest);
        assert_eq!(ranges[..2], [None, Some(from(3_000_000))], "{faults:?}");
        assert_eq!(ranges.len(), 2 + outgrown, "{faults:?}: {ranges:?}");
        assert!(!proxy.has_stored(&layer.digest));
        let resumes = proxy.metric("roadstead_fill_resumes_total", &[("upstream", "docker.io")]);
        assert_eq!(usize::try_from(resumes), Ok(1 + outgrown), "{faults:?}");
        // Known to be too large from now on, so that nothing goes for it again.
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
        assert_eq!(origin.ranges(&layer.digest)[2 + outgrown..], [None], "{faults:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_passed_through_goes_on_from_the_cut() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 8 * MIB);
    origin.fault(On::path(&layer.digest).ranged().once(), Fault::CutAfter(2_000_000));
    let proxy = without_room(&origin).await;
    let part = proxy.get_range(&blob("a/b", &layer.digest), "bytes=1000000-6999999").await;
    assert_eq!((part.status, part.complete), (206, true));
    assert!(part.body == layer.content.slice(1_000_000..7_000_000));
    let ranges = origin.ranges(&layer.digest);
    assert_eq!(ranges.last(), Some(&Some("bytes=3000000-6999999".to_owned())), "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_passed_through_goes_on_with_the_same_bytes_or_not_at_all() {
    for (what, fault, times) in [
        ("other bytes before the cut", Fault::Flip(5), 10),
        ("another part", Fault::ShiftRange(10), 10),
        ("cut again and again", Fault::CutAfter(1000), 10),
    ] {
        let (origin, layer) = cut_once().await;
        if matches!(fault, Fault::Flip(_)) {
            origin.fault(On::path(&layer.digest).ranged(), Fault::IgnoreRange);
        }
        origin.fault(On::path(&layer.digest).ranged().times(times), fault);
        let proxy = without_room(&origin).await;
        let answer = proxy.get(&blob("a/b", &layer.digest)).await;
        assert!(!answer.complete, "{what}");
        assert!(layer.content.slice(0..3_000_000).starts_with(&answer.body[..1000]), "{what}");
        assert!(origin.blob_gets(&layer.digest) < 8, "{what}: it is given up");
    }
}
