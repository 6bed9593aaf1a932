//! A customer's own proxy in front of the vendor's, with nothing but the licence.

use futures_util::future::join_all;

use crate::support::http_client;
use crate::support::process::{Process, ready, run};
use crate::support::proxy::{BINARY, Proxy, Settings};
use crate::support::registry::every_blob_was_fetched_once;
use crate::support::sandbox::HOST;
use crate::support::tools::{Client, Docker, Skopeo};
use crate::support::vendor::{APP, EXTERNAL, OTHER, Vendor};

const CLIENTS: usize = 32;

#[tokio::test]
async fn docker_pulls_through_the_customers_proxy_and_the_vendors() {
    if !ready(Docker::NEEDS) {
        return;
    }
    let (vendor, customer) = two_proxies().await;
    let folder = vendor.folder("client");
    let docker = Docker::start(&vendor.sandbox, &folder).await;
    for (repository, image) in [(APP, &vendor.app), (EXTERNAL, &vendor.external)] {
        let name = format!("{}/{HOST}/{repository}:1", customer.clients);
        run("pull", &folder, docker.pull(&name)).await;
        docker.holds(&name, image).await;
    }
    let other =
        http_client::status(customer.clients, &format!("/v2/{HOST}/{OTHER}/manifests/1")).await;
    assert_eq!(other, Some(http::StatusCode::NOT_FOUND), "what the licence is not for");
}

#[tokio::test]
async fn a_crowd_at_the_customers_costs_the_vendors_registries_one_transfer() {
    if !ready(Skopeo::NEEDS) {
        return;
    }
    let (vendor, customer) = two_proxies().await;
    for (repository, image) in [(APP, &vendor.app), (EXTERNAL, &vendor.external)] {
        let prefix = format!("/v2/{HOST}/{repository}");
        let pulls = (0..CLIENTS).map(|_| http_client::pull(customer.clients, &prefix, "1", image));
        let outcomes: Result<Vec<()>, String> = join_all(pulls).await.into_iter().collect();
        outcomes.expect("everybody is served");
    }
    every_blob_was_fetched_once(&vendor.registry.log("all").await, &vendor.app);
    every_blob_was_fetched_once(&vendor.quay.log("all").await, &vendor.external);
}

/// The vendor with its proxy, and the customer's proxy; both are empty.
async fn two_proxies() -> (Vendor, Proxy) {
    let vendor = Vendor::open().await;
    let licence = vendor.issue("acme-prod").await;
    let (url, ca, file) =
        (vendor.host(), vendor.sandbox.certificate.display(), licence.file.display());
    let upstream = format!(
        "{HOST}:\n    url: https://{url}\n    ca: '{ca}'\n    credentials: [{{ licence_file: '{file}' }}]\n"
    );
    let settings =
        Settings::empty(vendor.scratch.path().join("customer"), HOST).with_upstream(&upstream);
    let mut command = vendor.sandbox.command(BINARY);
    // The certificate is trusted because the configuration says so.
    command.env_remove("SSL_CERT_FILE");
    let process = Process::start("customer", &settings.folder, settings.serve(command));
    (vendor, Proxy::watch(process).await)
}
