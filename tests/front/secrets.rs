//! The credential that we hold goes to its upstream, and nowhere else.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use roadstead::config::{self, Credential};
use roadstead::oci::Pattern;
use roadstead::secret::Secret;

use crate::support::client::Answer;
use crate::support::image::Image;
use crate::support::origin::{Auth, Bearer, Fault, Kind, Login, On, Origin};
use crate::support::proxy::{Proxy, Setup, blob, manifest};

const PASSWORD: &str = "s3cr3t-c4nary";

fn credential(images: &str) -> Credential {
    Credential {
        images: Pattern::parse(images).expect("a glob"),
        when_rejected: roadstead::config::WhenRejected::default(),
        login: config::Login::Fixed {
            username: "robot".into(),
            password: Secret::new(PASSWORD.into()),
        },
    }
}

fn login() -> Login {
    Login { username: "robot", password: PASSWORD }
}

/// What must be nowhere: the password, its Basic form, and any token that the origin gave out.
fn assert_clean(answer: &Answer, what: &str) {
    let all = format!("{:?} {}", answer.headers, String::from_utf8_lossy(&answer.body));
    let basic = STANDARD.encode(format!("robot:{PASSWORD}"));
    for secret in [PASSWORD, basic.as_str(), "token-1", "token-2", "robot"] {
        assert!(!all.contains(secret), "{secret} in {what}: {all}");
    }
}

/// Everything a client or an operator can look at, in good times and bad.
async fn look_everywhere(origin: &Origin, proxy: &Proxy, image: &Image) {
    let paths = [
        manifest("a/b", "v1"),
        manifest("a/b", "v2"),
        blob("a/b", &image.layers[0].digest),
        "/v2/a/b/tags/list".into(),
        "/v2/".into(),
    ];
    for fault in [None, Some(Fault::Status(401)), Some(Fault::Status(500)), Some(Fault::Hangup)] {
        origin.repair();
        if let Some(fault) = fault {
            origin.fault(On::any(), fault);
        }
        proxy.clock().advance(std::time::Duration::from_secs(3700));
        for path in &paths {
            assert_clean(&proxy.get(path).await, path);
        }
    }
    assert_clean(&proxy.admin("/metrics").await, "metrics");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_appears_in_no_answer_and_no_metric() {
    for auth in
        [Auth::Basic(login()), Auth::Bearer(Bearer { login: Some(login()), ..Bearer::default() })]
    {
        let image = Image::new(1, &[1000]);
        let origin = Origin::with("a/b", "v1", &image).await;
        origin.require(auth);
        let mut setup = Setup::new();
        setup.upstream("docker.io", &origin).credentials = vec![credential("**")];
        let shown = format!("{:?}", setup.config);
        assert!(!shown.contains(PASSWORD), "{shown}");
        let proxy = setup.start().await;
        assert_eq!(
            proxy.get(&manifest("a/b", "v1")).await.body,
            image.manifest.bytes,
            "the client needs none"
        );
        look_everywhere(&origin, &proxy, &image).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_is_used_only_for_its_repositories() {
    let origin = Origin::start().await;
    let (ours, theirs) = (origin.blob("acme/app", 1, 10), origin.blob("other/app", 2, 10));
    origin.require(Auth::Basic(login()));
    let mut setup = Setup::new();
    setup.upstream("docker.io", &origin).credentials = vec![credential("acme/*")];
    let proxy = setup.start().await;
    assert_eq!(proxy.get(&blob("acme/app", &ours.digest)).await.digest(), ours.digest);
    assert_eq!(proxy.get(&blob("other/app", &theirs.digest)).await.status, 404);
    let leaked = origin.count(|request| {
        request.repository == "other/app" && request.header("authorization").is_some()
    });
    assert_eq!(leaked, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_goes_to_no_realm_that_is_not_configured() {
    let (origin, elsewhere) = (Origin::start().await, Origin::start().await);
    let layer = origin.blob("a/b", 1, 10);
    let bearer = Bearer {
        realm: Some(format!("{}token", elsewhere.url())),
        login: Some(login()),
        ..Bearer::default()
    };
    origin.require(Auth::Bearer(bearer));
    let mut setup = Setup::new();
    setup.upstream("docker.io", &origin).credentials = vec![credential("**")];
    let proxy = setup.start().await;
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.refusal(), (502, "UNAVAILABLE".into()));
    assert_eq!(elsewhere.connections(), 0);
    assert!(origin.requests().iter().all(|request| request.header("authorization").is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_once_and_with_the_scope_of_its_repository() {
    let image = Image::new(1, &[1000, 2000, 3000]);
    let origin = Origin::with("a/b", "v1", &image).await;
    origin.require(Auth::Bearer(Bearer {
        login: Some(login()),
        expires_in: None,
        ..Bearer::default()
    }));
    let mut setup = Setup::new();
    setup.upstream("docker.io", &origin).credentials = vec![credential("**")];
    let proxy = setup.start().await;
    proxy.get(&manifest("a/b", "v1")).await;
    for layer in &image.layers {
        assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
    }
    let tokens: Vec<_> =
        origin.requests().into_iter().filter(|request| request.kind == Kind::Token).collect();
    assert_eq!(tokens.len(), 1, "although the origin did not say how long it lives");
    assert_eq!(tokens[0].parameter("scope").as_deref(), Some("repository:a/b:pull"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_that_takes_only_post_works_too() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 10);
    origin.require(Auth::Bearer(Bearer {
        login: Some(login()),
        post_only: true,
        ..Bearer::default()
    }));
    let mut setup = Setup::new();
    setup.upstream("docker.io", &origin).credentials = vec![credential("**")];
    let proxy = setup.start().await;
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.digest(), layer.digest);
}
