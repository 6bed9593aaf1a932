//! An image and its signatures, as cosign and its kind push and find them: a manifest with the
//! image as its `subject`, and, because the registry has no referrers API, an index under the tag
//! that stands in for it. Those who verify need not know: the proxy has the API.

use http::StatusCode;
use roadstead::oci::Digest;
use serde_json::{Value, json};

use crate::support::image::{Content, INDEX, Image, MANIFEST};
use crate::support::process::{Need, ready};
use crate::support::push_client::PushClient;
use crate::support::registry::NEED;
use crate::support::vendor::{PUBLISHER, Vendor, basic};

const REPOSITORY: &str = "myapp/signed";
const SIGNATURE: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

#[tokio::test]
async fn signatures_are_pushed_kept_by_the_registry_and_found_by_customers() {
    if !ready(&[NEED, Need::Root]) {
        return;
    }
    let vendor = Vendor::open().await;
    let authorization = basic(PUBLISHER.0, PUBLISHER.1);
    let client = vendor.sandbox.client(vendor.proxy.clients.port());
    let push_client =
        PushClient::to(&format!("https://{}", vendor.host()), client, Some(authorization));
    let image = Image::make(vendor.scratch.path(), 41, &[20_000]).await;
    push_client.push_image(REPOSITORY, "1", &image).await.expect("the publisher may push");
    let customer = vendor.issue("acme-prod").await.basic();
    let subject = &image.index;
    assert_eq!(
        found(&vendor, subject, &customer).await,
        [] as [Digest; 0],
        "nobody has signed it yet"
    );

    let mut signatures = Vec::new();
    for signer in ["build", "release"] {
        signatures.push(sign(&push_client, subject, signer).await);
        let listed = index_of(&signatures);
        push_client
            .push_manifest(REPOSITORY, &fallback_tag(subject), &listed)
            .await
            .expect("the publisher may push");
        // If it lived in our cache alone, it would be gone with it.
        assert_eq!(vendor.registry.tagged(REPOSITORY, &fallback_tag(subject)), listed.digest);
        let expected: Vec<Digest> =
            signatures.iter().map(|signature| signature.digest.clone()).collect();
        assert_eq!(found(&vendor, subject, &customer).await, expected);
    }
    for signature in &signatures {
        let path = format!("/v2/{REPOSITORY}/manifests/{}", signature.digest);
        let answer = vendor.get(&path, &customer).await;
        assert_eq!((answer.status, answer.body.as_ref()), (StatusCode::OK, &*signature.bytes));
    }
    let log = vendor.registry.log("all").await;
    let fetched: Vec<_> = log.iter().filter(|logged| logged.carries_content()).collect();
    assert!(fetched.is_empty(), "fetched although it had passed by: {fetched:#?}");
}

/// Pushes a signature. The registry says nothing of subjects, so neither may we: else its client
/// would not write the tag that everybody finds it by (ACCESS §7.4).
async fn sign(push_client: &PushClient, subject: &Content, signer: &str) -> Content {
    let empty = Content::json(EMPTY, &json!({}));
    let payload = json!({ "critical": { "image": { "docker-manifest-digest": subject.digest.as_str() } }, "by": signer });
    let payload = Content::json(PAYLOAD, &payload);
    let manifest = Content::json(
        MANIFEST,
        &json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": SIGNATURE, "config": empty.descriptor(),
            "layers": [payload.descriptor()], "subject": subject.descriptor(),
        }),
    );
    for blob in [&empty, &payload] {
        push_client.push_blob(REPOSITORY, blob).await.expect("the publisher may push");
    }
    let headers = push_client.push_manifest(REPOSITORY, manifest.digest.as_str(), &manifest).await;
    let headers = headers.expect("the publisher may push");
    assert!(!headers.contains_key("oci-subject"), "{headers:?}");
    manifest
}

fn index_of(signatures: &[Content]) -> Content {
    let entries = signatures.iter().map(|signature| {
        let mut entry = signature.descriptor();
        entry["artifactType"] = SIGNATURE.into();
        entry
    });
    Content::json(
        INDEX,
        &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries.collect::<Vec<_>>() }),
    )
}

/// What a client that verifies finds by the API.
async fn found(vendor: &Vendor, subject: &Content, authorization: &str) -> Vec<Digest> {
    let api = format!("/v2/{REPOSITORY}/referrers/{}?artifactType={SIGNATURE}", subject.digest);
    let answer = vendor.get(&api, authorization).await;
    if answer.status == StatusCode::NOT_FOUND {
        return Vec::new();
    }
    let index: Value = serde_json::from_slice(&answer.body).expect("an index is JSON");
    let entries = index["manifests"].as_array().expect("an index has a list").iter();
    let signatures = entries.filter(|entry| entry["artifactType"] == SIGNATURE);
    signatures
        .map(|entry| Digest::parse(entry["digest"].as_str().expect("a text")).expect("a digest"))
        .collect()
}

/// distribution-spec, "Referrers Tag Schema".
fn fallback_tag(subject: &Content) -> String {
    subject.digest.as_str().replace(':', "-")
}
