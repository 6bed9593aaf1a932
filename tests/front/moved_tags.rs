//! A tag that has moved: it leads to its old manifest for everybody until what it leads to now can
//! be had (DESIGN §14.2).

use std::time::Duration;

use serde_json::json;

use crate::support::client::Answer;
use crate::support::content::{Blob, Content};
use crate::support::eventually;
use crate::support::image::{Image, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

const TTL: Duration = Duration::from_secs(301);
/// Longer than any pause after failures.
const LATER: Duration = Duration::from_secs(3601);

/// An index of these manifests, each for linux on one of these architectures.
fn index(entries: &[(&str, &Manifest)]) -> Manifest {
    let entry = |(architecture, of): &(&str, &Manifest)| {
        json!({ "mediaType": of.media_type, "digest": of.digest.as_str(), "size": of.bytes.len(),
            "platform": { "os": "linux", "architecture": architecture } })
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    let document = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
    Manifest::new(OCI_INDEX, document.to_string())
}

fn put(origin: &Origin, tag: &str, manifest: &Manifest) {
    origin.put_manifest("a/b", manifest);
    origin.tag("a/b", tag, &manifest.digest);
}

fn gets(origin: &Origin) -> usize {
    origin.count(|request| request.is_get(Kind::Manifest))
}

/// Ends what was wrong, and lets what is held go on.
fn repair(origin: &Origin, fault: &Fault) {
    origin.repair();
    if let Fault::HoldHead(gate) = fault {
        gate.open();
    }
}

/// Short waits for an upstream that says nothing.
fn impatient(origin: &Origin) -> Setup {
    let mut setup = Setup::of(origin);
    setup.limits.revalidate = Duration::from_millis(200);
    setup
}

/// A proxy that has pulled `a/b:v1`, which leads elsewhere now, and is to be asked about again.
async fn moved(old: &Manifest, new: &Manifest) -> (Origin, Proxy) {
    let origin = Origin::start().await;
    put(&origin, "v1", old);
    let proxy = impatient(&origin).start().await;
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, old.bytes);
    put(&origin, "v1", new);
    proxy.clock().advance(TTL);
    (origin, proxy)
}

fn images() -> [Manifest; 2] {
    [Image::new(1, &[10]).manifest, Image::new(2, &[10]).manifest]
}

fn assert_leads_to(answer: &Answer, to: &Manifest, stale: bool, what: &str) {
    let digest = answer.header("docker-content-digest");
    assert_eq!((answer.status, digest), (200, Some(to.digest.as_str())), "{what}");
    assert_eq!(answer.header("warning").is_some(), stale, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_gets_the_old_manifest_until_the_new_one_can_be_had() {
    let [old, new] = images();
    let tag = manifest("a/b", "v1");
    for fault in [
        Fault::Status(429),
        Fault::Status(503),
        Fault::CutAfter(20),
        Fault::Hangup,
        Fault::HoldHead(Gate::new()),
    ] {
        let (origin, mut proxy) = moved(&old, &new).await;
        origin.fault(On::kind(Kind::Manifest).gets(), fault.clone());
        for round in 0..3 {
            let what = format!("{fault:?} {round}");
            assert_leads_to(&proxy.get(&tag).await, &old, true, &what);
            assert_leads_to(&proxy.head(&tag).await, &old, true, &what);
            assert_eq!(proxy.get(&manifest("a/b", &old.digest)).await.body, old.bytes, "{what}");
            proxy.clock().advance(Duration::from_secs(6));
        }
        proxy.restart().await;
        assert_leads_to(&proxy.get(&tag).await, &old, true, &format!("{fault:?} after a restart"));
        repair(&origin, &fault);
        proxy.clock().advance(LATER);
        assert_leads_to(&proxy.get(&tag).await, &new, false, &format!("{fault:?} repaired"));
        origin.stop().await;
        proxy.clock().advance(TTL);
        assert_leads_to(&proxy.get(&tag).await, &new, true, &format!("{fault:?} durable"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_names_the_new_manifest_once_it_is_here() {
    let [old, new] = images();
    let (origin, proxy) = moved(&old, &new).await;
    let before = gets(&origin);
    assert_leads_to(&proxy.head(&manifest("a/b", "v1")).await, &new, false, "it can be had");
    assert_eq!(gets(&origin), before + 1);
    origin.fault(On::kind(Kind::Manifest).gets(), Fault::Status(429));
    assert_eq!(proxy.get(&manifest("a/b", &new.digest)).await.body, new.bytes);
    assert_leads_to(&proxy.get(&manifest("a/b", "v1")).await, &new, false, "it is here");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_manifest_stands_in_no_longer_than_allowed() {
    let [old, new] = images();
    let (origin, proxy) = moved(&old, &new).await;
    origin.fault(On::kind(Kind::Manifest).gets(), Fault::Status(503));
    proxy.clock().advance(Duration::from_hours(24));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_comes_late_moves_the_tag_and_is_asked_for_once() {
    let [old, new] = images();
    let (origin, proxy) = moved(&old, &new).await;
    let (gate, before) = (Gate::new(), gets(&origin));
    origin.fault(On::kind(Kind::Manifest).gets(), Fault::HoldHead(gate.clone()));
    for _ in 0..3 {
        assert_leads_to(&proxy.get(&manifest("a/b", "v1")).await, &old, true, "not here yet");
    }
    assert_eq!(gets(&origin), before + 1);
    gate.open();
    eventually("it is stored", || proxy.has_stored(&new.digest)).await;
    proxy.clock().advance(Duration::from_secs(6));
    assert_leads_to(&proxy.get(&manifest("a/b", "v1")).await, &new, false, "here");
    assert_eq!(gets(&origin), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_whose_heads_name_no_digest_is_no_exception() {
    let [old, new] = images();
    let (origin, proxy) = moved(&old, &new).await;
    origin.fault(On::kind(Kind::Manifest), Fault::Header("Docker-Content-Digest", None));
    origin.fault(On::kind(Kind::Manifest).gets(), Fault::Status(503));
    for _ in 0..2 {
        assert_leads_to(&proxy.get(&manifest("a/b", "v1")).await, &old, true, "GET fails");
    }
    origin.repair();
    origin.fault(On::kind(Kind::Manifest), Fault::Header("Docker-Content-Digest", None));
    proxy.clock().advance(LATER);
    assert_leads_to(&proxy.get(&manifest("a/b", "v1")).await, &new, false, "repaired");
    assert_leads_to(&proxy.get(&manifest("a/b", "v1")).await, &new, false, "recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_moves_with_the_manifests_that_were_pulled_through_it() {
    let children: Vec<_> = (1..=4).map(|seed| Image::new(seed, &[10]).manifest).collect();
    let old = index(&[("amd64", &children[0]), ("arm64", &children[1])]);
    let new = index(&[("arm64", &children[3]), ("amd64", &children[2])]);
    for fault in [Fault::Status(429), Fault::Status(503), Fault::HoldHead(Gate::new())] {
        let origin = Origin::start().await;
        for child in &children {
            origin.put_manifest("a/b", child);
        }
        put(&origin, "v1", &old);
        let proxy = impatient(&origin).start().await;
        let tag = manifest("a/b", "v1");
        proxy.get(&tag).await;
        assert_eq!(proxy.get(&manifest("a/b", &children[0].digest)).await.status, 200);
        put(&origin, "v1", &new);
        proxy.clock().advance(TTL);
        origin.fault(On::path(&children[2].digest), fault.clone());
        let what = format!("{fault:?}");
        assert_leads_to(&proxy.get(&tag).await, &old, true, &what);
        assert_leads_to(&proxy.head(&tag).await, &old, true, &what);
        // Somebody who names the new index gets it, which moves no tag.
        assert_eq!(proxy.get(&manifest("a/b", &new.digest)).await.body, new.bytes, "{what}");
        proxy.clock().advance(Duration::from_secs(6));
        assert_leads_to(&proxy.get(&tag).await, &old, true, &what);
        assert_eq!(proxy.get(&manifest("a/b", &children[0].digest)).await.status, 200, "{what}");

        repair(&origin, &fault);
        proxy.clock().advance(LATER);
        assert_leads_to(&proxy.get(&tag).await, &new, false, &what);
        let asked = |of: &Manifest| {
            origin.count(|r| r.is_get(Kind::Manifest) && r.reference == of.digest.as_str())
        };
        assert_eq!(asked(&children[3]), 0, "{what}: nobody has pulled for arm64");
        origin.stop().await;
        let child = proxy.get(&manifest("a/b", &children[2].digest)).await;
        assert_eq!(child.body, children[2].bytes, "{what}: it is here before the tag has moved");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_whose_manifests_are_said_to_be_missing_moves_all_the_same() {
    let [old_child, new_child] = images();
    let (old, new) = (index(&[("amd64", &old_child)]), index(&[("amd64", &new_child)]));
    let origin = Origin::start().await;
    origin.put_manifest("a/b", &old_child);
    put(&origin, "v1", &old);
    let proxy = Proxy::of(&origin).await;
    proxy.get(&manifest("a/b", "v1")).await;
    proxy.get(&manifest("a/b", &old_child.digest)).await;
    put(&origin, "v1", &new);
    proxy.clock().advance(TTL);
    assert_leads_to(&proxy.get(&manifest("a/b", "v1")).await, &new, false, "a sparse index");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_becomes_an_index_moves_with_the_manifest_for_its_platform() {
    let config = Blob::new(Content::given(r#"{"os":"linux","architecture":"arm64"}"#));
    let kind = "application/vnd.oci.image.config.v1+json";
    let listed =
        json!({ "mediaType": kind, "digest": config.digest.as_str(), "size": config.len() });
    let old =
        json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": listed, "layers": [] });
    let old = Manifest::new(OCI_MANIFEST, old.to_string());
    let [amd64, arm64] = images();
    let new = index(&[("amd64", &amd64), ("arm64", &arm64)]);
    let (origin, proxy) = moved(&old, &new).await;
    origin.put_blob("a/b", &config);
    origin.put_manifest("a/b", &amd64);
    origin.put_manifest("a/b", &arm64);
    assert_eq!(proxy.get(&blob("a/b", &config.digest)).await.status, 200);
    eventually("it is stored", || proxy.has_stored(&config.digest)).await;
    origin.fault(On::path(&arm64.digest), Fault::Status(429));
    assert_leads_to(&proxy.get(&manifest("a/b", "v1")).await, &old, true, "arm64 cannot be had");
    origin.repair();
    proxy.clock().advance(LATER);
    assert_leads_to(&proxy.get(&manifest("a/b", "v1")).await, &new, false, "it can");
    assert!(proxy.has_stored(&arm64.digest) && !proxy.has_stored(&amd64.digest));
}
