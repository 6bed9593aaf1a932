//! Calls that fail: what is tried again, and what is remembered as failing for a moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use roadstead::oci::{Part, Reference};
use roadstead::upstream::{ErrorKind, UpstreamClient};
use tokio::time::Instant;

use crate::support::{
    MANIFEST, Reply, Setup, closed_port, digest, manifest, manifest_to_put, origin, reply,
    repository, soon, tag,
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
async fn what_has_just_failed_is_not_asked_for_again_for_a_moment() {
    for (status, requests) in [(500, 3), (503, 3), (501, 1)] {
        let origin = origin(move |seen| {
            if seen.path().ends_with("/latest") { reply(status, &[], "") } else { manifest() }
        })
        .await;
        let setup = Setup::new(&origin.url());
        let upstream = setup.build();
        for _ in 0..4 {
            assert_eq!(ask(&upstream).await, Err(ErrorKind::ServerError(status)), "as the first");
        }
        assert_eq!(origin.seen().len(), requests, "{status}");
        let other = Reference::parse("other").expect("valid");
        upstream.get_manifest(&repository(), &other, soon()).await.expect("it does not fail");
        let head = upstream.head_manifest(&repository(), &tag(), soon()).await;
        assert_eq!(head.expect_err("asked").kind(), &ErrorKind::ServerError(status));
        assert_eq!(origin.seen().len(), 2 * requests + 1, "HEAD is another question");
        setup.clock.advance(Duration::from_secs(5));
        assert_eq!(ask(&upstream).await, Err(ErrorKind::ServerError(status)));
        assert_eq!(origin.seen().len(), 3 * requests + 1);
    }
}

#[tokio::test]
async fn a_failure_of_a_moment_ago_is_told_as_one() {
    let origin = origin(|_| reply(500, &[], "")).await;
    let upstream = Setup::new(&origin.url()).build();
    let mut told = Vec::new();
    for _ in 0..2 {
        let error = upstream.get_manifest(&repository(), &tag(), soon()).await;
        told.push(error.expect_err("500").to_string());
    }
    assert_eq!(
        told,
        [
            "acme.test: manifest_get: the upstream answered 500 (3 attempts)",
            "acme.test: manifest_get: the upstream answered 500 (a moment ago)",
        ]
    );
}

#[tokio::test]
async fn a_manifest_that_was_put_anew_is_asked_for_again() {
    let put = Arc::new(AtomicBool::new(false));
    let was_put = put.clone();
    let origin = origin(move |seen| match seen.method.as_str() {
        "PUT" => {
            was_put.store(true, Ordering::SeqCst);
            reply(201, &[], "")
        }
        _ if was_put.load(Ordering::SeqCst) => manifest(),
        _ => reply(500, &[], ""),
    })
    .await;
    let upstream = Setup::new(&origin.url()).build();
    assert_eq!(ask(&upstream).await, Err(ErrorKind::ServerError(500)));
    upstream.put_manifest(&repository(), &manifest_to_put(), soon()).await.expect("it is taken");
    assert_eq!(ask(&upstream).await, Ok(()));
}

#[tokio::test]
async fn silence_stands_only_for_those_who_would_not_wait_longer() {
    let patience = Arc::new(AtomicBool::new(false));
    let is_patient = patience.clone();
    let origin =
        origin(move |_| if is_patient.load(Ordering::SeqCst) { manifest() } else { Reply::Hang })
            .await;
    let upstream = Setup::new(&origin.url()).build();
    for _ in 0..3 {
        let deadline = Instant::now() + Duration::from_millis(50);
        let error = upstream.get_manifest(&repository(), &tag(), deadline).await;
        assert_eq!(error.expect_err("silent").kind(), &ErrorKind::Timeout);
    }
    assert_eq!(origin.seen().len(), 1);
    patience.store(true, Ordering::SeqCst);
    assert_eq!(ask(&upstream).await, Ok(()), "ten seconds are more than it was silent");
}

#[tokio::test]
async fn writes_and_the_rest_of_a_transfer_are_sent_whatever_failed_before() {
    let origin = origin(|_| reply(500, &[], "")).await;
    let upstream = Setup::new(&origin.url()).build();
    for n in 1..=2 {
        let put = upstream.put_manifest(&repository(), &manifest_to_put(), soon()).await;
        assert_eq!(put.expect_err("500").kind(), &ErrorKind::ServerError(500));
        assert_eq!(origin.seen().len(), 3 * n);
    }
    upstream.get_blob(&repository(), &digest(), None, soon()).await.expect_err("500");
    for n in 1..=2 {
        let rest = Some(Part::From(7));
        upstream.get_blob(&repository(), &digest(), rest, soon()).await.expect_err("500");
        assert_eq!(origin.seen().len(), 9 + 3 * n);
    }
}
