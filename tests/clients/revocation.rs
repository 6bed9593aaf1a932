//! Licences that end while they are used: how long it takes until nothing is served for them any
//! more.

use std::fs;
use std::time::Duration;

use http::StatusCode;
use roadstead::clock::Clock;
use tokio::time::Instant;

use crate::support::http_client;
use crate::support::process::{PATIENCE, fail, poll, run};
use crate::support::tools::{Client, Docker, Skopeo};
use crate::support::vendor::{APP, ClientOfVendor, Issued, Vendor, in_seconds};

/// How long a licence may be served after its end; clocks are right here, so that leaves room for a
/// slow machine alone.
const EXPIRY_LATENESS_MAX: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_revocation_ends_pulls_within_a_minute() {
    let Some(Customer { vendor, client, licence, credentials }) = Customer::<Docker>::start().await
    else {
        return;
    };
    let kept = vendor.issue("acme-test").await;
    credentials.all_served(&vendor).await;
    vendor.revoke(&licence.id).await;
    let written = Instant::now();
    let message = credentials.until_refused(&vendor).await;
    println!(
        "revoked: refused {:.1} s after the file was written",
        written.elapsed().as_secs_f64()
    );
    assert!(message.starts_with("licence acme-prod was revoked on "), "{message}");
    refused_with(&message, &vendor, &client).await;
    assert_eq!(
        vendor.get(MANIFEST, &kept.basic()).await.status,
        StatusCode::OK,
        "another licence of the customer"
    );
}

#[tokio::test]
async fn a_revocation_ends_pulls_within_a_minute_while_the_configuration_is_broken() {
    let Some(Customer { vendor, client, licence, credentials }) = Customer::<Skopeo>::start().await
    else {
        return;
    };
    fs::write(vendor.settings.file(), "licences: [\0").expect("the folder is the test's own");
    credentials.all_served(&vendor).await;
    vendor.revoke(&licence.id).await;
    let written = Instant::now();
    let message = credentials.until_refused(&vendor).await;
    println!(
        "revoked beside a broken configuration: refused after {:.1} s",
        written.elapsed().as_secs_f64()
    );
    refused_with(&message, &vendor, &client).await;
    let metrics =
        http_client::get(vendor.proxy.admin, "/metrics").await.expect("the admin listener answers");
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    let refused = "roadstead_reloads_total{outcome=\"refused\",part=\"configuration\"} 1";
    assert!(metrics.contains(refused), "the configuration was not found to be broken:\n{metrics}");
}

#[tokio::test]
async fn a_licence_that_expires_ends_pulls_at_that_moment() {
    let Some(Customer { vendor, client, .. }) = Customer::<Skopeo>::start().await else { return };
    let end = in_seconds(4);
    let licence = vendor.issue_until("acme-trial", end);
    fs::write(client.logins(), vendor.pull_secret(&licence, "docker").await)
        .expect("the folder is the test's own");
    let credentials = Credentials::of(&vendor, &licence).await;
    credentials.all_served(&vendor).await;
    let message = credentials.until_refused(&vendor).await;
    let now = Clock::system().now();
    assert!(now >= end, "refused before its end");
    println!("expired: refused {:.3} s after its end", now.since(end).as_secs_f64());
    assert!(now.since(end) < EXPIRY_LATENESS_MAX);
    assert!(message.starts_with("licence acme-trial expired on "), "{message}");
    refused_with(&message, &vendor, &client).await;
}

/// A vendor, a client that is logged in, and what it could pull with.
struct Customer<C> {
    vendor: Vendor,
    client: C,
    licence: Issued,
    credentials: Credentials,
}

impl<C: Client> Customer<C> {
    /// None if that cannot be had here.
    async fn start() -> Option<Self> {
        let ClientOfVendor { vendor, folder, client } = ClientOfVendor::<C>::start().await?;
        let licence = vendor.issue("acme-prod").await;
        run("login", &folder, client.login(&vendor.host(), &licence.id, &licence.token)).await;
        run("pull", &folder, client.pull(&vendor.name(APP))).await;
        let credentials = Credentials::of(&vendor, &licence).await;
        Some(Self { vendor, client, licence, credentials })
    }
}

const MANIFEST: &str = "/v2/registry.test/myapp/api/manifests/1";

/// What is presented again and again: the licence itself, and an access token that it bought while
/// it was good.
struct Credentials([String; 2]);

impl Credentials {
    async fn of(vendor: &Vendor, licence: &Issued) -> Self {
        let basic = licence.basic();
        Self([vendor.token(&basic).await, basic])
    }

    async fn all_served(&self, vendor: &Vendor) {
        for authorization in &self.0 {
            assert_eq!(vendor.get(MANIFEST, authorization).await.status, StatusCode::OK);
        }
    }

    /// Pulls until one is refused, then all have to be, and gives what is said.
    async fn until_refused(&self, vendor: &Vendor) -> String {
        let refusal = async || {
            for authorization in &self.0 {
                let answer = vendor.get(MANIFEST, authorization).await;
                if answer.status != StatusCode::OK {
                    return Some(());
                }
            }
            None
        };
        poll("refusal", PATIENCE, refusal).await;
        let mut messages = Vec::new();
        for authorization in &self.0 {
            let answer = vendor.get(MANIFEST, authorization).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
            messages.push(answer.message());
        }
        messages.dedup();
        assert_eq!(messages.len(), 1, "{messages:?}");
        messages.remove(0)
    }
}

/// What a real client is told then.
async fn refused_with(message: &str, vendor: &Vendor, client: &impl Client) {
    let said = fail("refused", &vendor.folder("refused"), client.pull(&vendor.name(APP))).await;
    assert!(said.contains(message), "{said}");
}
