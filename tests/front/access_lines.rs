//! What an access line says of a refusal: enough to answer the user who asks, and nothing that a
//! stranger could put there to harm its reader.

use http::Method;
use roadstead::config::UnknownCredentials;
use roadstead::licence::PrivateKey;

use crate::support::access_log::{self, Line};
use crate::support::client::Answer;
use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::Proxy;
use crate::support::vendor::{DAY, Vendor, basic};

async fn asked(proxy: &Proxy, path: &str, headers: &[(&'static str, &str)]) -> (Answer, Line) {
    let answer = proxy.request(Method::GET, path, headers).await;
    let line = access_log::line_of(&answer).await;
    (answer, line)
}

/// A field of the line, empty where it is left out.
fn field<'a>(line: &'a Line, name: &str) -> &'a str {
    line.get(name).map_or("", String::as_str)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_which_right_was_missing_on_which_image() {
    access_log::gather();
    let vendor = Vendor::start().await;
    let (ci, acme) = (basic("ci", "ci-secret"), vendor.customer("acme", &["myapp"]));
    for (method, who, path, sentence) in [
        (
            Method::GET,
            Some(&ci),
            "/v2/registry.test/other/worker/manifests/1.0",
            "no rule gives user:ci the right to pull registry.test/other/worker",
        ),
        (
            Method::GET,
            Some(&acme),
            "/v2/registry.test/other/worker/tags/list",
            "no rule gives licence:acme the right to list registry.test/other/worker",
        ),
        (
            Method::GET,
            Some(&acme),
            "/v2/proxy/other/registry.test/other/worker/manifests/1.0",
            "no rule gives licence:acme the right to pull registry.test/other/worker of other",
        ),
        (
            Method::GET,
            None,
            "/v2/registry.test/hidden/secret/manifests/1.0",
            "no rule gives anonymous the right to pull registry.test/hidden/secret",
        ),
    ] {
        let headers: Vec<_> = who.iter().map(|who| ("authorization", who.as_str())).collect();
        let answer = vendor.proxy.request(method, path, &headers).await;
        let line = access_log::line_of(&answer).await;
        assert_eq!(field(&line, "error"), sentence, "{path}");
        assert!(!answer.text().contains("no rule"), "the log alone says so: {}", answer.text());
    }
    let nowhere = "/v2/acme/app/manifests/1.0?ns=Evil.example";
    let (answer, line) = asked(&vendor.proxy, nowhere, &[("authorization", &ci)]).await;
    assert_eq!((answer.status, field(&line, "reason")), (404, "unknown_name"), "{line:#?}");
    assert_eq!(field(&line, "ns"), "Evil.example");
    assert_eq!(field(&line, "repository"), "acme/app");
    assert!(field(&line, "error").contains("no upstream"), "{line:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_which_host_and_which_path() {
    access_log::gather();
    let vendor = Vendor::start().await;
    let host = [("host", "evil.example:81")];
    let (answer, line) = asked(&vendor.proxy, "/v2/", &host).await;
    assert_eq!((answer.status, field(&line, "host")), (421, "evil.example:81"), "{line:#?}");
    for (path, status, sentence) in [
        ("/v2/acme/App/manifests/v1?x=secret", 400, "repository"),
        ("/v2/acme/app/blobs/sha256:short", 400, "digest"),
        ("/v2/acme/app/tags/list?n=many", 400, "n"),
        ("/v1/search", 404, "no such path"),
    ] {
        let (answer, line) = asked(&vendor.proxy, path, &[]).await;
        assert_eq!(answer.status, status, "{path}");
        let shown = path.split('?').next().expect("a path");
        assert_eq!(field(&line, "path"), shown, "without its query, which may hold a secret");
        assert!(field(&line, "error").contains(sentence), "{line:#?}");
    }
    let public = "/v2/registry.test/public/base/manifests/1.0";
    let (_, line) = asked(&vendor.proxy, public, &[]).await;
    assert!(!line.contains_key("path") && !line.contains_key("host"), "{line:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_login_names_its_user_and_its_licence_and_never_the_password() {
    access_log::gather();
    let vendor = Vendor::start().await;
    let path = "/v2/registry.test/myapp/worker/manifests/1.0";
    let licence = vendor.licence("acme-prod", &["myapp"], DAY);
    let stranger = PrivateKey::generate().expect("randomness");
    let forged = stranger.sign(&licence).expect("a token");
    let mut altered = vendor.sign(&licence);
    altered.replace_range(altered.len() - 4.., "AAAA");
    let elsewhere = vendor.sign(&vendor.licence("acme-test", &["myapp"], DAY));
    for (user, password, reason, licence) in [
        ("ci", "hunter2", "wrong_password", ""),
        ("nobody", "hunter2", "unknown_user", ""),
        ("acme-prod", &*forged, "licence_invalid", "acme-prod"),
        ("acme-prod", &*altered, "licence_invalid", "acme-prod"),
        ("acme-prod", &*elsewhere, "licence_user_mismatch", "acme-test"),
    ] {
        let header = basic(user, password);
        let (answer, line) = asked(&vendor.proxy, path, &[("authorization", &header)]).await;
        assert_eq!((answer.status, field(&line, "reason")), (401, reason), "{line:#?}");
        assert_eq!((field(&line, "user"), field(&line, "licence")), (user, licence), "{line:#?}");
        assert!(line.values().all(|value| !value.contains(password)), "{line:#?}");
        assert_eq!(field(&line, "licence_key").is_empty(), licence.is_empty(), "{line:#?}");
    }
    let header = basic("acme-prod", &forged);
    let (_, line) = asked(&vendor.proxy, path, &[("authorization", &header)]).await;
    assert_eq!(field(&line, "licence_key"), stranger.public().id().as_str());
    assert_eq!(field(&line, "error"), "licence: no configured key has signed it");
    let good = basic("ci", "ci-secret");
    let (answer, line) = asked(&vendor.proxy, path, &[("authorization", &good)]).await;
    assert_eq!((answer.status, line.contains_key("user")), (200, false), "{line:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_counts_for_nothing_is_told_of_a_refusal_alone() {
    access_log::gather();
    let vendor = Vendor::start_with(|setup| {
        setup.config.hosts[0].unknown_credentials = UnknownCredentials::Anonymous;
    })
    .await;
    let header = basic("hub-user", "hunter2");
    let (public, hidden) = ("registry.test/public/base", "registry.test/hidden/secret");
    for (image, status, user) in [(public, 200, ""), (hidden, 401, "hub-user")] {
        let path = format!("/v2/{image}/manifests/1.0");
        let (answer, line) = asked(&vendor.proxy, &path, &[("authorization", &header)]).await;
        assert_eq!((answer.status, field(&line, "user")), (status, user), "{line:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_keeps_the_id_that_it_brings_and_gets_one_otherwise() {
    access_log::gather();
    let origin = Origin::with("ids/app", "v1", &Image::new(1, &[10])).await;
    let proxy = Proxy::of(&origin).await;
    let known = "/v2/ids/app/manifests/v1";
    for path in [known, "/v2/", "/v2/ids/app/manifests/none", "/nothing"] {
        let id = format!("Root=1-{}", path.replace('/', "."));
        let (answer, _) = asked(&proxy, path, &[("x-request-id", &id)]).await;
        assert_eq!(answer.header("x-request-id"), Some(&*id), "{path}");
        let mut fresh = Vec::new();
        for odd in [None, Some("a b"), Some("\"a\""), Some(&*"a".repeat(129))] {
            let headers: Vec<_> = odd.iter().map(|id| ("x-request-id", *id)).collect();
            let (answer, _) = asked(&proxy, path, &headers).await;
            fresh.push(answer.header("x-request-id").expect("an id").to_owned());
        }
        assert!(fresh.iter().all(|id| id.len() == 16), "{fresh:?}");
        fresh.sort();
        fresh.dedup();
        assert_eq!(fresh.len(), 4, "each its own");
    }
    let asked_upstream = origin.requests();
    assert!(!asked_upstream.is_empty());
    assert!(!format!("{asked_upstream:?}").to_lowercase().contains("x-request-id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_strangers_write_is_bounded_and_cannot_end_a_line() {
    access_log::gather();
    let vendor = Vendor::start().await;
    let long = "x".repeat(10_000);
    let hostile = basic("a\n level=ERROR \u{1b}[31m\u{202e}", "hunter2");
    let headers = [("authorization", &*hostile), ("user-agent", "crane/v0.20\u{e9}\tx")];
    let (_, line) = asked(&vendor.proxy, "/v2/registry.test/a/manifests/1", &headers).await;
    assert_eq!(field(&line, "user"), "a\u{fffd} level=ERROR \u{fffd}[31m\u{fffd}");
    assert_eq!(field(&line, "user_agent"), "crane/v0.20\u{e9}\u{fffd}x");
    let path = format!("/v2/{long}");
    let user = basic(&long, "hunter2");
    for (path, headers) in [
        (path.as_str(), vec![]),
        ("/v2/", vec![("user-agent", long.as_str()), ("authorization", &user)]),
        ("/v2/", vec![("host", long.as_str())]),
        (&format!("/v2/registry.test/a/manifests/1?ns={long}"), vec![]),
    ] {
        let (answer, line) = asked(&vendor.proxy, path, &headers).await;
        assert!(answer.status >= 400, "{}", answer.status);
        let longest = line.values().map(|value| value.chars().count()).max();
        assert!(longest.is_some_and(|longest| longest <= 256), "{line:#?}");
    }
    let invented = format!(
        "{} /v2/ HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Request-Id: invented\r\nConnection: close\r\n\r\n",
        "B".repeat(9_000)
    );
    let answer = vendor.proxy.raw(invented.as_bytes()).await;
    assert!(answer.contains("x-request-id: invented"), "{answer}");
    let line = access_log::line_by_id("invented").await;
    assert_eq!(field(&line, "method").chars().count(), 33, "{line:#?}");
}
