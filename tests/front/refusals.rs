//! A refusal is about the thing that was asked for. It takes that thing, and has the rest of the
//! repository confirmed before it is believed again (DESIGN §14.1).

use std::time::Duration;

use roadstead::oci::Digest;

use crate::support::content::Blob;
use crate::support::eventually;
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, blob, manifest};
use crate::support::pulled::{paths, pulled};

const MIB: u64 = 1 << 20;
const PROOF_TTL: Duration = Duration::from_secs(601);

/// Asks for a signature's tag, which upstream refuses once.
async fn refuse_a_side_question(origin: &Origin, proxy: &Proxy) {
    origin.fault(On::path("/manifests/x.sig"), Fault::Status(403));
    assert_eq!(proxy.get(&manifest("a/b", "x.sig")).await.status, 404);
    origin.repair();
}

fn heads(origin: &Origin, digest: &Digest) -> usize {
    origin.count(|request| request.method == "HEAD" && request.reference == digest.as_str())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_side_question_leaves_what_was_pulled_for_an_outage() {
    let other = Blob::seeded(9, 10).digest;
    for status in [401, 403] {
        for side in [
            manifest("a/b", "x.sig"),
            manifest("a/b", "quarantined"),
            manifest("a/b", &other),
            blob("a/b", &other),
            "/v2/a/b/tags/list".to_owned(),
            format!("/v2/a/b/referrers/{other}"),
        ] {
            let (origin, image, mut proxy) = pulled().await;
            origin.fault(On::path(side.trim_start_matches("/v2")), Fault::Status(status));
            assert_ne!(proxy.get(&side).await.status, 200, "{status} {side}");
            origin.stop().await;
            for path in paths(&image) {
                assert_eq!(proxy.get(&path).await.status, 200, "{status} {side}: {path}");
            }
            proxy.restart().await;
            for path in paths(&image) {
                assert_eq!(proxy.get(&path).await.status, 200, "{status} {side}, again: {path}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_refusal_each_proof_is_confirmed_once_by_a_head_of_its_own() {
    let (origin, image, mut proxy) = pulled().await;
    let layer = &image.layers[0].digest;
    refuse_a_side_question(&origin, &proxy).await;
    proxy.restart().await;
    let path = blob("a/b", layer);
    let (one, two) = tokio::join!(proxy.get(&path), proxy.get(&path));
    assert_eq!((one.digest(), two.digest()), (layer.clone(), layer.clone()));
    assert_eq!((heads(&origin, layer), heads(&origin, &image.config.digest)), (1, 0));
    assert_eq!(proxy.get(&path).await.status, 200);
    assert_eq!(heads(&origin, layer), 1, "confirmed, it is as fresh as any other");
    assert_eq!(proxy.get(&blob("a/b", &image.config.digest)).await.status, 200);
    assert_eq!(heads(&origin, &image.config.digest), 1, "the layer does not answer for it");
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
    assert_eq!(heads(&origin, &image.manifest.digest), 1, "nor do the blobs for the manifest");
    assert_eq!(origin.blob_gets(layer), 1, "nothing is downloaded again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_refuses_after_a_refusal_is_withdrawn() {
    for restart in [false, true] {
        let (origin, image, mut proxy) = pulled().await;
        refuse_a_side_question(&origin, &proxy).await;
        if restart {
            proxy.restart().await;
        }
        origin.fault(On::any(), Fault::Status(403));
        let [_, by_digest, config, layer] = paths(&image);
        for path in [&by_digest, &layer] {
            assert_eq!(proxy.get(path).await.refusal(), (404, "NAME_UNKNOWN".into()), "{path}");
        }
        assert_eq!(proxy.head(&config).await.status, 404);
        origin.stop().await;
        for path in paths(&image) {
            assert_eq!(proxy.get(&path).await.status, 502, "restart {restart}: {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_gone_after_a_refusal_is_withdrawn_and_nothing_else() {
    let (origin, image, proxy) = pulled().await;
    refuse_a_side_question(&origin, &proxy).await;
    origin.remove_blob("a/b", &image.layers[0].digest);
    let [tag, by_digest, config, layer] = paths(&image);
    assert_eq!(proxy.get(&layer).await.refusal(), (404, "BLOB_UNKNOWN".into()));
    origin.stop().await;
    for kept in [tag, by_digest, config] {
        assert_eq!(proxy.get(&kept).await.status, 200, "{kept}");
    }
    assert_ne!(proxy.get(&layer).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doubted_proof_stands_in_an_outage_for_as_long_as_it_was_last_believed() {
    let (origin, image, proxy) = pulled().await;
    let layer = blob("a/b", &image.layers[0].digest);
    proxy.clock().advance(Duration::from_hours(20));
    refuse_a_side_question(&origin, &proxy).await;
    // The repository is confirmed again, but by something else.
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
    origin.fault(On::kind(Kind::Blob), Fault::Status(503));
    assert_eq!(proxy.get(&layer).await.status, 200);
    proxy.clock().advance(Duration::from_hours(5));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200);
    assert_eq!(proxy.get(&layer).await.status, 502, "not confirmed for 25 hours");
    origin.repair();
    proxy.clock().advance(Duration::from_secs(61));
    assert_eq!(proxy.get(&layer).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_refuses_heads_of_blobs_confirms_them_by_their_first_byte() {
    let (origin, image, proxy) = pulled().await;
    refuse_a_side_question(&origin, &proxy).await;
    origin.fault(On::kind(Kind::Blob).heads(), Fault::Status(401));
    for kept in [&image.layers[0], &image.config] {
        assert_eq!(proxy.get(&blob("a/b", &kept.digest)).await.digest(), kept.digest);
        let last = origin.requests().pop().expect("it was asked");
        assert_eq!(
            (last.header("range"), last.reference.as_str()),
            (Some("bytes=0-0"), kept.digest.as_str())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_manifest_leaves_the_repositorys_other_content() {
    let (origin, image, proxy) = pulled().await;
    proxy.clock().advance(PROOF_TTL);
    // The manifest that answers for the repository is refused, not the layer.
    origin.fault(On::path(&image.manifest.digest), Fault::Status(403));
    assert_eq!(proxy.get(&blob("a/b", &image.layers[0].digest)).await.status, 200);
    let by_digest = manifest("a/b", &image.manifest.digest);
    assert_eq!(proxy.get(&by_digest).await.refusal(), (404, "NAME_UNKNOWN".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_joins_a_download_of_what_was_refused_or_is_gone_since() {
    for (what, status) in [("refused", 403), ("gone", 404)] {
        let origin = Origin::start().await;
        let layer = origin.blob("a/b", 1, 4 * MIB);
        let gate = origin.hold_at(&layer.digest, MIB);
        let proxy = Proxy::of(&origin).await;
        let path = blob("a/b", &layer.digest);
        let mut first = proxy.open(&path).await;
        first.read(1).await;
        proxy.clock().advance(PROOF_TTL);
        origin.fault(On::path(&layer.digest), Fault::Status(status));
        for _ in 0..2 {
            assert_eq!(proxy.get(&path).await.status, 404, "{what}");
            assert_eq!(proxy.head(&path).await.status, 404, "{what}");
            // An absence is remembered for a while.
            proxy.clock().advance(Duration::from_secs(11));
        }
        gate.open();
        first.finish().await;
        assert_eq!(proxy.get(&path).await.status, 404, "{what}: stored by now");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_a_question_from_before_a_refusal_proves_nothing() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 300_000);
    let (gate, path) = (Gate::new(), blob("a/b", &layer.digest));
    origin.fault(On::path(&layer.digest).gets().once(), Fault::HoldHead(gate.clone()));
    let proxy = Proxy::of(&origin).await;
    let (early, ()) = tokio::join!(proxy.get(&path), async {
        eventually("it is asked for", || gate.reached() == 1).await;
        proxy.clock().advance(Duration::from_millis(1));
        origin.fault(On::path(&layer.digest), Fault::Status(403));
        assert_eq!(proxy.head(&path).await.status, 404);
        gate.open();
    });
    assert_eq!(early.digest(), layer.digest, "it was asked for before");
    eventually("the blob is stored", || proxy.has_stored(&layer.digest)).await;
    assert_eq!(proxy.get(&path).await.status, 404);
}
