//! Referrers: passed through where the upstream has them; where not, the fallback tag answers, or
//! an empty list, so that no client meets two kinds of answer (REF-1 to REF-5).

use std::time::Duration;

use roadstead::oci::{Algorithm, Digest};
use serde_json::json;

use crate::support::client::Answer;
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

fn assert_nothing_is_listed(answer: &Answer, what: &str) {
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(OCI_INDEX)), "{what}");
    assert_eq!(answer.json()["manifests"], json!([]), "{what}");
    assert_eq!(answer.json()["mediaType"], json!(OCI_INDEX), "{what}");
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
async fn without_an_api_and_a_tag_the_list_is_empty_and_asked_for_once() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    for _ in 0..3 {
        assert_nothing_is_listed(&proxy.get(&path()).await, "no API");
    }
    assert_eq!(asked(&origin), 1);
    let filtered = proxy.get(&format!("{}?artifactType=application/x", path())).await;
    assert_nothing_is_listed(&filtered, "filtered");
    assert_eq!(filtered.header("oci-filters-applied"), Some("artifactType"));
    proxy.clock().advance(Duration::from_secs(11));
    assert_nothing_is_listed(&proxy.get(&path()).await, "later");
    assert_eq!(asked(&origin), 2, "asked again soon: a signature comes after its image");
}

/// What registries without the API answer.
fn no_such_api() -> Vec<(String, Fault)> {
    let page = |kind, body: &'static str| Fault::Instead(200, kind, body.into());
    let statuses = [400, 404, 405, 406, 410, 501];
    let statuses = statuses.map(|status| (status.to_string(), Fault::Status(status)));
    let others = [
        ("a page of HTML", page("text/html", "<html></html>")),
        ("JSON", page("application/json", "{}")),
        ("a list that is none", page(OCI_INDEX, "[]")),
        ("nothing", page(OCI_INDEX, "")),
        ("a redirect to another host", Fault::Redirect("http://203.0.113.1/login".into())),
        ("a redirect to itself", Fault::Redirect(path())),
        ("a redirect to a page", Fault::Redirect("/login".into())),
    ];
    statuses.into_iter().chain(others.map(|(what, fault)| (what.to_owned(), fault))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn however_upstream_says_that_it_has_no_api_the_tag_is_looked_for() {
    for (what, fault) in no_such_api() {
        let (origin, proxy) = with_fallback(&list(&[SIGNATURE])).await;
        origin.fault(On::kind(Kind::Referrers), fault);
        assert_eq!(proxy.get(&path()).await.body, list(&[SIGNATURE]).bytes, "{what}");
        let other = path().replace(subject().hex(), &"0".repeat(64));
        assert_nothing_is_listed(&proxy.get(&other).await, &what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_no_missing_repository_and_no_empty_list() {
    for status in [401, 403] {
        let origin = Origin::start().await;
        origin.fault(On::kind(Kind::Referrers), Fault::Status(status));
        let proxy = Proxy::of(&origin).await;
        assert_eq!(proxy.get(&path()).await.refusal(), (403, "DENIED".into()), "{status}");
        put(&origin, &tag(), &list(&[SIGNATURE]));
        proxy.clock().advance(Duration::from_secs(11));
        let answer = proxy.get(&path()).await;
        assert_eq!(answer.body, list(&[SIGNATURE]).bytes, "{status}: the tag may be read");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_the_subject_itself_is_no_list() {
    let child = Image::new(1, &[10]).manifest;
    let subject = Manifest::index(&[&child]);
    let origin = Origin::start().await;
    put(&origin, &format!("sha256-{}", subject.digest.hex()), &subject);
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get(&format!("/v2/acme/app/referrers/{}", subject.digest)).await;
    assert_nothing_is_listed(&answer, "an index that is asked about");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_was_given_stands_in_for_a_while_when_upstream_is_down() {
    let origin = Origin::start().await;
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{ "size": 1 }] })
        .to_string();
    origin.put_referrers(&subject(), index.clone());
    let proxy = Proxy::of(&origin).await;
    let fresh = proxy.get(&path()).await;
    assert_eq!((fresh.status, fresh.header("warning")), (200, None));
    origin.stop().await;
    proxy.clock().advance(Duration::from_hours(23));
    let stale = proxy.get(&path()).await;
    assert_eq!((stale.status, stale.text()), (200, index.as_str()));
    assert!(stale.header("warning").is_some_and(|warning| warning.starts_with("299")));
    let never = proxy.get(&format!("{}?artifactType=application/x", path())).await;
    assert_eq!(never.status, 502, "another question");
    proxy.clock().advance(Duration::from_hours(2));
    assert_eq!(proxy.get(&path()).await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_was_refused_since_does_not_stand_in() {
    let origin = Origin::start().await;
    origin.put_referrers(&subject(), "{\"manifests\":[]}");
    let proxy = Proxy::of(&origin).await;
    assert_eq!(proxy.get(&path()).await.status, 200);
    proxy.clock().advance(Duration::from_secs(1));
    origin.fault(On::kind(Kind::Referrers), Fault::Status(403));
    assert_eq!(proxy.get(&path()).await.status, 403);
    origin.stop().await;
    assert_eq!(proxy.get(&path()).await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tag_that_clients_fall_back_to_is_believed_absent_too() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    for algorithm in ["sha256", "sha512"] {
        let fallback = format!("/v2/acme/app/manifests/{algorithm}-{}", subject().hex());
        let before = origin.count(|request| request.kind == Kind::Manifest);
        let asked = || origin.count(|request| request.kind == Kind::Manifest) - before;
        for suffix in ["", ".sig", ".att", ".sbom"] {
            let (tag, before) = (format!("{fallback}{suffix}"), asked());
            for _ in 0..3 {
                assert_eq!(proxy.get(&tag).await.refusal(), (404, "MANIFEST_UNKNOWN".into()));
            }
            let once = asked() - before;
            proxy.clock().advance(Duration::from_secs(11));
            assert_eq!(proxy.get(&tag).await.status, 404, "{algorithm} {suffix}");
            assert_eq!(asked() - before, 2 * once, "{algorithm} {suffix}: soon asked again");
        }
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
        let other = proxy.get(&path.replace("/app/", "/other/")).await;
        assert_nothing_is_listed(&other, "a tag is its repository's");
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
    assert_nothing_is_listed(&proxy.get(&path()).await, "gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fallback_list_may_be_as_large_as_a_manifest() {
    let large = list(&[SIGNATURE, &"x".repeat(3 << 20)]);
    let (_origin, proxy) = with_fallback(&large).await;
    for from in ["upstream", "the store"] {
        let answer = proxy.get(&path()).await;
        assert!(answer.status == 200 && answer.body == large.bytes, "from {from}");
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
        assert_nothing_is_listed(&proxy.get(&path()).await, what);
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
