//! Upstreams that fail: retries, the breaker that leaves one alone for a while, and the pause that
//! a 429 asks for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use roadstead::upstream::{ErrorKind, UpstreamClient};
use tokio::time::Instant;

use crate::support::{
    MANIFEST, Reply, Setup, absent, bind, closed_port, digest, manifest, origin, reply, repository,
    soon, tag,
};

async fn ask(upstream: &UpstreamClient) -> Result<(), ErrorKind> {
    let answer = upstream.get_manifest(&repository(), &tag(), soon()).await;
    answer.map(drop).map_err(|error| error.kind().clone())
}

#[tokio::test]
async fn a_refused_connection_ends_well_below_a_second() {
    let setup = Setup {
        limits: roadstead::limits::Limits::default(),
        ..Setup::new(&format!("http://{}", closed_port().await))
    };
    let upstream = setup.build();
    let started = Instant::now();
    let error =
        upstream.get_manifest(&repository(), &tag(), soon()).await.expect_err("nobody is there");
    assert_eq!(error.kind(), &ErrorKind::Unreachable);
    assert!(error.to_string().ends_with("(3 attempts)"), "{error}");
    assert!(started.elapsed() < Duration::from_millis(700), "{:?}", started.elapsed());
}

#[tokio::test]
async fn passing_failures_are_retried_twice() {
    for status in [408, 425, 499, 500, 502, 503, 504, 507, 520, 524, 530] {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = asked.clone();
        let origin = origin(move |_| {
            if counter.fetch_add(1, Ordering::SeqCst) < 2 {
                reply(status, &[], "")
            } else {
                manifest()
            }
        })
        .await;
        let upstream = Setup::new(&origin.url()).build();
        assert_eq!(ask(&upstream).await, Ok(()));
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }
    let origin = origin(|_| reply(503, &[("retry-after", "1")], "")).await;
    assert_eq!(ask(&Setup::new(&origin.url()).build()).await, Err(ErrorKind::ServerError(503)));
    assert_eq!(origin.seen().len(), 3);
}

#[tokio::test]
async fn final_answers_are_not_retried() {
    for (status, kind) in [
        (404, ErrorKind::UnconfirmedAbsence),
        (403, ErrorKind::Denied),
        (400, ErrorKind::Protocol),
        (501, ErrorKind::ServerError(501)),
        (429, ErrorKind::RateLimited { retry_after: Duration::from_secs(10) }),
    ] {
        let origin = origin(move |_| reply(status, &[], "no")).await;
        assert_eq!(ask(&Setup::new(&origin.url()).build()).await, Err(kind));
        assert_eq!(origin.seen().len(), 1, "{status}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_before_the_headers_is_tried_again() {
    let first = Arc::new(AtomicBool::new(true));
    let is_first = first.clone();
    let origin =
        origin(
            move |_| if is_first.swap(false, Ordering::SeqCst) { Reply::Break } else { manifest() },
        )
        .await;
    let upstream = Setup::new(&origin.url()).build();
    assert_eq!(ask(&upstream).await, Ok(()));
    first.store(true, Ordering::SeqCst);
    assert_eq!(ask(&upstream).await, Ok(()), "on a connection from the pool");
    assert_eq!(origin.seen().len(), 4);
}

#[tokio::test]
async fn the_pool_is_used_again_after_challenges_and_redirects() {
    let origin = origin(|seen| match (seen.path(), seen.header("authorization")) {
        ("/here", _) => reply(200, &[("content-type", MANIFEST)], "{}"),
        (_, Some(_)) => reply(307, &[("location", "/here")], "<a href=/here>"),
        (_, None) => reply(401, &[("www-authenticate", "Basic")], "who are you?"),
    })
    .await;
    let upstream = Setup::new(&origin.url()).credential("**", "robot", "hunter2").build();
    assert_eq!(ask(&upstream).await, Ok(()));
    assert_eq!((origin.seen().len(), origin.connections()), (3, 1));
}

#[tokio::test]
async fn patience_ends_in_a_timeout_that_counts_against_the_upstream() {
    let origin = origin(|_| Reply::Hang).await;
    let setup = Setup::new(&origin.url());
    let upstream = setup.build();
    for _ in 0..3 {
        let started = Instant::now();
        let error = upstream
            .get_blob(&repository(), &digest(), None, Instant::now() + Duration::from_millis(50))
            .await
            .expect_err("late");
        assert_eq!(error.kind(), &ErrorKind::Timeout);
        assert!(started.elapsed() < Duration::from_secs(2));
    }
    assert_eq!(ask(&upstream).await, Err(ErrorKind::Unreachable));
    assert_eq!(origin.seen().len(), 3);
    assert!(setup.metric(r#"roadstead_upstream_breaker_open{upstream="acme.test"} 1"#));
}

#[tokio::test]
async fn after_three_failures_answers_are_immediate_until_one_probe_succeeds() {
    let state = Arc::new(AtomicUsize::new(0));
    let current = state.clone();
    let origin = origin(move |_| match current.load(Ordering::SeqCst) {
        0 => reply(500, &[], ""),
        1 => Reply::Hang,
        _ => manifest(),
    })
    .await;
    let setup = Setup::new(&origin.url());
    let upstream = setup.build();
    for _ in 0..3 {
        assert_eq!(ask(&upstream).await, Err(ErrorKind::ServerError(500)));
    }
    let started = Instant::now();
    assert_eq!(ask(&upstream).await, Err(ErrorKind::Unreachable));
    assert!(started.elapsed() < Duration::from_millis(100));
    assert_eq!(origin.seen().len(), 9);

    setup.clock.advance(Duration::from_secs(10));
    state.store(1, Ordering::SeqCst);
    let probe = tokio::spawn({
        let upstream = upstream.clone();
        async move { ask(&upstream).await }
    });
    while origin.seen().len() < 10 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&upstream).await, Err(ErrorKind::Unreachable), "only one probe passes");
    probe.abort();
    assert!(probe.await.expect_err("aborted").is_cancelled());
    state.store(2, Ordering::SeqCst);
    assert_eq!(ask(&upstream).await, Ok(()), "the abandoned probe gave its place back");
    assert_eq!(ask(&upstream).await, Ok(()));
    assert!(setup.metric(r#"roadstead_upstream_breaker_open{upstream="acme.test"} 0"#));
}

#[tokio::test]
async fn answers_of_any_kind_show_that_the_upstream_is_there() {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = count.clone();
    let origin = origin(move |_| {
        if counter.fetch_add(1, Ordering::SeqCst) % 7 == 6 { absent() } else { reply(500, &[], "") }
    })
    .await;
    let upstream = Setup::new(&origin.url()).build();
    for _ in 0..4 {
        for expected in
            [ErrorKind::ServerError(500), ErrorKind::ServerError(500), ErrorKind::NotFound]
        {
            assert_eq!(ask(&upstream).await, Err(expected));
        }
    }
}

#[tokio::test]
async fn a_429_stops_manifests_for_its_pause_while_blobs_flow() {
    let limited = Arc::new(AtomicBool::new(true));
    let is_limited = limited.clone();
    let origin = origin(move |seen| match seen.path().contains("/manifests/") {
        true if is_limited.load(Ordering::SeqCst) => {
            reply(429, &[("retry-after", "30")], "Too Many Requests")
        }
        true => manifest(),
        false => reply(200, &[], "blob"),
    })
    .await;
    let setup = Setup::new(&origin.url());
    let upstream = setup.build();
    let limited_for =
        |seconds| Err(ErrorKind::RateLimited { retry_after: Duration::from_secs(seconds) });
    assert_eq!(ask(&upstream).await, limited_for(30));
    setup.clock.advance(Duration::from_secs(12));
    for _ in 0..5 {
        assert_eq!(ask(&upstream).await, limited_for(18));
        let head = upstream
            .head_manifest(&repository(), &tag(), soon())
            .await
            .expect_err("the same class");
        assert_eq!(head.kind(), &ErrorKind::RateLimited { retry_after: Duration::from_secs(18) });
    }
    assert_eq!(origin.count("/v2/team/app/manifests/"), 1);
    upstream.get_blob(&repository(), &digest(), None, soon()).await.expect("blobs flow");
    limited.store(false, Ordering::SeqCst);
    setup.clock.advance(Duration::from_secs(18));
    assert_eq!(ask(&upstream).await, Ok(()));
}

#[tokio::test]
async fn a_429_holds_for_the_credential_that_got_it() {
    let origin = origin(|seen| match seen.header("authorization") {
        Some(_) => reply(429, &[], ""),
        None if seen.path().contains("/team/") => reply(401, &[("www-authenticate", "Basic")], ""),
        None => manifest(),
    })
    .await;
    let upstream = Setup::new(&origin.url()).credential("team/*", "robot", "hunter2").build();
    assert_eq!(
        ask(&upstream).await,
        Err(ErrorKind::RateLimited { retry_after: Duration::from_secs(10) })
    );
    let other = roadstead::oci::Repository::parse("else/where").expect("valid");
    upstream.get_manifest(&other, &tag(), soon()).await.expect("another credential, none here");
}

#[tokio::test]
async fn a_429_of_the_token_endpoint_is_asked_once() {
    let bound = bind().await;
    let realm = format!(r#"Bearer realm="{}/token""#, bound.url());
    let origin = bound.serve(move |seen| match seen.path() {
        "/token" => reply(429, &[("retry-after", "99999")], ""),
        _ => reply(401, &[("www-authenticate", &realm)], ""),
    });
    let upstream = Setup::new(&origin.url()).build();
    for _ in 0..3 {
        assert_eq!(
            ask(&upstream).await,
            Err(ErrorKind::RateLimited { retry_after: Duration::from_hours(1) })
        );
    }
    assert_eq!(origin.count("/token"), 1);
}
