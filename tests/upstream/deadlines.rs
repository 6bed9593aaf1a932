//! One deadline for all that an operation waits for.

use std::time::Duration;

use bytes::Bytes;
use roadstead::limits::Limits;
use roadstead::upstream::{Error, ErrorKind, UploadChunk, UploadStatus, UpstreamClient, feed};
use tokio::time::Instant;

use crate::support::{
    Helper, LOGIN, Origin, Reply, Seen, Setup, bind, digest, manifest, origin, reply, repository,
    soon, tag,
};

const TOKEN: &str = r#"{"token":"good"}"#;

/// Sends a blob of four bytes in one request.
async fn push(upstream: &UpstreamClient, login_deadline: Instant) -> Result<UploadStatus, Error> {
    let (feed, body) = feed(Some(4));
    feed.bytes(Bytes::from_static(b"blob")).await.expect("room");
    feed.end().await.expect("room");
    let chunk = UploadChunk { range: None, digest: Some(digest()), body };
    upstream.send_whole(&repository(), chunk, login_deadline).await
}

fn pushes(origin: &Origin) -> usize {
    origin.seen().iter().filter(|seen| seen.method == "POST").count()
}

fn is_push(seen: &Seen) -> bool {
    seen.method == "POST" && seen.path().ends_with("/blobs/uploads/")
}

/// An upstream whose login comes from a helper that takes its time and is asked each time.
fn with_slow_helper(origin: &Origin, helper: &Helper) -> Setup {
    let setup = Setup::new(&origin.url()).helper("**", helper.program());
    let limits = Limits { login_life: Duration::ZERO, ..setup.limits.clone() };
    Setup { limits, ..setup }
}

#[tokio::test]
async fn a_pause_that_would_end_after_the_deadline_is_not_slept() {
    let origin = origin(|_| reply(503, &[], "")).await;
    let mut setup = Setup::new(&origin.url());
    setup.limits.retry_pause = Duration::from_mins(1);
    let upstream = setup.build();
    let started = Instant::now();
    let deadline = started + Duration::from_secs(3);
    let error = upstream.get_manifest(&repository(), &tag(), deadline).await.expect_err("503");
    assert_eq!(error.kind(), &ErrorKind::ServerError(503), "the failure, not a timeout");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(origin.seen().len(), 1);
}

#[tokio::test]
async fn a_write_has_one_deadline_for_ping_and_login() {
    let origin = origin(|seen| reply(if is_push(seen) { 201 } else { 200 }, &[], "")).await;
    let helper = Helper::new(&format!("sleep 0.8\n{LOGIN}"));
    let setup = with_slow_helper(&origin, &helper);
    let error = push(&setup.build(), Instant::now() + Duration::from_millis(1200)).await;
    assert_eq!(error.expect_err("two runs of the helper").kind(), &ErrorKind::Timeout);
    assert_eq!(pushes(&origin), 0);
    push(&setup.build(), soon()).await.expect("there is time for both");
    assert_eq!(pushes(&origin), 1);
}

#[tokio::test]
async fn a_write_has_one_deadline_for_login_and_token() {
    let bound = bind().await;
    let realm = format!(r#"Bearer realm="{}/token""#, bound.url());
    let origin = bound.serve(move |seen| match (seen.path(), reply(200, &[], TOKEN)) {
        ("/token", Reply::Send(token)) => Reply::Late(Duration::from_millis(800), token),
        _ if seen.header("authorization") != Some("Bearer good") => {
            reply(401, &[("www-authenticate", &realm)], "")
        }
        _ if is_push(seen) => reply(201, &[], ""),
        _ => manifest(),
    });
    let helper = Helper::new(&format!("sleep 0.8\n{LOGIN}"));
    let upstream = with_slow_helper(&origin, &helper).build();
    // From here on it is known that there are tokens; there is none for pushing.
    upstream.get_manifest(&repository(), &tag(), soon()).await.expect("a manifest");
    let error = push(&upstream, Instant::now() + Duration::from_millis(1200)).await;
    assert_eq!(error.expect_err("helper and token").kind(), &ErrorKind::Timeout);
    assert_eq!(pushes(&origin), 0);
    push(&upstream, soon()).await.expect("there is time for both");
    assert_eq!(pushes(&origin), 1);
}
