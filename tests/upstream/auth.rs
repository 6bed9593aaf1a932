//! Challenges, tokens and credentials.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use roadstead::upstream::ErrorKind;

use crate::support::{
    Origin, Reply, Seen, Setup, bind, canary, manifest, origin, reply, repository, soon, tag,
};

const BASIC: &str = "Basic cm9ib3Q6aHVudGVyMg=="; // robot:hunter2

fn bearer(realm: &str) -> String {
    format!(r#"Bearer realm="{realm}",service="svc",scope="repository:team/app:pull""#)
}

fn challenge(realm: &str) -> Reply {
    reply(401, &[("www-authenticate", &bearer(realm))], "")
}

fn token(text: &str) -> Reply {
    reply(200, &[], format!(r#"{{"token":"{text}","expires_in":300}}"#))
}

/// A registry with its own token endpoint at `/token`, which answers by `tokens`; only the token
/// `good` will do.
async fn registry(tokens: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Origin {
    let bound = bind().await;
    let realm = format!("{}/token", bound.url());
    bound.serve(move |seen| match seen.path() {
        "/token" => tokens(seen),
        _ if seen.header("authorization") == Some("Bearer good") => manifest(),
        _ => challenge(&realm),
    })
}

#[tokio::test]
async fn a_token_is_fetched_with_the_credential_for_the_true_scope_and_kept() {
    let origin = registry(|_| token("good")).await;
    let upstream = Setup::new(&origin.url()).credential("**", "robot", "hunter2").build();
    for _ in 0..3 {
        upstream.get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
    }
    let seen = origin.seen();
    let asked: Vec<_> = seen.iter().map(Seen::path).collect();
    let path = "/v2/team/app/manifests/latest";
    assert_eq!(asked, [path, "/token", path, path, path]);
    assert_eq!(seen[0].header("authorization"), None);
    assert_eq!(seen[1].header("authorization"), Some(BASIC));
    assert_eq!(seen[1].query("scope").as_deref(), Some("repository:team/app:pull"));
    assert_eq!(seen[1].query("service").as_deref(), Some("svc"));
}

#[tokio::test]
async fn a_token_is_had_by_post_where_get_is_refused_and_there_is_a_credential() {
    for refusal in [400, 404, 405] {
        let origin = registry(move |seen| match seen.method.as_str() {
            "POST" => reply(200, &[], r#"{"access_token":"good"}"#),
            _ => reply(refusal, &[], ""),
        })
        .await;
        let upstream = Setup::new(&origin.url()).credential("**", "robot", "hunter2").build();
        upstream.get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
        let post = origin.seen().into_iter().find(|seen| seen.method == "POST").expect("a POST");
        let form: Vec<_> = url::form_urlencoded::parse(post.body.as_bytes()).into_owned().collect();
        for (name, value) in
            [("grant_type", "password"), ("username", "robot"), ("password", "hunter2")]
        {
            assert!(form.contains(&(name.into(), value.into())), "{name}");
        }
        assert!(form.contains(&("scope".into(), "repository:team/app:pull".into())));

        let anonymous = Setup::new(&origin.url()).build();
        let posts = origin.seen().iter().filter(|seen| seen.method == "POST").count();
        let error =
            anonymous.get_manifest(&repository(), &tag(), soon()).await.expect_err("no token");
        assert_eq!(error.kind(), &ErrorKind::Protocol);
        assert_eq!(origin.seen().iter().filter(|seen| seen.method == "POST").count(), posts);
    }
}

#[tokio::test]
async fn a_token_without_a_life_is_renewed_after_48_seconds() {
    let origin = registry(|_| reply(200, &[], r#"{"token":"good"}"#)).await;
    let setup = Setup::new(&origin.url());
    let upstream = setup.build();
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
    setup.clock.advance(Duration::from_secs(47));
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
    assert_eq!(origin.count("/token"), 1);
    setup.clock.advance(Duration::from_secs(2));
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
    assert_eq!(origin.count("/token"), 2);
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_is_used_to_its_end() {
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = broken.clone();
    let origin = registry(move |_| {
        if is_broken.load(Ordering::SeqCst) { reply(500, &[], "") } else { token("good") }
    })
    .await;
    let setup = Setup::new(&origin.url());
    let upstream = setup.build();
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
    broken.store(true, Ordering::SeqCst);
    setup.clock.advance(Duration::from_secs(250));
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("the old token still holds");
    assert_eq!(origin.count("/token"), 2);
    setup.clock.advance(Duration::from_mins(1));
    let error =
        upstream.get_manifest(&repository(), &tag(), soon()).await.expect_err("it has ended");
    assert_eq!(error.kind(), &ErrorKind::ServerError(500));
}

#[tokio::test]
async fn many_requests_share_one_token_request_even_if_the_first_one_leaves() {
    let bound = bind().await;
    let realm = format!("{}/token", bound.url());
    let origin = bound.serve(move |seen| match (seen.path(), token("good")) {
        ("/token", Reply::Send(answer)) => Reply::Late(Duration::from_millis(150), answer),
        _ if seen.header("authorization") == Some("Bearer good") => manifest(),
        _ => challenge(&realm),
    });
    let upstream = Setup::new(&origin.url()).build();
    let ask = || {
        let upstream = upstream.clone();
        tokio::spawn(async move { upstream.get_manifest(&repository(), &tag(), soon()).await })
    };
    let first = ask();
    while origin.count("/token") == 0 {
        tokio::task::yield_now().await;
    }
    first.abort();
    let others: Vec<_> = (0..16).map(|_| ask()).collect();
    for other in others {
        other.await.expect("it runs").expect("a manifest");
    }
    assert_eq!(origin.count("/token"), 1);
}

#[tokio::test]
async fn a_realm_elsewhere_gets_neither_credential_nor_connection_unless_it_is_configured() {
    let tokens = origin(|_| token("good")).await;
    let realm = format!("{}/token", tokens.url());
    let origin = origin(move |seen| match seen.header("authorization") {
        Some("Bearer good") => manifest(),
        _ => challenge(&realm),
    })
    .await;
    let setup = || Setup::new(&origin.url()).credential("**", "robot", "hunter2");
    for setup in [setup(), setup().blob_host(tokens.host())] {
        let error =
            setup.build().get_manifest(&repository(), &tag(), soon()).await.expect_err("refused");
        assert_eq!(error.kind(), &ErrorKind::ForbiddenAddress);
        assert_eq!(tokens.connections(), 0);
    }
    let upstream = setup().token_host(tokens.host()).build();
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
    assert_eq!(tokens.seen()[0].header("authorization"), Some(BASIC));
}

#[tokio::test]
async fn a_token_endpoint_that_redirects_is_not_followed() {
    let canary = canary().await;
    let target = canary.url();
    let origin = registry(move |_| reply(302, &[("location", &target)], "")).await;
    let upstream = Setup::new(&origin.url())
        .credential("**", "robot", "hunter2")
        .blob_host(canary.host())
        .build();
    let error = upstream.get_manifest(&repository(), &tag(), soon()).await.expect_err("refused");
    assert_eq!(error.kind(), &ErrorKind::ForbiddenAddress);
    assert_eq!(canary.connections(), 0);
}

#[tokio::test]
async fn a_token_endpoint_may_redirect_on_its_own_origin_and_answer_201() {
    const FOUND: &str = r#"{"token":"","access_token":"good"}"#;
    let bound = bind().await;
    let realm = format!("{}/token", bound.url());
    let origin = bound.serve(move |seen| match (seen.path(), seen.header("authorization")) {
        ("/token", _) => reply(307, &[("location", "/auth/token?moved=1")], ""),
        ("/auth/token", Some(BASIC)) => reply(201, &[], FOUND),
        (_, Some("Bearer good")) => manifest(),
        _ => challenge(&realm),
    });
    let upstream = Setup::new(&origin.url()).credential("**", "robot", "hunter2").build();
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
    assert_eq!(origin.count("/auth/token"), 1);
    // In a circle it comes to an end.
    let circle = registry(|_| reply(307, &[("location", "/token")], "")).await;
    let upstream = Setup::new(&circle.url()).build();
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect_err("no token");
    assert!(circle.count("/token") <= 10);
}

#[tokio::test]
async fn a_refused_token_is_denial_except_where_401_rejects_a_credential() {
    for (status, with_credential) in
        [(401, ErrorKind::CredentialRejected), (403, ErrorKind::Denied)]
    {
        // As `docker login` asks, without a scope, the login is good.
        let origin = registry(move |seen| match seen.query("scope") {
            Some(_) => reply(status, &[], ""),
            None => token("good"),
        })
        .await;
        for (setup, kind) in [
            (Setup::new(&origin.url()), ErrorKind::Denied),
            (Setup::new(&origin.url()).credential("**", "robot", "hunter2"), with_credential),
            (
                Setup::new(&origin.url()).credential("other/**", "robot", "hunter2"),
                ErrorKind::Denied,
            ),
        ] {
            let before = origin.count("/token");
            let error = setup
                .build()
                .get_manifest(&repository(), &tag(), soon())
                .await
                .expect_err("no token");
            let last = origin.seen().into_iter().rfind(|seen| seen.path() == "/token");
            let with_login = last.expect("asked").header("authorization").is_some();
            assert_eq!(error.kind(), &kind);
            assert_eq!(
                origin.count("/token"),
                before + 1 + usize::from(status == 403 && with_login)
            );
        }
    }
}

#[tokio::test]
async fn a_login_that_gets_no_token_at_all_is_rejected() {
    for status in [401, 403] {
        let origin = registry(move |_| reply(status, &[], "")).await;
        let upstream = Setup::new(&origin.url()).credential("**", "robot", "hunter2").build();
        let error = upstream.get_manifest(&repository(), &tag(), soon()).await.expect_err("no");
        assert_eq!(error.kind(), &ErrorKind::CredentialRejected, "{status}");
    }
}

#[tokio::test]
async fn a_refusal_of_a_fresh_token_is_final() {
    for refused_status in [401, 403] {
        let bound = bind().await;
        let challenge = bearer(&format!("{}/token", bound.url()));
        let lacking = format!(r#"{challenge},error="insufficient_scope""#);
        let origin = bound.serve(move |seen| match (seen.path(), seen.header("authorization")) {
            ("/token", _) => token("useless"),
            (_, None) => reply(401, &[("www-authenticate", &challenge)], ""),
            _ if refused_status == 403 => reply(403, &[], ""),
            _ => reply(401, &[("www-authenticate", &lacking)], ""),
        });
        let upstream = Setup::new(&origin.url()).build();
        for round in 1..=2 {
            let denied = upstream.get_manifest(&repository(), &tag(), soon()).await;
            assert_eq!(denied.expect_err("denied").kind(), &ErrorKind::Denied);
            let asked = (origin.count("/token"), origin.count("/v2/"));
            assert_eq!(asked, (round, 2 * round), "{refused_status}: nothing is shown again");
        }
    }
}

#[tokio::test]
async fn a_fresh_token_is_shown_once_more_unless_that_was_in_vain_a_while_ago() {
    let origin = registry(|_| token("useless")).await;
    let setup = Setup::new(&origin.url());
    let upstream = setup.build();
    let ask = async || {
        let before = origin.count("/v2/");
        let error = upstream.get_manifest(&repository(), &tag(), soon()).await.expect_err("denied");
        assert_eq!(error.kind(), &ErrorKind::Denied);
        origin.count("/v2/") - before
    };
    assert_eq!((ask().await, ask().await), (3, 2));
    setup.clock.advance(Duration::from_mins(5));
    // The kept token has ended, and a new one is shown twice; then that one is kept.
    assert_eq!((ask().await, ask().await), (2, 2));
}

#[tokio::test]
async fn a_kept_token_that_is_refused_is_renewed_once() {
    let issued = Arc::new(AtomicUsize::new(0));
    let (bound, counter) = (bind().await, issued.clone());
    let realm = format!("{}/token", bound.url());
    let origin = bound.serve(move |seen| match seen.path() {
        "/token" => token(&counter.fetch_add(1, Ordering::SeqCst).to_string()),
        _ if seen.header("authorization") == Some("Bearer 0") && seen.target.contains("old") => {
            manifest()
        }
        _ if seen.header("authorization") == Some("Bearer 1") => manifest(),
        _ => challenge(&realm),
    });
    let upstream = Setup::new(&origin.url()).build();
    let reference = |tag| roadstead::oci::Reference::parse(tag).expect("valid");
    upstream.get_manifest(&repository(), &reference("old"), soon()).await.expect("with token 0");
    upstream.get_manifest(&repository(), &reference("new"), soon()).await.expect("with token 1");
    assert_eq!(issued.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn expiry_told_without_a_challenge_is_renewed_once_and_then_a_rejection() {
    const TEXT: &str =
        r#"{"errors":[{"code":"DENIED","message":"Your Authorization Token is invalid."}]}"#;
    for status in [400, 403] {
        let stale = Arc::new(AtomicBool::new(false));
        let (bound, is_stale) = (bind().await, stale.clone());
        let realm = format!("{}/token", bound.url());
        let origin = bound.serve(move |seen| match (seen.path(), seen.header("authorization")) {
            ("/token", _) if is_stale.load(Ordering::SeqCst) => token("second"),
            ("/token", _) => token("first"),
            (path, Some(_)) if path.contains("/hopeless/") => reply(status, &[], TEXT),
            (_, Some("Bearer first")) if is_stale.load(Ordering::SeqCst) => {
                reply(status, &[], TEXT)
            }
            (_, Some(_)) => manifest(),
            (_, None) => challenge(&realm),
        });
        let upstream = Setup::new(&origin.url()).credential("**", "robot", "hunter2").build();
        upstream.get_manifest(&repository(), &tag(), soon()).await.expect("with the first");
        stale.store(true, Ordering::SeqCst);
        upstream.get_manifest(&repository(), &tag(), soon()).await.expect("with the second");
        assert_eq!(origin.count("/token"), 2);
        let hopeless = roadstead::oci::Repository::parse("hopeless/app").expect("valid");
        let error = upstream.get_manifest(&hopeless, &tag(), soon()).await.expect_err("rejected");
        assert_eq!(error.kind(), &ErrorKind::CredentialRejected);
        assert_eq!(origin.count("/token"), 3);
    }
}

#[tokio::test]
async fn basic_is_sent_once_asked_for_with_the_longest_pattern() {
    let origin = origin(|seen| match seen.header("authorization") {
        Some(BASIC) => manifest(),
        _ => reply(401, &[("www-authenticate", r#"Basic realm="Registry""#)], ""),
    })
    .await;
    let setup = Setup::new(&origin.url())
        .credential("team/*", "robot", "hunter2")
        .credential("**", "other", "wrong");
    let upstream = setup.build();
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
    assert_eq!(origin.seen()[0].header("authorization"), None);
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
    assert_eq!(origin.seen().len(), 3);
    let elsewhere = roadstead::oci::Repository::parse("else/where").expect("valid");
    let error = upstream.get_manifest(&elsewhere, &tag(), soon()).await.expect_err("the wrong one");
    assert_eq!(error.kind(), &ErrorKind::CredentialRejected);
    assert_eq!(origin.seen().len(), 4);
    let anonymous = Setup::new(&origin.url()).build();
    let error =
        anonymous.get_manifest(&repository(), &tag(), soon()).await.expect_err("no credential");
    assert_eq!(error.kind(), &ErrorKind::Denied);
}

#[tokio::test]
async fn another_challenge_replaces_what_was_learned() {
    let tokens = origin(|_| token("moved")).await;
    let moved = Arc::new(AtomicBool::new(false));
    let (bound, is_moved) = (bind().await, moved.clone());
    let (old, new) = (format!("{}/token", bound.url()), format!("{}/token", tokens.url()));
    let origin = bound.serve(move |seen| match (seen.path(), seen.header("authorization")) {
        ("/token", _) => token("here"),
        (_, Some("Bearer here")) if !is_moved.load(Ordering::SeqCst) => manifest(),
        (_, Some("Bearer moved")) => manifest(),
        _ if is_moved.load(Ordering::SeqCst) => challenge(&new),
        _ => challenge(&old),
    });
    let upstream = Setup::new(&origin.url()).token_host(tokens.host()).build();
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("by the old realm");
    moved.store(true, Ordering::SeqCst);
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("by the new realm");
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("still");
    assert_eq!((origin.count("/token"), tokens.count("/token")), (1, 1));
}

#[tokio::test]
async fn a_challenge_that_cannot_be_met_is_denial_at_the_first_answer() {
    let fifty = vec![r#"Digest realm="x", nonce="y""#; 50].join(", ");
    for header in ["", "Bearer", "Negotiate", "Bearer service=\"x\"", fifty.as_str()] {
        let header = header.to_owned();
        let origin = origin(move |_| reply(401, &[("www-authenticate", &header)], "")).await;
        let upstream = Setup::new(&origin.url()).credential("**", "robot", "hunter2").build();
        let error = upstream.get_manifest(&repository(), &tag(), soon()).await.expect_err("denied");
        assert_eq!(error.kind(), &ErrorKind::Denied);
        assert_eq!(origin.seen().len(), 1);
    }
}

#[tokio::test]
async fn a_token_answer_is_bounded_and_checked() {
    let large = format!(r#"{{"token":"good","x":"{}"}}"#, "x".repeat(70_000));
    for (body, kind) in [
        (large.as_str(), ErrorKind::TooLarge),
        ("<html>", ErrorKind::Protocol),
        ("{}", ErrorKind::Protocol),
        (r#"{"token":""}"#, ErrorKind::Protocol),
    ] {
        let body = body.to_owned();
        let origin = registry(move |_| reply(200, &[], body.clone())).await;
        let error =
            Setup::new(&origin.url()).build().get_manifest(&repository(), &tag(), soon()).await;
        assert_eq!(error.expect_err("no token").kind(), &kind);
    }
}

#[tokio::test]
async fn token_requests_are_counted_by_outcome() {
    let origin = registry(|_| token("good")).await;
    let setup = Setup::new(&origin.url());
    setup.build().get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
    assert!(
        setup.metric(r#"roadstead_token_refreshes_total{outcome="issued",upstream="acme.test"} 1"#)
    );
}
