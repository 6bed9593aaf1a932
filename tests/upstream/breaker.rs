//! When an upstream is left alone, and when it is not: whatever it answers, it is there.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use roadstead::oci::{Reference, Repository};
use roadstead::upstream::{ErrorKind, Lookup, UpstreamClient};
use tokio::time::Instant;

use crate::support::{
    Origin, Reply, Seen, Setup, bind, closed_port, digest, manifest, manifest_to_put, origin,
    reply, repository, soon, tag,
};

async fn ask(upstream: &UpstreamClient) -> Result<(), ErrorKind> {
    let answer = upstream.get_manifest(&repository(), &tag(), soon()).await;
    answer.map(drop).map_err(|error| error.kind().clone())
}

/// Asks for three things that nothing has been asked for before, and waits so long for each.
async fn ask_for_three(
    upstream: &UpstreamClient,
    prefix: &str,
    patience: Duration,
) -> Vec<ErrorKind> {
    let mut kinds = Vec::new();
    for n in 0..3 {
        let tag = Reference::parse(&format!("{prefix}{n}")).expect("valid");
        let deadline = Instant::now() + patience;
        let answer = upstream.get_manifest(&repository(), &tag, deadline).await;
        kinds.push(answer.expect_err("it fails").kind().clone());
    }
    kinds
}

fn is_ping(seen: &Seen) -> bool {
    seen.path() == "/v2/"
}

fn pings(origin: &Origin) -> usize {
    origin.seen().iter().filter(|seen| is_ping(seen)).count()
}

async fn until(holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < end, "it never happened");
        tokio::task::yield_now().await;
    }
}

fn is_shut(setup: &Setup, gate: &str) -> bool {
    let open = |n| {
        let labels = format!(r#"gate="{gate}",upstream="acme.test""#);
        setup.metric(&format!("roadstead_upstream_breaker_open{{{labels}}} {n}"))
    };
    assert!(open(0) || open(1), "there is one at any time");
    open(1)
}

/// An upstream whose name resolves while the switch is on, and answers everything.
async fn by_name() -> (Origin, Setup, Arc<AtomicBool>) {
    let origin = origin(|seen| match seen.method.as_str() {
        "PUT" => reply(201, &[], ""),
        _ => manifest(),
    })
    .await;
    let resolves = Arc::new(AtomicBool::new(false));
    let on = resolves.clone();
    let mut setup = Setup::new(&format!("http://registry.test:{}", origin.address.port()));
    setup.lookup = Lookup::new(move |_| {
        let on = on.load(Ordering::SeqCst);
        async move {
            if on {
                Ok(vec![IpAddr::from([127, 0, 0, 1])])
            } else {
                Err(io::Error::other("no name"))
            }
        }
    });
    (origin, setup, resolves)
}

#[tokio::test]
async fn after_three_failures_to_connect_answers_are_immediate_until_a_ping_is_answered() {
    let (origin, setup, resolves) = by_name().await;
    let upstream = setup.build();
    for _ in 0..3 {
        assert!(!is_shut(&setup, "reads"));
        assert_eq!(ask(&upstream).await, Err(ErrorKind::Unreachable));
    }
    assert!(is_shut(&setup, "reads"));
    resolves.store(true, Ordering::SeqCst);
    assert_eq!(ask(&upstream).await, Err(ErrorKind::Unreachable));
    setup.clock.advance(Duration::from_secs(9));
    assert_eq!(ask(&upstream).await, Err(ErrorKind::Unreachable));
    assert_eq!(origin.seen().len(), 0, "nothing is sent during the pause");
    setup.clock.advance(Duration::from_secs(1));
    for _ in 0..3 {
        assert_eq!(ask(&upstream).await, Ok(()));
    }
    assert_eq!((pings(&origin), origin.seen().len()), (1, 4));
    assert!(!is_shut(&setup, "reads"));
}

#[tokio::test]
async fn writes_that_cannot_connect_do_not_stop_reads_and_a_read_that_can_brings_writes_back() {
    let (origin, setup, resolves) = by_name().await;
    let upstream = setup.build();
    for _ in 0..3 {
        upstream
            .put_manifest(&repository(), &manifest_to_put(), soon())
            .await
            .expect_err("no name");
    }
    assert!(is_shut(&setup, "writes") && !is_shut(&setup, "reads"));
    resolves.store(true, Ordering::SeqCst);
    let put = upstream.put_manifest(&repository(), &manifest_to_put(), soon()).await;
    assert_eq!(put.expect_err("left alone").kind(), &ErrorKind::Unreachable);
    assert_eq!(origin.seen().len(), 0);
    assert_eq!(ask(&upstream).await, Ok(()));
    upstream.put_manifest(&repository(), &manifest_to_put(), soon()).await.expect("it is there");
    assert!(!is_shut(&setup, "writes"));
}

#[tokio::test]
async fn no_status_shuts_an_upstream() {
    for status in [400, 404, 405, 416, 500, 501, 502, 503, 507, 599] {
        let origin = origin(move |seen| {
            if seen.path().ends_with("/latest") { manifest() } else { reply(status, &[], "") }
        })
        .await;
        let setup = Setup::new(&origin.url());
        let upstream = setup.build();
        ask_for_three(&upstream, "failing", Duration::from_secs(10)).await;
        assert_eq!(ask(&upstream).await, Ok(()), "{status}");
        assert_eq!(pings(&origin), 0, "{status} is an answer");
        assert!(!is_shut(&setup, "reads"), "{status}");
    }
}

#[tokio::test]
async fn objects_that_are_never_answered_leave_the_others_alone() {
    for silence in ["hang", "break"] {
        let origin = origin(move |seen| match seen.path() {
            "/v2/" => reply(503, &[], ""),
            path if path.ends_with("/latest") => manifest(),
            _ if silence == "hang" => Reply::Hang,
            _ => Reply::Break,
        })
        .await;
        let setup = Setup::new(&origin.url());
        let upstream = setup.build();
        for round in 1..=3 {
            ask_for_three(&upstream, &format!("round{round}-"), Duration::from_millis(250)).await;
            until(|| pings(&origin) == round).await;
            assert_eq!(ask(&upstream).await, Ok(()), "{silence} {round}");
            assert!(!is_shut(&setup, "reads"));
        }
    }
}

#[tokio::test]
async fn an_upstream_that_answers_no_ping_either_is_left_alone() {
    let silent = Arc::new(AtomicBool::new(true));
    let is_silent = silent.clone();
    let origin =
        origin(move |_| if is_silent.load(Ordering::SeqCst) { Reply::Hang } else { manifest() })
            .await;
    let mut setup = Setup::new(&origin.url());
    setup.limits.ping = Duration::from_millis(50);
    let upstream = setup.build();
    assert_eq!(
        ask_for_three(&upstream, "silent", Duration::from_millis(250)).await,
        vec![ErrorKind::Timeout; 3]
    );
    until(|| is_shut(&setup, "reads")).await;
    assert_eq!(ask(&upstream).await, Err(ErrorKind::Unreachable));
    assert_eq!((pings(&origin), origin.seen().len()), (1, 4));

    setup.clock.advance(Duration::from_secs(10));
    assert_eq!(ask(&upstream).await, Err(ErrorKind::Unreachable), "still silent");
    assert_eq!((pings(&origin), origin.seen().len()), (2, 5), "nothing but the ping was sent");
    silent.store(false, Ordering::SeqCst);
    setup.clock.advance(Duration::from_secs(19));
    assert_eq!(ask(&upstream).await, Err(ErrorKind::Unreachable), "the pause is twice as long");
    setup.clock.advance(Duration::from_secs(1));
    assert_eq!(ask(&upstream).await, Ok(()));
}

#[tokio::test]
async fn the_ping_holds_up_nobody_and_there_is_one_at_a_time() {
    let origin = origin(|_| Reply::Hang).await;
    let setup = Setup::new(&origin.url());
    let upstream = setup.build();
    let started = Instant::now();
    ask_for_three(&upstream, "a", Duration::from_millis(250)).await;
    ask_for_three(&upstream, "b", Duration::from_millis(250)).await;
    assert!(started.elapsed() < setup.limits.ping, "{:?}", started.elapsed());
    until(|| pings(&origin) == 1).await;
    assert!(!is_shut(&setup, "reads"), "nothing is decided yet");
    assert_eq!(origin.seen().len(), 7);
}

#[tokio::test]
async fn only_one_request_finds_out_whether_an_upstream_is_back_and_it_may_leave() {
    let (origin, mut setup, resolves) = by_name().await;
    let hanging = bind().await;
    let port = hanging.address.port();
    let answers = Arc::new(AtomicBool::new(false));
    let does_answer = answers.clone();
    let hanging = hanging
        .serve(move |_| if does_answer.load(Ordering::SeqCst) { manifest() } else { Reply::Hang });
    drop(origin);
    setup.config.url = format!("http://registry.test:{port}").parse().expect("a URL");
    setup.limits.ping = Duration::from_millis(500);
    let upstream = setup.build();
    for _ in 0..3 {
        assert_eq!(ask(&upstream).await, Err(ErrorKind::Unreachable));
    }
    resolves.store(true, Ordering::SeqCst);
    setup.clock.advance(Duration::from_secs(10));
    let first = tokio::spawn({
        let upstream = upstream.clone();
        async move { ask(&upstream).await }
    });
    until(|| pings(&hanging) == 1).await;
    assert_eq!(ask(&upstream).await, Err(ErrorKind::Unreachable), "only one finds out");
    first.abort();
    assert!(first.await.expect_err("aborted").is_cancelled());
    answers.store(true, Ordering::SeqCst);
    // The ping goes on without it, and fails.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(ask(&upstream).await, Err(ErrorKind::Unreachable));
    setup.clock.advance(Duration::from_secs(20));
    assert_eq!(ask(&upstream).await, Ok(()));
    assert_eq!(pings(&hanging), 2);
}

#[tokio::test]
async fn a_dead_storage_host_fails_fast_for_what_is_redirected_there_and_for_nothing_else() {
    let (dead, storage) = (closed_port().await, origin(|_| reply(200, &[], "blob")).await);
    let lively = format!("{}/blob", storage.url());
    let registry = origin(move |seen| match seen.path() {
        path if path.contains("/manifests/") => manifest(),
        path if path.contains("/lively/") => reply(307, &[("location", &lively)], ""),
        _ => reply(307, &[("location", &format!("http://{dead}/blob"))], ""),
    })
    .await;
    let setup = Setup::new(&registry.url()).blob_host(dead.to_string()).blob_host(storage.host());
    let upstream = setup.build();
    let other = Repository::parse("team/lively").expect("valid");
    for n in 1..=3 {
        let failed = upstream.get_blob(&repository(), &digest(), None, soon()).await;
        assert_eq!(failed.expect_err("nobody is there").kind(), &ErrorKind::Unreachable, "{n}");
        upstream.get_blob(&other, &digest(), None, soon()).await.expect("another storage host");
        assert_eq!(ask(&upstream).await, Ok(()));
    }
    assert!(is_shut(&setup, "hosts") && !is_shut(&setup, "reads"));
    let error = upstream.get_blob(&repository(), &digest(), None, soon()).await;
    let told = error.expect_err("left alone").to_string();
    assert!(told.contains(&format!("http://{dead} has been unreachable")), "{told}");
}

#[tokio::test]
async fn a_silent_object_in_storage_leaves_the_others_there_alone() {
    let storage = origin(|seen| match seen.path() {
        "/" => reply(403, &[], "no list for you"),
        "/good" => reply(200, &[], "blob"),
        _ => Reply::Hang,
    })
    .await;
    let to = storage.url();
    let registry = origin(move |seen| {
        let object = if seen.path().contains("/good/") { "good" } else { "bad" };
        reply(307, &[("location", &format!("{to}/{object}"))], "")
    })
    .await;
    let setup = Setup::new(&registry.url()).blob_host(storage.host());
    let upstream = setup.build();
    for n in 0..3 {
        let repository = Repository::parse(&format!("bad/app{n}")).expect("valid");
        let deadline = Instant::now() + Duration::from_millis(50);
        let silent = upstream.get_blob(&repository, &digest(), None, deadline).await;
        assert_eq!(silent.expect_err("silent").kind(), &ErrorKind::Timeout);
    }
    until(|| storage.seen().iter().any(|seen| seen.path() == "/")).await;
    let good = Repository::parse("good/app").expect("valid");
    upstream.get_blob(&good, &digest(), None, soon()).await.expect("it answers");
    assert!(!is_shut(&setup, "hosts") && !is_shut(&setup, "reads"));
}

#[tokio::test]
async fn a_dead_token_service_shuts_nothing_that_needs_no_new_token() {
    let service = origin(|_| reply(200, &[], r#"{"token":"t"}"#)).await;
    let challenge = format!(r#"Bearer realm="{}/token""#, service.url());
    let registry = origin(move |seen| match seen.header("authorization") {
        Some(_) => manifest(),
        None => reply(401, &[("www-authenticate", &challenge)], ""),
    })
    .await;
    let setup = Setup::new(&registry.url()).token_host(service.host());
    let upstream = setup.build();
    assert_eq!(ask(&upstream).await, Ok(()));
    drop(service);
    for n in 0..3 {
        let other = Repository::parse(&format!("other/app{n}")).expect("valid");
        let failed = upstream.get_manifest(&other, &tag(), soon()).await;
        assert_eq!(failed.expect_err("no token").kind(), &ErrorKind::Unreachable);
    }
    assert_eq!(ask(&upstream).await, Ok(()), "its token is good");
    assert!(is_shut(&setup, "hosts") && !is_shut(&setup, "reads"));
}

#[tokio::test]
async fn a_shortage_of_this_machine_counts_against_nobody_and_is_not_remembered() {
    let origin = origin(|_| manifest()).await;
    let is_short = Arc::new(AtomicBool::new(true));
    let short = is_short.clone();
    let mut setup = Setup::new(&format!("http://registry.test:{}", origin.address.port()));
    setup.lookup = Lookup::new(move |_| {
        let answer = if short.load(Ordering::SeqCst) {
            Err(io::Error::from_raw_os_error(libc::EMFILE))
        } else {
            Ok(vec![IpAddr::from([127, 0, 0, 1])])
        };
        std::future::ready(answer)
    });
    let upstream = setup.build();
    for _ in 0..5 {
        assert_eq!(ask(&upstream).await, Err(ErrorKind::OutOfResources));
        let put = upstream.put_manifest(&repository(), &manifest_to_put(), soon()).await;
        assert_eq!(put.expect_err("short").kind(), &ErrorKind::OutOfResources);
    }
    assert!(!is_shut(&setup, "reads") && !is_shut(&setup, "writes"));
    is_short.store(false, Ordering::SeqCst);
    assert_eq!(ask(&upstream).await, Ok(()));
}
