//! Customers with a licence, users with a password, and what they are told when it is no good:
//! every client, over TLS.

use std::fs;
use std::path::PathBuf;

use roadstead::licence::calendar;

use crate::support::process::{fail, ready, run};
use crate::support::tools::{Buildah, Client, Containerd, Docker, Podman, Skopeo};
use crate::support::vendor::{
    APP, ClientOfVendor, EMAIL, EXTERNAL, Issued, OTHER, USER, Vendor, in_seconds,
};

#[tokio::test]
async fn docker_logs_in_by_licence_and_pulls_what_it_is_for() {
    logs_in_and_pulls::<Docker>().await;
}

#[tokio::test]
async fn podman_logs_in_by_licence_and_pulls_what_it_is_for() {
    logs_in_and_pulls::<Podman>().await;
}

#[tokio::test]
async fn skopeo_logs_in_by_licence_and_pulls_what_it_is_for() {
    logs_in_and_pulls::<Skopeo>().await;
}

#[tokio::test]
async fn buildah_logs_in_by_licence_and_pulls_what_it_is_for() {
    logs_in_and_pulls::<Buildah>().await;
}

async fn logs_in_and_pulls<C: Client>() {
    let Some(ClientOfVendor { vendor, folder, client }) = ClientOfVendor::<C>::start().await else {
        return;
    };
    let licence = vendor.issue("acme-prod").await;
    let token = licence.token.as_str();
    for (user, password, repository, image) in [
        (licence.id.as_str(), token, APP, &vendor.app),
        (EMAIL, token, EXTERNAL, &vendor.external),
        (USER.0, USER.1, "myapp/api", &vendor.app),
    ] {
        let name = vendor.name(repository);
        run("login", &folder, client.login(&vendor.host(), user, password)).await;
        a_password_was_kept(&client, &vendor.host(), user, password);
        run("pull", &folder, client.pull(&name)).await;
        client.holds(&name, image).await;
        let other = fail("other", &folder, client.pull(&vendor.name(OTHER))).await;
        assert!(is_not_found(&other), "{other}");
    }
    for forwarder in &vendor.forwarders {
        assert!(
            !forwarder.forwarded().contains("other/api"),
            "a registry was asked for what nobody may pull"
        );
    }
}

/// Not a token that would be exchanged at every pull, and that only we could take back.
fn a_password_was_kept(client: &impl Client, host: &str, user: &str, password: &str) {
    let text = fs::read_to_string(client.logins()).expect("a login is kept");
    let logins: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let pair = crate::support::vendor::basic(user, password);
    let auth = pair.strip_prefix("Basic ").expect("it begins with the scheme");
    assert_eq!(logins["auths"][host], serde_json::json!({ "auth": auth }));
}

#[tokio::test]
async fn docker_says_why_a_login_or_a_pull_is_refused() {
    let Some(said) = refusals::<Docker>().await else { return };
    for wrong in &said.wrong {
        assert!(wrong.contains("unauthorized: wrong user, password or licence"), "{wrong}");
    }
    for ended in [&said.login, &said.pull] {
        assert!(ended.contains(&format!("unauthorized: {}", said.expected)), "{ended}");
    }
}

#[tokio::test]
async fn podman_says_that_a_login_is_refused_and_why_a_pull_is() {
    says_so::<Podman>().await;
}

#[tokio::test]
async fn skopeo_says_that_a_login_is_refused_and_why_a_pull_is() {
    says_so::<Skopeo>().await;
}

/// Both have one sentence for every login that is refused, and tell ours when they pull.
async fn says_so<C: Client>() {
    let Some(said) = refusals::<C>().await else { return };
    for login in said.wrong.iter().chain([&said.login]) {
        assert!(login.contains("invalid username/password"), "{login}");
    }
    assert!(said.pull.contains(&format!("unauthorized: {}", said.expected)), "{}", said.pull);
}

/// What a client says of logins that are refused.
struct Refusals {
    /// With a wrong password, and with the licence of somebody else.
    wrong: [String; 2],
    /// With a licence that has ended.
    login: String,
    pull: String,
    /// What we say of that.
    expected: String,
}

async fn refusals<C: Client>() -> Option<Refusals> {
    let ClientOfVendor { vendor, folder, client } = ClientOfVendor::<C>::start().await?;
    let host = vendor.host();
    let login = async |user: &str, password: &str| {
        fail("login", &folder, client.login(&host, user, password)).await
    };
    let good = vendor.issue("acme-prod").await;
    let wrong = [login(&good.id, "wrong").await, login("eve@customer.test", &good.token).await];
    let end = in_seconds(-1);
    let ended = vendor.issue_until("acme-old", end);
    let login = login(&ended.id, &ended.token).await;
    // As if it had logged in earlier.
    fs::write(client.logins(), vendor.pull_secret(&ended, "docker").await)
        .expect("the folder is the test's own");
    let pull = fail("pull", &folder, client.pull(&vendor.name(APP))).await;
    let expected = format!("licence acme-old expired on {}; ask Acme Inc.", calendar::day(end));
    Some(Refusals { wrong, login, pull, expected })
}

#[tokio::test]
async fn containerd_pulls_with_a_licence_given_for_one_pull() {
    let Some((vendor, folder, client, licence)) = containerd().await else { return };
    let pair = format!("{}:{}", licence.id, licence.token);
    for (repository, image) in [(APP, &vendor.app), (EXTERNAL, &vendor.external)] {
        let name = vendor.name(repository);
        run("pull", &folder, client.pull(&["--user", &pair], &name)).await;
        client.holds(&name, image).await;
    }
    let refused =
        fail("other", &folder, client.pull(&["--user", &pair], &vendor.name(OTHER))).await;
    assert!(is_not_found(&refused), "{refused}");
    let refused = fail("nobody", &folder, client.pull(&[], &vendor.name(OTHER))).await;
    assert!(refused.contains("401 Unauthorized"), "{refused}");
}

#[tokio::test]
async fn containerd_pulls_with_a_pull_secret_in_its_hosts_file() {
    let Some((vendor, folder, client, licence)) = containerd().await else { return };
    let hosts = folder.join("hosts");
    let own = hosts.join(vendor.host());
    fs::create_dir_all(&own).expect("the folder is the test's own");
    fs::write(own.join("hosts.toml"), vendor.pull_secret(&licence, "hosts").await)
        .expect("it is our own");
    let options = ["--hosts-dir", hosts.to_str().expect("a path of ours")];
    for (repository, image) in [(APP, &vendor.app), (EXTERNAL, &vendor.external)] {
        let name = vendor.name(repository);
        run("pull", &folder, client.pull(&options, &name)).await;
        client.holds(&name, image).await;
    }
}

async fn containerd() -> Option<(Vendor, PathBuf, Containerd, Issued)> {
    if !ready(Containerd::NEEDS) {
        return None;
    }
    let vendor = Vendor::open().await;
    let folder = vendor.folder("client");
    let client = Containerd::start(&vendor.sandbox, &folder).await;
    let licence = vendor.issue("acme-prod").await;
    Some((vendor, folder, client, licence))
}

/// As each client says it.
fn is_not_found(said: &str) -> bool {
    ["not found", "name unknown"].iter().any(|words| said.to_lowercase().contains(words))
}
