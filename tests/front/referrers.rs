//! Referrers: passed through where the upstream has them, and a 404 that no client mistakes where not (REF-1 to REF-5).

use std::time::Duration;

use roadstead::oci::{Algorithm, Digest};
use serde_json::json;

use crate::support::image::OCI_INDEX;
use crate::support::origin::{Fault, Kind, On, Origin};
use crate::support::proxy::Proxy;

fn subject() -> Digest {
    Digest::of(Algorithm::Sha256, b"a manifest")
}

fn path() -> String {
    format!("/v2/acme/app/referrers/{}", subject())
}

fn asked(origin: &Origin) -> usize {
    origin.count(|request| request.kind == Kind::Referrers)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_lists_is_passed_on() {
    let origin = Origin::start().await;
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{ "size": 1 }] }).to_string();
    origin.put_referrers(&subject(), index.clone());
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get(&path()).await;
    assert_eq!((answer.status, answer.header("content-type"), answer.text()), (200, Some(OCI_INDEX), index.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_listed_is_an_empty_index_and_no_404() {
    let origin = Origin::start().await;
    origin.put_referrers(&Digest::of(Algorithm::Sha256, b"another"), "{}");
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get(&path()).await;
    assert_eq!((answer.status, answer.json()["manifests"].clone()), (200, json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_goes_upstream_and_its_confirmation_comes_back() {
    let origin = Origin::start().await;
    origin.put_referrers(&subject(), "{\"manifests\":[]}");
    let proxy = Proxy::of(&origin).await;
    let filtered = format!("{}?artifactType=application/x&ns=docker.io", path());
    assert_eq!(proxy.get(&filtered).await.header("oci-filters-applied"), None);
    proxy.clock().advance(Duration::from_hours(1));
    origin.fault(On::kind(Kind::Referrers), Fault::Header("OCI-Filters-Applied", Some("artifactType".into())));
    let answer = proxy.get(&filtered.replace("/x", "/y")).await;
    assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    let last = origin.requests().pop().expect("it was asked");
    assert_eq!(last.query, "artifactType=application/y");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_without_referrers_is_a_404_of_its_own_kind_asked_once() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    for _ in 0..3 {
        let answer = proxy.get(&path()).await;
        assert_eq!(answer.status, 404);
        assert_ne!(answer.code(), "NAME_UNKNOWN", "oras would take it for a missing repository");
    }
    assert_eq!(asked(&origin), 1);
    proxy.clock().advance(Duration::from_secs(301));
    assert_eq!(proxy.get(&path()).await.status, 404);
    assert_eq!(asked(&origin), 2, "asked again after a while");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_that_says_name_unknown_is_not_repeated_to_clients() {
    let origin = Origin::start().await;
    origin.fault(On::kind(Kind::Referrers), Fault::Status(404));
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get(&path()).await;
    assert_eq!(answer.status, 404);
    assert_ne!(answer.code(), "NAME_UNKNOWN");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tag_that_clients_fall_back_to_is_believed_absent_too() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    let fallback = format!("/v2/acme/app/manifests/sha256-{}", subject().hex());
    for _ in 0..3 {
        assert_eq!(proxy.get(&fallback).await.refusal(), (404, "MANIFEST_UNKNOWN".into()));
    }
    assert_eq!(origin.count(|request| request.kind == Kind::Manifest), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_upstream_is_no_proof_that_there_are_none() {
    let origin = Origin::start().await;
    origin.put_referrers(&subject(), "{\"manifests\":[]}");
    origin.fault(On::kind(Kind::Referrers), Fault::Status(500));
    let proxy = Proxy::of(&origin).await;
    assert_eq!(proxy.get(&path()).await.refusal(), (502, "UNAVAILABLE".into()));
    origin.repair();
    proxy.clock().advance(Duration::from_secs(61));
    assert_eq!(proxy.get(&path()).await.status, 200);
}
