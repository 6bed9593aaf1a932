//! Every client that pushes, over TLS: what arrives at the registry, what is in the cache then, and
//! who is refused.

use std::fs;
use std::time::Duration;

use roadstead::oci::Digest;
use serde_json::json;
use tokio::time::Instant;

use crate::support::process::{Need, fail, ready, run};
use crate::support::registry::{Auth, Logged, Registry};
use crate::support::tools::{Buildah, Client, Docker, Podman, Pusher, Skopeo, archive};
use crate::support::vendor::{ClientOfVendor, PUBLISHER, Vendor, basic};

/// What is pushed, under two names of one application.
const FIRST: &str = "myapp/pushed";
const SECOND: &str = "myapp/again";

/// Clients that take a refusal for a failure try again for longer.
const AT_ONCE: Duration = Duration::from_secs(8);

#[tokio::test]
async fn docker_pushes_what_skopeo_pulls_without_the_registry() {
    pushes::<Docker, Skopeo>().await;
}

#[tokio::test]
async fn podman_pushes_what_docker_pulls_without_the_registry() {
    pushes::<Podman, Docker>().await;
}

#[tokio::test]
async fn skopeo_pushes_what_buildah_pulls_without_the_registry() {
    pushes::<Skopeo, Buildah>().await;
}

#[tokio::test]
async fn buildah_pushes_what_podman_pulls_without_the_registry() {
    pushes::<Buildah, Podman>().await;
}

async fn pushes<C: Pusher, P: Client>() {
    if !ready(P::NEEDS) {
        return;
    }
    let Some(ClientOfVendor { vendor, folder, client }) = client_with_image::<C>().await else {
        return;
    };
    let direct = Registry::holding(&folder, Auth::Anonymous, &[]).await;
    vendor.sandbox.trust_plain_http(&direct.address.to_string());
    let (first, second) = (vendor.name(FIRST), vendor.name(SECOND));
    let directly = format!("{}/{FIRST}:1", direct.address);
    run("login", &folder, client.login(&vendor.host(), PUBLISHER.0, PUBLISHER.1)).await;
    run("push", &folder, client.push(&first)).await;
    run("tag", &folder, client.tag(&first, &directly)).await;
    run("push-directly", &folder, client.push(&directly)).await;
    let pushed = vendor.registry.tagged(FIRST, "1");
    assert_eq!(pushed, direct.tagged(FIRST, "1"), "the way through changes nothing");

    pull_as_customer::<P>(&vendor, &first).await;
    let log = vendor.registry.log("pulled").await;
    assert!(log.iter().any(Logged::completes_upload), "{log:#?}");
    let fetched: Vec<_> = log.iter().filter(|logged| logged.carries_content()).collect();
    assert!(fetched.is_empty(), "fetched although it had passed by: {fetched:#?}");

    run("tag", &folder, client.tag(&first, &second)).await;
    run("push-again", &folder, client.push(&second)).await;
    assert_eq!(vendor.registry.tagged(SECOND, "1"), pushed);
    let both = vendor.registry.log("again").await;
    let config = config_of(&vendor, FIRST).await;
    // No client asks whether the configuration is there already.
    let layer = |logged: &&Logged| logged.completes_upload() && !logged.path.contains(config.hex());
    let sent: Vec<_> = both[log.len()..].iter().filter(layer).collect();
    assert!(sent.is_empty(), "sent again although it was there: {sent:#?}");
}

async fn config_of(vendor: &Vendor, repository: &str) -> Digest {
    let (user, password) = PUBLISHER;
    let manifest =
        vendor.get(&format!("/v2/{repository}/manifests/1"), &basic(user, password)).await;
    let manifest: serde_json::Value =
        serde_json::from_slice(&manifest.body).expect("a manifest is JSON");
    Digest::parse(manifest["config"]["digest"].as_str().expect("it has a configuration"))
        .expect("by its digest")
}

async fn pull_as_customer<P: Client>(vendor: &Vendor, name: &str) {
    let folder = vendor.folder("customer");
    let client = P::start(&vendor.sandbox, &folder).await;
    let licence = vendor.issue("acme-prod").await;
    run("login", &folder, client.login(&vendor.host(), &licence.id, &licence.token)).await;
    run("pull", &folder, client.pull(name)).await;
}

#[tokio::test]
async fn docker_is_told_at_once_why_a_push_is_refused() {
    is_told_why::<Docker>().await;
}

#[tokio::test]
async fn podman_is_told_at_once_why_a_push_is_refused() {
    is_told_why::<Podman>().await;
}

#[tokio::test]
async fn skopeo_is_told_at_once_why_a_push_is_refused() {
    is_told_why::<Skopeo>().await;
}

#[tokio::test]
async fn buildah_is_told_at_once_why_a_push_is_refused() {
    is_told_why::<Buildah>().await;
}

async fn is_told_why<C: Pusher>() {
    let Some(ClientOfVendor { vendor, folder, client }) = client_with_image::<C>().await else {
        return;
    };
    let (own, other) = (vendor.name(FIRST), vendor.name("other/pushed"));
    run("tag", &folder, client.tag(&own, &other)).await;
    let licence = vendor.issue("acme-prod").await;
    for (user, password, name, sentence) in [
        (&*licence.id, &*licence.token, &own, "licence:acme-prod may not push here"),
        (PUBLISHER.0, PUBLISHER.1, &other, "user:ci may not push here"),
        (PUBLISHER.0, "wrong", &own, "wrong user, password or licence"),
    ] {
        // As if it had logged in when that was still good.
        let auth = basic(user, password).replace("Basic ", "");
        let logins = json!({ "auths": { vendor.host(): { "auth": auth } } }).to_string();
        fs::write(client.logins(), logins).expect("the folder is the test's own");
        let begun = Instant::now();
        let said = fail("push", &folder, client.push(name)).await;
        assert!(said.contains(sentence), "{said}");
        assert!(begun.elapsed() < AT_ONCE, "said after {:?}", begun.elapsed());
    }
    fail("login", &folder, client.login(&vendor.host(), PUBLISHER.0, "wrong")).await;
    let asked = vendor.forwarders[0].forwarded();
    assert!(
        !asked.contains("/uploads/") && !asked.contains("other/"),
        "the registry was asked all the same: {asked}"
    );
}

/// A client that is not logged in and has an image to push as [`FIRST`].
async fn client_with_image<C: Pusher>() -> Option<ClientOfVendor<C>> {
    if !ready(&[Need::Program("skopeo")]) {
        return None;
    }
    let fixture = ClientOfVendor::<C>::start().await?;
    let ClientOfVendor { vendor, folder, client } = &fixture;
    let name = vendor.name(FIRST);
    let archive = archive(&vendor.quay, "acme/api", &name, folder).await;
    run("load", folder, client.load(&archive, &name)).await;
    Some(fixture)
}
