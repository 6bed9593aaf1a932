//! Every refusal: status, code and document, as clients steer by them (PROTOCOL §3.10, DESIGN §15).

use std::fs;
use std::time::Duration;

use http::Method;
use roadstead::config::{self, Credential};
use roadstead::oci::{Algorithm, Digest, Pattern};
use roadstead::secret::Secret;

use crate::support::image::Image;
use crate::support::origin::{Auth, Bearer, Fault, Gate, Kind, Login, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_asks_wrongly() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    let hex = "0".repeat(64);
    let rows = [
        ("/v2/acme/App/manifests/v1".to_owned(), 400, "NAME_INVALID"),
        ("/v2/acme/a..b/manifests/v1".to_owned(), 400, "NAME_INVALID"),
        (format!("/v2/{}/manifests/v1", "a".repeat(256)), 400, "NAME_INVALID"),
        ("/v2/acme/app/blobs/sha256:short".to_owned(), 400, "DIGEST_INVALID"),
        (format!("/v2/acme/app/blobs/md5:{hex}"), 400, "DIGEST_INVALID"),
        (format!("/v2/acme/app/blobs/sha256:{}", "A".repeat(64)), 400, "DIGEST_INVALID"),
        ("/v2/acme/app/manifests/sha256:short".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/acme/app/referrers/sha256:short".to_owned(), 400, "DIGEST_INVALID"),
        ("/v2/acme/app/manifests/-v1".to_owned(), 404, "MANIFEST_UNKNOWN"),
        (format!("/v2/acme/app/manifests/{}", "t".repeat(129)), 404, "MANIFEST_UNKNOWN"),
        ("/v2/acme/app/tags/list?n=many".to_owned(), 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/acme/app/tags/list?n=-1".to_owned(), 400, "PAGINATION_NUMBER_INVALID"),
        ("/v2/evil.example/app/manifests/v1".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/acme/app/manifests/v1?ns=evil.example".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/acme/app/nothing/known".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v2/acme".to_owned(), 404, "NAME_UNKNOWN"),
        ("/v1/search".to_owned(), 404, "NAME_UNKNOWN"),
        ("/".to_owned(), 404, "NAME_UNKNOWN"),
    ];
    for (path, status, code) in rows {
        let answer = proxy.get(&path).await;
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{path}");
        assert!(
            answer.json()["errors"][0]["message"].as_str().is_some_and(|text| !text.is_empty()),
            "{path}"
        );
        let head = proxy.head(&path).await;
        assert_eq!((head.status, head.body.len()), (status, 0), "HEAD {path}");
        assert_eq!(head.header("content-length"), answer.header("content-length"), "HEAD {path}");
    }
    assert_eq!(origin.connections(), 0);
}

/// What upstream does, and what the client gets for a manifest and for a blob.
struct Row {
    fault: Fault,
    manifest: (u16, &'static str),
    blob: (u16, &'static str),
}

#[tokio::test(flavor = "multi_thread")]
async fn what_upstream_does_wrongly() {
    let unavailable = (502, "UNAVAILABLE");
    let denied = (404, "NAME_UNKNOWN");
    let row = |fault, manifest, blob| Row { fault, manifest, blob };
    let rows = [
        row(Fault::Status(404), (404, "MANIFEST_UNKNOWN"), (404, "BLOB_UNKNOWN")),
        row(Fault::Status(401), denied, denied),
        row(Fault::Status(403), denied, denied),
        row(Fault::Status(429), (429, "TOOMANYREQUESTS"), (429, "TOOMANYREQUESTS")),
        row(Fault::Status(400), unavailable, unavailable),
        row(Fault::Status(418), unavailable, unavailable),
        row(Fault::Status(204), unavailable, unavailable),
        row(Fault::Status(500), unavailable, unavailable),
        row(Fault::Status(503), unavailable, unavailable),
        row(Fault::Hangup, unavailable, unavailable),
        row(Fault::Redirect("http://169.254.169.254/{digest}".into()), unavailable, unavailable),
        row(Fault::Redirect("ftp://example.org/".into()), unavailable, unavailable),
        row(Fault::Redirect("/v2/{repository}/blobs/{digest}".into()), unavailable, unavailable),
    ];
    for Row { fault, manifest: of_manifest, blob: of_blob } in rows {
        let image = Image::new(1, &[1000]);
        let origin = Origin::with("a/b", "v1", &image).await;
        origin.fault(On::any(), fault.clone());
        let paths = [
            (manifest("a/b", "v1"), of_manifest),
            (manifest("a/b", &image.manifest.digest), of_manifest),
            (blob("a/b", &image.layers[0].digest), of_blob),
        ];
        for (path, (status, code)) in paths {
            let proxy = Proxy::of(&origin).await;
            let answer = proxy.get(&path).await;
            assert_eq!(answer.refusal(), (status, code.to_owned()), "{path} when {fault:?}");
            assert!(
                !answer.text().contains(&origin.authority()),
                "no inner address: {}",
                answer.text()
            );
            assert!(
                !answer.text().contains("the origin says so"),
                "no foreign text (ERR-4): {}",
                answer.text()
            );
            assert_eq!(proxy.head(&path).await.status, status, "HEAD {path} when {fault:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_answer_is_a_504() {
    let origin = Origin::with("a/b", "v1", &Image::new(1, &[10])).await;
    origin.fault(On::any(), Fault::HoldHead(Gate::new()));
    let mut setup = Setup::of(&origin);
    setup.limits.head = Duration::from_millis(200);
    let proxy = setup.start().await;
    let unknown = Digest::of(Algorithm::Sha256, b"x");
    for path in [manifest("a/b", "v1"), blob("a/b", &unknown), "/v2/a/b/tags/list".into()] {
        assert_eq!(proxy.get(&path).await.refusal(), (504, "UNAVAILABLE".into()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_says_that_upstream_refused() {
    let origin = Origin::start().await;
    origin.fault(On::kind(Kind::Manifest), Fault::Status(403));
    let proxy = Proxy::of(&origin).await;
    let answer = proxy.get(&manifest("a/b", "v1")).await;
    assert_eq!(answer.refusal(), (404, "NAME_UNKNOWN".into()));
    assert!(answer.text().contains("upstream"), "{}", answer.text());
    assert_eq!(answer.header("www-authenticate"), None);
}

/// With a credential of ours for the whole upstream.
async fn with_credential(origin: &Origin, password: &str) -> Proxy {
    let mut setup = Setup::new();
    setup.upstream("docker.io", origin).credentials = vec![Credential {
        images: Pattern::parse("**").expect("a glob"),
        when_rejected: roadstead::config::WhenRejected::default(),
        login: config::Login::Fixed {
            username: "robot".into(),
            password: Secret::new(password.into()),
        },
    }];
    setup.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_credential_is_our_fault_and_not_the_clients() {
    let login = Login { username: "robot", password: "right" };
    for auth in [
        Auth::Basic(login.clone()),
        Auth::Bearer(Bearer { login: Some(login), ..Bearer::default() }),
    ] {
        let image = Image::new(1, &[1000]);
        let origin = Origin::with("a/b", "v1", &image).await;
        origin.require(auth.clone());
        let good = with_credential(&origin, "right").await;
        assert_eq!(good.get(&manifest("a/b", "v1")).await.body, image.manifest.bytes, "{auth:?}");
        let bad = with_credential(&origin, "wrong").await;
        let answer = bad.get(&manifest("a/b", "v1")).await;
        assert!(matches!(answer.status, 404 | 502), "{auth:?}: {}", answer.status);
        if matches!(auth, Auth::Bearer(_)) {
            assert_eq!(
                answer.refusal(),
                (502, "UNAVAILABLE".into()),
                "the token endpoint says so clearly"
            );
        }
        assert_eq!(answer.header("www-authenticate"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_credential_helper_fails_only_what_is_cached_is_served() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    origin.require(Auth::Basic(Login { username: "robot", password: "right" }));
    let mut setup = Setup::new();
    let answer = setup.file("answer", r#"{"Username":"robot","Secret":"right"}"#);
    let credential = setup.helper("**", "cat answer");
    setup.upstream("docker.io", &origin).credentials = vec![credential];
    let proxy = setup.start().await;
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, image.manifest.bytes);
    fs::remove_file(answer).expect("removable");
    proxy.clock().advance(Duration::from_hours(1));
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, image.manifest.bytes);
    let answer = proxy.get(&manifest("a/b", "v2")).await;
    assert_eq!(answer.refusal(), (502, "UNAVAILABLE".into()));
    assert!(answer.text().contains("credential helper"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_policy_forbids_looks_like_what_does_not_exist() {
    let image = Image::new(1, &[1000]);
    let origin = Origin::with("secret/app", "v1", &image).await;
    origin.push("acme/app", "v1", &image);
    let mut setup = Setup::of(&origin);
    setup.config.access.rules[0].images =
        vec![Pattern::parse("docker.io/acme/**").expect("a glob")];
    let proxy = setup.start().await;
    assert_eq!(proxy.get(&manifest("acme/app", "v1")).await.status, 200);
    let layer = blob("acme/app", &image.layers[0].digest);
    assert_eq!(proxy.get(&layer).await.status, 200);
    let before = origin.requests().len();
    for path in [
        manifest("secret/app", "v1"),
        manifest("secret/app", &image.manifest.digest),
        blob("secret/app", &image.layers[0].digest),
        "/v2/secret/app/tags/list".into(),
        format!("/v2/secret/app/referrers/{}", image.manifest.digest),
    ] {
        let (forbidden, absent) =
            (proxy.get(&path).await, proxy.get(&path.replace("secret", "ghost")).await);
        assert_eq!(forbidden.refusal(), (404, "NAME_UNKNOWN".into()), "{path}");
        assert_eq!(
            (forbidden.status, forbidden.text().replace("secret", "ghost")),
            (absent.status, absent.text().into())
        );
    }
    assert_eq!(origin.requests().len(), before, "decided before anything is looked up");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unmet_range_and_several_ranges() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 1000);
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    proxy.get(&path).await;
    let unmet = proxy.get_range(&path, "bytes=1000-").await;
    assert_eq!(
        (unmet.refusal(), unmet.header("content-range")),
        ((416, "RANGE_INVALID".into()), Some("bytes */1000"))
    );
    assert_eq!(proxy.request(Method::GET, &path, &[("range", "bytes=0-1,5-9")]).await.status, 400);
}
