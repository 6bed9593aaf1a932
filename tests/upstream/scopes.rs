//! What tokens are asked for: the registry's own words, where they may be about what was asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roadstead::oci::Repository;
use roadstead::upstream::{ErrorKind, UploadStart, UploadStatus};

use crate::support::{Origin, Reply, Seen, Setup, bind, manifest, reply, repository, soon, tag};

const OWN: &str = "repository:team/app:pull";

/// The scopes of a token request.
fn scopes(seen: &Seen) -> Vec<String> {
    let query = seen.target.split_once('?').map_or("", |(_, query)| query);
    let pairs = url::form_urlencoded::parse(query.as_bytes()).into_owned();
    pairs.filter(|(name, _)| name == "scope").map(|(_, value)| value).collect()
}

/// The scopes that tokens were asked for, one line for each request.
fn asked(origin: &Origin) -> Vec<String> {
    let seen = origin.seen();
    let tokens = seen.iter().filter(|seen| seen.path() == "/token");
    tokens.map(|seen| scopes(seen).join(" ")).collect()
}

/// A registry whose challenges name `named(request)`, and that takes tokens of the scopes
/// `good(request)` alone. A token is the scopes that it was asked for.
async fn registry(
    named: impl Fn(&Seen) -> String + Send + Sync + 'static,
    good: impl Fn(&Seen) -> String + Send + Sync + 'static,
) -> Origin {
    guarded(
        |seen| reply(200, &[], format!(r#"{{"token":"{}"}}"#, token(&scopes(seen)))),
        named,
        good,
    )
    .await
}

fn token(scopes: &[String]) -> String {
    scopes.join("|").replace(' ', "|")
}

async fn guarded(
    tokens: impl Fn(&Seen) -> Reply + Send + Sync + 'static,
    named: impl Fn(&Seen) -> String + Send + Sync + 'static,
    good: impl Fn(&Seen) -> String + Send + Sync + 'static,
) -> Origin {
    let bound = bind().await;
    let realm = format!("{}/token", bound.url());
    bound.serve(move |seen| {
        let given = seen.header("authorization").and_then(|text| text.strip_prefix("Bearer "));
        match (seen.path(), given) {
            ("/token", _) => tokens(seen),
            (_, Some(given)) if given == token(&[good(seen)]) => match seen.method.as_str() {
                "POST" => reply(202, &[("location", "/up/1")], ""),
                _ => manifest(),
            },
            _ => {
                let scope = named(seen);
                let challenge = format!(r#"Bearer realm="{realm}",service="svc",scope="{scope}""#);
                reply(401, &[("www-authenticate", &challenge)], "")
            }
        }
    })
}

#[tokio::test]
async fn a_token_is_asked_for_as_the_challenge_of_the_request_says() {
    for scope in [
        OWN,
        "repository:tenant/team/app:pull",
        "repository:team/app:pull,push",
        "repository:app:pull",
        "aws",
        "*",
        "repository:team/app:pull aws",
    ] {
        let origin = registry(move |_| scope.into(), move |_| scope.into()).await;
        let upstream = Setup::new(&origin.url()).credential("**", "robot", "hunter2").build();
        for _ in 0..3 {
            upstream.get_manifest(&repository(), &tag(), soon()).await.expect(scope);
        }
        assert_eq!(asked(&origin), [scope]);
        assert_eq!(origin.count("/v2/"), 4, "it is kept what to ask for: {scope}");
    }
}

#[tokio::test]
async fn a_scope_that_is_about_something_else_is_asked_for_when_ours_was_refused() {
    for scope in ["repository:mirror-of-app:pull", "repository:team/app:push"] {
        let origin = registry(move |_| scope.into(), move |_| scope.into()).await;
        let upstream = Setup::new(&origin.url()).build();
        for _ in 0..2 {
            upstream.get_manifest(&repository(), &tag(), soon()).await.expect(scope);
        }
        assert_eq!(asked(&origin), [OWN, scope]);
        assert_eq!(origin.count("/v2/"), 4, "it is kept what to ask for");
    }
}

#[tokio::test]
async fn a_placeholder_costs_nothing_where_our_own_scope_is_good() {
    for placeholder in ["repository:user/image:pull", "", "aws\tx", &"x".repeat(2_000)] {
        let placeholder = placeholder.to_owned();
        let origin = registry(move |_| placeholder.clone(), |_| OWN.into()).await;
        let upstream = Setup::new(&origin.url()).build();
        upstream.get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
        assert_eq!(asked(&origin), [OWN]);
    }
}

#[tokio::test]
async fn our_own_scope_is_asked_for_where_the_registrys_is_refused() {
    const NAMED: &str = "repository:old/team/app:pull";
    // By the endpoint, which knows no such name; or by the registry, to whose surprise it names it.
    let refusing = |seen: &Seen| match scopes(seen)[0].as_str() {
        NAMED => reply(403, &[], ""),
        scope => reply(200, &[], format!(r#"{{"token":"{scope}"}}"#)),
    };
    let at_endpoint = guarded(refusing, |_| NAMED.into(), |_| OWN.into()).await;
    let at_registry = registry(|_| NAMED.into(), |_| OWN.into()).await;
    for origin in [at_endpoint, at_registry] {
        let upstream = Setup::new(&origin.url()).credential("**", "robot", "hunter2").build();
        for _ in 0..2 {
            upstream.get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
        }
        assert_eq!(asked(&origin), [NAMED, OWN]);
    }
}

#[tokio::test]
async fn the_scope_of_a_ping_is_a_placeholder() {
    const PUSH: &str = "repository:team/app:pull,push";
    let origin = registry(|_| "repository:user/team/app:pull,push".into(), |_| PUSH.into()).await;
    let upstream = Setup::new(&origin.url()).credential("**", "robot", "hunter2").build();
    let (_feed, body) = roadstead::upstream::feed(Some(0));
    let chunk = roadstead::upstream::UploadChunk { range: None, digest: None, body };
    let sent = upstream.send_whole(&repository(), chunk, soon()).await.expect("taken");
    assert!(matches!(sent, UploadStatus::Open(_)));
    assert_eq!(asked(&origin), [PUSH]);
}

#[tokio::test]
async fn a_scope_of_one_repository_is_never_taken_for_another() {
    // Behind the front each repository has its own name, and no token is good for two.
    let inside = |seen: &Seen| {
        let name = if seen.target.contains("/team/app/") { "team/app" } else { "else/where" };
        format!("repository:tenant/{name}:pull")
    };
    let origin = registry(inside, inside).await;
    let upstream = Setup::new(&origin.url()).build();
    let other = Repository::parse("else/where").expect("valid");
    for _ in 0..2 {
        upstream.get_manifest(&repository(), &tag(), soon()).await.expect("ours");
        upstream.get_manifest(&other, &tag(), soon()).await.expect("the other");
    }
    let (first, second) = ("repository:tenant/team/app:pull", "repository:tenant/else/where:pull");
    // What holds for the first is not guessed for the second: our own scope is tried before.
    assert_eq!(asked(&origin), [first, "repository:else/where:pull", second]);
    for seen in origin.seen() {
        let crossed = match seen.header("authorization") {
            Some(given) if seen.target.contains("/team/app/") => given.contains("else/where"),
            Some(given) => given.contains("team/app"),
            None => false,
        };
        assert!(!crossed, "{seen:?}");
    }
}

#[tokio::test]
async fn rights_that_are_more_than_the_named_ones_are_asked_for_in_our_words() {
    const MOUNT: &str = "repository:else/where:pull repository:team/app:pull,push";
    // One of the two repositories of a mount is not the whole of it.
    let origin = registry(|_| "repository:team/app:pull,push".into(), |_| MOUNT.into()).await;
    let upstream = Setup::new(&origin.url()).build();
    let from = Repository::parse("else/where").expect("valid");
    let start = UploadStart { mount: Some((crate::support::digest(), from)), algorithm: None };
    upstream.begin_upload(&repository(), &start, soon()).await.expect("taken");
    assert_eq!(asked(&origin), [MOUNT]);
}

#[tokio::test]
async fn a_denial_is_final_after_one_token_of_each_scope() {
    // The only token is shown twice, because a new one may not be valid yet.
    for (scope, tokens) in [(OWN, 1), ("repository:tenant/team/app:pull", 2), ("nonsense:here", 2)]
    {
        let origin = registry(move |_| scope.into(), |_| "never".into()).await;
        let upstream = Setup::new(&origin.url()).build();
        let error = upstream.get_manifest(&repository(), &tag(), soon()).await.expect_err("denied");
        assert_eq!(error.kind(), &ErrorKind::Denied);
        assert_eq!((asked(&origin).len(), origin.count("/v2/")), (tokens, 3), "{scope}");
        let error = upstream.get_manifest(&repository(), &tag(), soon()).await.expect_err("denied");
        assert_eq!(error.kind(), &ErrorKind::Denied);
        assert!(origin.count("/v2/") <= 6, "{scope}: {}", origin.count("/v2/"));
    }
}

#[tokio::test]
async fn another_name_of_the_registrys_is_taken_up_when_it_changes() {
    let moved = Arc::new(AtomicBool::new(false));
    let is_moved = moved.clone();
    let named = move |_: &Seen| {
        let tenant = if is_moved.load(Ordering::SeqCst) { "new" } else { "old" };
        format!("repository:{tenant}/team/app:pull")
    };
    let origin = registry(named.clone(), named).await;
    let upstream = Setup::new(&origin.url()).build();
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("by the old name");
    moved.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        upstream.get_manifest(&repository(), &tag(), soon()).await.expect("by the new name");
    }
    assert_eq!(asked(&origin), ["repository:old/team/app:pull", "repository:new/team/app:pull"]);
}
