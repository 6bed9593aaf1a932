//! The pause that a 429 asks for: what it stops, and how the upstream is asked whether it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use roadstead::upstream::{ErrorKind, UpstreamClient};

use crate::support::{
    Setup, bind, digest, manifest, manifest_to_put, origin, reply, repository, soon, tag,
};

async fn ask(upstream: &UpstreamClient) -> Result<(), ErrorKind> {
    let answer = upstream.get_manifest(&repository(), &tag(), soon()).await;
    answer.map(drop).map_err(|error| error.kind().clone())
}

fn limited_for(seconds: u64) -> Result<(), ErrorKind> {
    Err(ErrorKind::RateLimited { retry_after: Duration::from_secs(seconds) })
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

#[tokio::test]
async fn a_long_pause_is_asked_about_once_a_minute_and_ends_with_the_first_answer() {
    let limited = Arc::new(AtomicBool::new(true));
    let is_limited = limited.clone();
    let origin = origin(move |_| {
        if is_limited.load(Ordering::SeqCst) {
            reply(429, &[("retry-after", "3600")], "")
        } else {
            manifest()
        }
    })
    .await;
    let setup = Setup::new(&origin.url());
    let upstream = setup.build();
    assert_eq!(ask(&upstream).await, limited_for(3600));
    for minute in 1..=3 {
        setup.clock.advance(Duration::from_secs(59));
        assert_eq!(ask(&upstream).await, limited_for(3541), "as the registry said");
        setup.clock.advance(Duration::from_secs(1));
        for _ in 0..3 {
            assert_eq!(ask(&upstream).await, limited_for(3600), "as it says now");
        }
        assert_eq!(origin.seen().len(), 1 + minute);
    }
    limited.store(false, Ordering::SeqCst);
    setup.clock.advance(Duration::from_mins(1));
    for _ in 0..3 {
        assert_eq!(ask(&upstream).await, Ok(()));
    }
}

#[tokio::test]
async fn a_429_for_writes_does_not_stop_reads_nor_the_other_way() {
    for limited in ["PUT", "GET"] {
        let origin = origin(move |seen| match (seen.method == limited, seen.method.as_str()) {
            (true, _) => reply(429, &[("retry-after", "30")], ""),
            (false, "PUT") => reply(201, &[], ""),
            (false, _) => manifest(),
        })
        .await;
        let upstream = Setup::new(&origin.url()).build();
        for _ in 0..3 {
            let put = upstream.put_manifest(&repository(), &manifest_to_put(), soon()).await;
            let put = put.map(drop).map_err(|error| error.kind().clone());
            let got = ask(&upstream).await;
            let (stopped, other) = if limited == "PUT" { (put, got) } else { (got, put) };
            assert_eq!((stopped, other), (limited_for(30), Ok(())), "{limited}");
        }
        assert_eq!(origin.seen().len(), 4, "{limited} was sent once");
    }
}

#[tokio::test]
async fn a_429_for_tokens_to_push_leaves_tokens_to_pull_alone_and_the_other_way() {
    for limited in ["push", "pull"] {
        let bound = bind().await;
        let realm = format!(r#"Bearer realm="{}/token""#, bound.url());
        let is_limited = move |query: &str| query.contains("push") == (limited == "push");
        let origin = bound.serve(move |seen| match (seen.path(), seen.header("authorization")) {
            ("/token", _) if is_limited(&seen.target) => reply(429, &[("retry-after", "30")], ""),
            ("/token", _) => reply(200, &[], r#"{"token":"t","expires_in":300}"#),
            (_, None) => reply(401, &[("www-authenticate", &realm)], ""),
            _ if seen.method == "PUT" => reply(201, &[], ""),
            _ => manifest(),
        });
        let upstream = Setup::new(&origin.url()).build();
        for _ in 0..3 {
            let put = upstream.put_manifest(&repository(), &manifest_to_put(), soon()).await;
            let put = put.map(drop).map_err(|error| error.kind().clone());
            let got = ask(&upstream).await;
            let (stopped, other) = if limited == "push" { (put, got) } else { (got, put) };
            assert_eq!((stopped, other), (limited_for(30), Ok(())), "{limited}");
        }
        assert_eq!(origin.count("/token"), 2, "{limited}: refused once, given once");
    }
}

#[tokio::test]
async fn a_429_of_storage_stops_that_storage_and_nothing_else() {
    let busy = origin(|_| reply(429, &[("retry-after", "30")], "")).await;
    let idle = origin(|_| reply(200, &[], "blob")).await;
    let (to_busy, to_idle) = (format!("{}/data", busy.url()), format!("{}/data", idle.url()));
    let registry = origin(move |seen| match seen.path() {
        path if path.contains("/busy/") => reply(307, &[("location", &to_busy)], ""),
        path if path.contains("/idle/") => reply(307, &[("location", &to_idle)], ""),
        _ => reply(200, &[], "blob"),
    })
    .await;
    let setup = Setup::new(&registry.url()).blob_host(busy.host()).blob_host(idle.host());
    let upstream = setup.build();
    let blob = async |name: &str| {
        let repository = roadstead::oci::Repository::parse(name).expect("valid");
        let answer = upstream.get_blob(&repository, &digest(), None, soon()).await;
        answer.map(drop).map_err(|error| error.kind().clone())
    };
    for _ in 0..3 {
        assert_eq!(blob("busy/app").await, limited_for(30));
        assert_eq!(blob("idle/app").await, Ok(()), "another storage");
        assert_eq!(blob("here/app").await, Ok(()), "the registry's own");
    }
    assert_eq!(busy.seen().len(), 1);
    setup.clock.advance(Duration::from_secs(30));
    assert_eq!(blob("busy/app").await, limited_for(30));
    assert_eq!(busy.seen().len(), 2, "asked again when the pause is over");
}
