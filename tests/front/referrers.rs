//! Referrers: passed through where the upstream has them; where not, the fallback tag answers, or a
//! 404 that no client mistakes (REF-1 to REF-5).

use std::time::Duration;

use roadstead::oci::{Algorithm, Digest};
use serde_json::json;

use crate::support::content::{Blob, Content};
use crate::support::image::{Image, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

const SIGNATURE: &str = "application/vnd.acme.signature.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const SBOM: &str = "application/spdx+json";

fn subject() -> Digest {
    Digest::of(Algorithm::Sha256, b"a manifest")
}

fn path() -> String {
    format!("/v2/acme/app/referrers/{}", subject())
}

fn tag() -> String {
    format!("sha256-{}", subject().hex())
}

/// An index that lists one manifest of each of these types.
fn list(types: &[&str]) -> Manifest {
    let entry = |of: &&str| {
        let digest = Digest::of(Algorithm::Sha256, of.as_bytes());
        json!({ "mediaType": OCI_MANIFEST, "digest": digest.as_str(), "size": 2, "artifactType": of })
    };
    let entries: Vec<_> = types.iter().map(entry).collect();
    Manifest::new(
        OCI_INDEX,
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries }).to_string(),
    )
}

fn put(origin: &Origin, tag: &str, manifest: &Manifest) {
    origin.put_manifest("acme/app", manifest);
    origin.tag("acme/app", tag, &manifest.digest);
}

/// An origin without the API that holds `manifest` under the fallback tag, and a proxy.
async fn with_fallback(manifest: &Manifest) -> (Origin, Proxy) {
    let origin = Origin::start().await;
    put(&origin, &tag(), manifest);
    let proxy = Proxy::of(&origin).await;
    (origin, proxy)
}

fn asked(origin: &Origin) -> usize {
    origin.count(|request| request.kind == Kind::Referrers)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_lists_is_passed_on() {
    let origin = Origin::start().await;
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{ "size": 1 }] })
        .to_string();
    origin.put_referrers(&subject(), index.clone());
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get(&path()).await;
    assert_eq!(
        (answer.status, answer.header("content-type"), answer.text()),
        (200, Some(OCI_INDEX), index.as_str())
    );
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
    origin.fault(
        On::kind(Kind::Referrers),
        Fault::Header("OCI-Filters-Applied", Some("artifactType".into())),
    );
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
    for algorithm in ["sha256", "sha512"] {
        let fallback = format!("/v2/acme/app/manifests/{algorithm}-{}", subject().hex());
        let before = origin.count(|request| request.kind == Kind::Manifest);
        for _ in 0..3 {
            assert_eq!(proxy.get(&fallback).await.refusal(), (404, "MANIFEST_UNKNOWN".into()));
            proxy.clock().advance(Duration::from_mins(1));
        }
        assert_eq!(
            origin.count(|request| request.kind == Kind::Manifest),
            before + 1,
            "{algorithm}"
        );
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn without_an_api_the_fallback_tag_is_the_answer_and_is_cached() {
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        let (origin, list) = (Origin::start().await, list(&[SIGNATURE, SBOM]));
        let subject = Digest::of(algorithm, b"a manifest");
        // Cut at 64 characters, so that a sha512 one is a tag (distribution-spec, "Referrers Tag
        // Schema").
        put(&origin, &format!("{}-{}", algorithm.name(), &subject.hex()[..64]), &list);
        let proxy = Proxy::of(&origin).await;
        let path = format!("/v2/acme/app/referrers/{subject}");
        let answer = proxy.get(&path).await;
        assert_eq!(
            (answer.status, answer.header("content-type"), &answer.body),
            (200, Some(OCI_INDEX), &list.bytes)
        );
        assert_eq!(answer.header("oci-filters-applied"), None);
        let before = origin.requests().len();
        assert_eq!(proxy.get(&path).await.body, list.bytes);
        assert_eq!(origin.requests().len(), before, "everything is known");
        assert_eq!(
            proxy.get(&path.replace("/app/", "/other/")).await.status,
            404,
            "a tag is its repository's"
        );
        assert_eq!(
            proxy
                .metric("roadstead_cache_requests_total", &[("kind", "tag"), ("outcome", "fresh")]),
            1
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_fallback_tag_lists_is_filtered_here() {
    let (_origin, proxy) = with_fallback(&list(&[SIGNATURE, SBOM, "application/x"])).await;
    let encoded = SIGNATURE.replace('/', "%2F").replace('+', "%2B");
    for (query, expected) in [
        (format!("artifactType={encoded}"), vec![SIGNATURE]),
        (
            format!("artifactType={SBOM}&ns=docker.io&artifactType=application/x"),
            vec![SBOM, "application/x"],
        ),
        ("artifactType=application/y".to_owned(), vec![]),
    ] {
        let answer = proxy.get(&format!("{}?{query}", path())).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, Some(OCI_INDEX)),
            "{query}"
        );
        assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"), "{query}");
        let listed = answer.json()["manifests"].as_array().expect("a list").clone();
        let types: Vec<_> =
            listed.iter().map(|entry| entry["artifactType"].as_str().expect("a type")).collect();
        assert_eq!(types, expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_tag_that_moves_or_goes_is_followed_after_its_ttl() {
    let (origin, proxy) = with_fallback(&list(&[SIGNATURE])).await;
    assert_eq!(proxy.get(&path()).await.body, list(&[SIGNATURE]).bytes);
    put(&origin, &tag(), &list(&[SIGNATURE, SBOM]));
    proxy.clock().advance(Duration::from_secs(301));
    assert_eq!(proxy.get(&path()).await.body, list(&[SIGNATURE, SBOM]).bytes);
    origin.untag("acme/app", &tag());
    proxy.clock().advance(Duration::from_secs(301));
    assert_eq!(proxy.get(&path()).await.refusal(), (404, "UNSUPPORTED".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_list_may_be_as_large_as_a_page() {
    let large = |bytes: usize| list(&[SIGNATURE, &"x".repeat(bytes)]);
    for (manifest, status) in [(large(900 << 10), 200), (large(1 << 20), 404)] {
        let (_origin, proxy) = with_fallback(&manifest).await;
        for from in ["upstream", "the store"] {
            let answer = proxy.get(&path()).await;
            assert_eq!(answer.status, status, "from {from}");
            assert!(status != 200 || answer.body == manifest.bytes, "from {from}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_tag_that_leads_to_no_list_counts_as_absent() {
    let image = Image::new(1, &[10]);
    for (what, manifest) in [
        ("an image", image.manifest),
        (
            "docker's list",
            Manifest::new(DOCKER_LIST, json!({ "schemaVersion": 2, "manifests": [] }).to_string()),
        ),
        ("an index without entries", Manifest::new(OCI_INDEX, r#"{"schemaVersion":2}"#)),
        ("a web page", Manifest::new("text/html", "<html></html>")),
        ("more than a manifest may be", Manifest::new(OCI_INDEX, " ".repeat(5 << 20))),
    ] {
        let (_origin, proxy) = with_fallback(&manifest).await;
        assert_eq!(proxy.get(&path()).await.refusal(), (404, "UNSUPPORTED".into()), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_list_stands_in_for_a_while_when_upstream_is_down() {
    let (origin, proxy) = with_fallback(&list(&[SIGNATURE])).await;
    proxy.get(&path()).await;
    origin.stop().await;
    for later in [Duration::ZERO, Duration::from_hours(23)] {
        proxy.clock().advance(later);
        let answer = proxy.get(&path()).await;
        assert_eq!((answer.status, &answer.body), (200, &list(&[SIGNATURE]).bytes), "{later:?}");
        assert_eq!(answer.header("warning").is_some(), later > Duration::ZERO, "{later:?}");
    }
    proxy.clock().advance(Duration::from_hours(2));
    assert_eq!(proxy.get(&path()).await.refusal(), (502, "UNAVAILABLE".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_list_stands_in_with_a_warning_when_only_the_api_fails() {
    for fault in [Fault::Status(500), Fault::HoldHead(Gate::new())] {
        let origin = Origin::start().await;
        put(&origin, &tag(), &list(&[SIGNATURE]));
        let mut setup = Setup::of(&origin);
        setup.limits.revalidate = Duration::from_millis(200);
        let proxy = setup.start().await;
        proxy.get(&path()).await;
        proxy.clock().advance(Duration::from_secs(301));
        origin.fault(On::kind(Kind::Referrers), fault.clone());
        let answer = proxy.get(&path()).await;
        assert_eq!((answer.status, &answer.body), (200, &list(&[SIGNATURE]).bytes), "{fault:?}");
        assert!(
            answer.header("warning").is_some(),
            "{fault:?}: there may be an API by now, with others in it"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_tag_that_cannot_be_asked_for_is_no_proof_that_there_is_none() {
    let (origin, proxy) = with_fallback(&list(&[SIGNATURE])).await;
    origin.fault(On::kind(Kind::Manifest), Fault::Status(500));
    assert_eq!(proxy.get(&path()).await.refusal(), (502, "UNAVAILABLE".into()));
    origin.repair();
    proxy.clock().advance(Duration::from_secs(61));
    assert_eq!(proxy.get(&path()).await.body, list(&[SIGNATURE]).bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_is_found_by_its_tag_and_by_its_subject() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("acme/app", "v1", &image).await;
    let payload = Blob::new(Content::given("a signature"));
    origin.put_blob("acme/app", &payload);
    let layer =
        json!({ "mediaType": SIGNATURE, "digest": payload.digest.as_str(), "size": payload.len() });
    let subject = json!({ "mediaType": OCI_MANIFEST, "digest": image.manifest.digest.as_str(), "size": image.manifest.bytes.len() });
    let document = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": SIGNATURE,
        "config": layer, "layers": [layer], "subject": subject,
    });
    let signature = Manifest::new(OCI_MANIFEST, document.to_string());
    let (stem, proxy) =
        (format!("sha256-{}", image.manifest.digest.hex()), Proxy::of(&origin).await);
    for suffix in ["sig", "att", "sbom"] {
        put(&origin, &format!("{stem}.{suffix}"), &signature);
        assert_eq!(
            proxy.get(&manifest("acme/app", format!("{stem}.{suffix}"))).await.body,
            signature.bytes,
            "{suffix}"
        );
    }
    put(&origin, &stem, &Manifest::index(&[&signature]));
    let answer = proxy.get(&format!("/v2/acme/app/referrers/{}", image.manifest.digest)).await;
    let found = answer.json()["manifests"][0]["digest"].as_str().expect("one entry").to_owned();
    assert_eq!(proxy.get(&manifest("acme/app", found)).await.body, signature.bytes);
    assert_eq!(proxy.get(&blob("acme/app", &payload.digest)).await.body, payload.bytes());
}
