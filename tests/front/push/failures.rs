//! Failures on either side: said as they are, and nothing is left of what was under way.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use roadstead::config::Writes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::content::Blob;
use crate::support::image::Image;
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, blob, manifest};
use crate::support::push::{
    anyone, ending, location, open_to_all, proxy_keeping_pushes, uploads, writes,
};
use crate::support::{eventually, soon};

const LAYER: u64 = 300_000;

/// Of the cache, for one blob.
const HALF: u64 = 64 << 20;

/// Nothing is stored or staged, and a blob of half the cache has room.
async fn nothing_is_left(proxy: &Proxy, origin: &Origin, layer: &Blob) {
    eventually("no file is left", || proxy.staged_files() == 0).await;
    assert_eq!(
        (proxy.has_stored(&layer.digest), proxy.metric("roadstead_store_bytes", &[])),
        (false, 0)
    );
    origin.repair();
    let at = ending(&anyone(proxy).begin("c/d").await, &layer.digest);
    let mut stream = proxy.connect().await;
    let head = format!("PUT {at} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {HALF}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("it reads");
    eventually("the room is there", || proxy.staged_files() == 1).await;
    drop(stream);
    eventually("no file is left", || proxy.staged_files() == 0).await;
}

/// A cache that has room for little.
async fn small(origin: &Origin, edit: impl FnOnce(&mut roadstead::limits::Limits)) -> Proxy {
    let mut setup = open_to_all(origin, Writes::Kept);
    setup.config.cache.max_size = 2 * HALF;
    edit(&mut setup.limits);
    setup.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_registry_answers_a_write_with_is_told_as_it_is() {
    let layer = Blob::seeded(1, LAYER);
    let elsewhere = "http://127.0.0.1:1/elsewhere".to_owned();
    let cases: Vec<(Vec<Fault>, u16, &str, &str)> = vec![
        (vec![Fault::Status(500)], 502, "UNAVAILABLE", "has a failure"),
        (vec![Fault::Status(503)], 502, "UNAVAILABLE", "has a failure"),
        (
            vec![Fault::Status(429), Fault::Header("Retry-After", Some("7".into()))],
            429,
            "TOOMANYREQUESTS",
            "no more",
        ),
        (vec![Fault::Status(403)], 403, "DENIED", "does not let this proxy write"),
        (vec![Fault::Status(404)], 404, "NAME_UNKNOWN", "no such repository"),
        (vec![Fault::Status(405)], 405, "UNSUPPORTED", "does not do this"),
        (vec![Fault::Instead(413, "text/html", "<html>".into())], 413, "SIZE_INVALID", "too many"),
        (vec![Fault::Instead(418, "text/html", "<html>".into())], 418, "UNKNOWN", "refuses this"),
        (vec![Fault::Redirect(elsewhere)], 502, "UNAVAILABLE", "something wrong"),
        (
            vec![Fault::Instead(200, "text/plain", "yes".into())],
            502,
            "UNAVAILABLE",
            "something wrong",
        ),
        (vec![Fault::Header("Location", None)], 502, "UNAVAILABLE", "something wrong"),
        (
            vec![Fault::Header("Location", Some("http://[".into()))],
            502,
            "UNAVAILABLE",
            "something wrong",
        ),
        (
            vec![Fault::Header("Location", Some(format!("/{}", "x".repeat(5_000))))],
            502,
            "UNAVAILABLE",
            "wrong",
        ),
        (vec![Fault::Hangup], 502, "UNAVAILABLE", "cannot be reached"),
        (vec![Fault::DieAt(100_000)], 502, "UNAVAILABLE", "cannot be reached"),
    ];
    for (faults, status, code, sentence) in cases {
        let origin = Origin::start().await;
        let proxy = small(&origin, |_| {}).await;
        let at = anyone(&proxy).begin("a/b").await;
        for fault in &faults {
            origin.fault(On::kind(Kind::Upload).method("PATCH"), fault.clone());
        }
        let answer = anyone(&proxy).patch(&at, layer.bytes()).await;
        assert_eq!(answer.refusal(), (status, code.to_owned()), "{faults:?}");
        assert!(answer.message().contains(sentence), "{faults:?}: {}", answer.message());
        assert_eq!(answer.header("retry-after"), (status == 429).then_some("7"));
        assert_eq!(
            origin.count(|request| request.method == "PATCH"),
            1,
            "nothing is sent twice: {faults:?}"
        );
        if status != 429 {
            nothing_is_left(&proxy, &origin, &layer).await;
        }
    }
}

/// Who writes goes to the registry itself, or nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn no_write_follows_a_redirect() {
    let (origin, elsewhere) = (Origin::start().await, Origin::start().await);
    let proxy = proxy_keeping_pushes(&origin).await;
    let at = anyone(&proxy).begin("a/b").await;
    let image = Image::new(1, &[]);
    for to in [origin.url(), elsewhere.url()] {
        origin.repair();
        origin.fault(On::any(), Fault::Redirect(format!("{to}v2/c/d/blobs/uploads/")));
        let answers = [
            anyone(&proxy).post(&uploads("a/b")).await,
            anyone(&proxy).patch(&at, "bytes").await,
            anyone(&proxy).put(&at, &image.config.digest, Bytes::new()).await,
            anyone(&proxy).delete(&at).await,
            proxy.get(&at).await,
            anyone(&proxy).manifest("a/b", "v1", &image.manifest).await,
            anyone(&proxy).delete(&manifest("a/b", "v1")).await,
        ];
        for answer in answers {
            assert_eq!(answer.refusal(), (502, "UNAVAILABLE".into()));
        }
    }
    assert_eq!(
        (elsewhere.connections(), origin.count(|request| request.repository == "c/d")),
        (0, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_gone_or_refuses_connections_is_said_to_be() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let at = anyone(&proxy).begin("a/b").await;
    origin.stop().await;
    for answer in [
        anyone(&proxy).patch(&at, Blob::seeded(1, LAYER).bytes()).await,
        anyone(&proxy).post(&uploads("a/b")).await,
    ] {
        assert_eq!(answer.refusal(), (502, "UNAVAILABLE".into()));
        assert!(answer.message().contains("cannot be reached"));
    }
    assert_eq!(proxy.staged_files(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_does_not_answer_is_waited_for_so_long_and_no_longer() {
    let layer = Blob::seeded(1, LAYER);
    for fault in [Fault::HoldHead(Gate::new()), Fault::TakeUpTo(100_000, Gate::new())] {
        let origin = Origin::start().await;
        let proxy = small(&origin, |limits| {
            limits.commit = Duration::from_millis(300);
            limits.upstream_idle = Duration::from_millis(300);
            limits.flight_head = Duration::from_secs(2);
        })
        .await;
        let at = anyone(&proxy).begin("a/b").await;
        origin.fault(On::kind(Kind::Upload).method("PATCH"), fault.clone());
        let answer = anyone(&proxy).patch(&at, layer.bytes()).await;
        assert_eq!(answer.refusal(), (504, "UNAVAILABLE".into()), "{fault:?}");
        origin.fault(On::kind(Kind::Manifest), Fault::HoldHead(Gate::new()));
        let image = Image::new(1, &[]);
        let answer = anyone(&proxy).manifest("a/b", "v1", &image.manifest).await;
        assert_eq!(answer.refusal(), (504, "UNAVAILABLE".into()));
        nothing_is_left(&proxy, &origin, &layer).await;
    }
}

/// The answer comes before the body has been read, and reaches a client that is still sending.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_before_the_end_of_the_body_is_the_answer() {
    let origin = Origin::start().await;
    let proxy = small(&origin, |_| {}).await;
    let layer = Blob::seeded(1, 900_000);
    for (status, code) in [(413, "SIZE_INVALID"), (403, "DENIED"), (500, "UNAVAILABLE")] {
        let at = anyone(&proxy).begin("a/b").await;
        origin.fault(
            On::kind(Kind::Upload).method("PATCH"),
            Fault::Instead(status, "text/plain", Bytes::new()),
        );
        origin.fault(On::kind(Kind::Upload).method("PATCH"), Fault::Unread);
        let answer = anyone(&proxy).patch(&at, layer.bytes()).await;
        let expected = if status == 500 { 502 } else { status };
        assert_eq!(answer.refusal(), (expected, code.to_owned()));
        nothing_is_left(&proxy, &origin, &layer).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_without_a_body_are_tried_again_and_bodies_are_not() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let count = |method: &str| origin.count(|request| request.method == method);
    origin.fault(On::kind(Kind::Upload).method("POST").once(), Fault::Status(503));
    let at = anyone(&proxy).begin("a/b").await;
    assert_eq!(count("POST"), 2);
    origin.fault(On::kind(Kind::Upload).method("PUT").once(), Fault::Status(503));
    assert_eq!(anyone(&proxy).put(&at, &Blob::seeded(1, 9).digest, Bytes::new()).await.status, 502);
    assert_eq!(count("PUT"), 1);
    let image = Image::new(1, &[]);
    assert_eq!(anyone(&proxy).blob("a/b", &image.config).await.status, 201);
    origin.fault(On::kind(Kind::Manifest).method("PUT").once(), Fault::Status(503));
    assert_eq!(anyone(&proxy).manifest("a/b", "v1", &image.manifest).await.status, 201);
}

/// The head of a PATCH, with what it says of its body.
fn head(at: &str, says: &str) -> String {
    format!("PATCH {at} HTTP/1.1\r\nHost: localhost\r\n{says}\r\n\r\n")
}

async fn answer(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _reset_is_an_end_too = soon("an answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_upload_with_it() {
    let origin = Origin::start().await;
    let proxy = small(&origin, |_| {}).await;
    let layer = Blob::seeded(1, LAYER);
    for says in ["Content-Length: 300000", "Transfer-Encoding: chunked"] {
        let at = anyone(&proxy).begin("a/b").await;
        let mut stream = proxy.connect().await;
        let (first, chunk) = (layer.content.slice(0..100_000), "186a0\r\n");
        let chunk = if says.starts_with("Content") { "" } else { chunk };
        stream.write_all((head(&at, says) + chunk).as_bytes()).await.expect("it reads");
        stream.write_all(&first).await.expect("it reads");
        eventually("the bytes are on disk", || proxy.staged_files() == 1).await;
        drop(stream);
        proxy.settled().await;
        eventually("no file is left", || proxy.staged_files() == 0).await;
        // The registry never sees an end that there was not.
        assert_eq!(
            origin.count(|request| request.method == "PATCH" && request.received > 0),
            0,
            "{says}"
        );
        let status = proxy.get(&at).await;
        assert_eq!((status.status, status.header("range")), (204, Some("0-0")));
        assert_eq!(
            anyone(&proxy).put(&location(&status), &layer.digest, layer.bytes()).await.status,
            201
        );
        origin.remove_blob("a/b", &layer.digest);
        assert!(!proxy.has_stored(&layer.digest), "it goes on without the cache");
    }
    nothing_is_left(&proxy, &origin, &layer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stalls_is_told_and_let_go() {
    let origin = Origin::start().await;
    let proxy = small(&origin, |limits| limits.receive_idle = Duration::from_millis(200)).await;
    let layer = Blob::seeded(1, LAYER);
    let at = anyone(&proxy).begin("a/b").await;
    let mut stream = proxy.connect().await;
    stream.write_all(head(&at, "Content-Length: 300000").as_bytes()).await.expect("it reads");
    stream.write_all(&layer.content.slice(0..100_000)).await.expect("it reads");
    let told = answer(stream).await;
    assert!(
        told.starts_with("HTTP/1.1 408 ") && told.contains("sent nothing for too long"),
        "{told}"
    );
    let mut stream = proxy.connect().await;
    let put = format!(
        "PUT {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: a/b\r\nContent-Length: 9\r\n\r\n{{",
        manifest("a/b", "v1")
    );
    stream.write_all(put.as_bytes()).await.expect("it reads");
    let told = answer(stream).await;
    assert!(told.starts_with("HTTP/1.1 408 "), "{told}");
    nothing_is_left(&proxy, &origin, &layer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_another_number_of_bytes_than_announced_is_not_believed() {
    let origin = Origin::start().await;
    let proxy = small(&origin, |_| {}).await;
    let layer = Blob::seeded(1, 1_000);
    let body = layer.bytes();
    for (says, end) in [("Content-Length: 2000", ""), ("Transfer-Encoding: chunked", "x\r\n")] {
        let at = anyone(&proxy).begin("a/b").await;
        let mut stream = proxy.connect().await;
        let chunk = if end.is_empty() { "" } else { "3e8\r\n" };
        stream.write_all((head(&at, says) + chunk).as_bytes()).await.expect("it reads");
        stream.write_all(&body).await.expect("it reads");
        stream.write_all(end.as_bytes()).await.expect("it reads");
        stream.shutdown().await.expect("a half that is closed");
        let told = answer(stream).await;
        assert!(told.is_empty() || told.starts_with("HTTP/1.1 400 "), "{says}: {told}");
        let status = proxy.get(&at).await;
        assert_eq!((status.status, status.header("range")), (204, Some("0-0")), "{says}");
    }
    // More than that is another request, and none.
    let at = anyone(&proxy).begin("a/b").await;
    let asked = writes(&origin);
    let mut request = head(&at, "Content-Length: 1000").into_bytes();
    request.extend_from_slice(&body);
    request.extend_from_slice(b"more\r\n\r\n");
    let told = String::from_utf8_lossy(&request_answers(&proxy, &request).await).into_owned();
    assert!(told.starts_with("HTTP/1.1 202 "), "{told}");
    assert_eq!(
        (told.matches("HTTP/1.1 ").count(), told.matches("HTTP/1.1 400 ").count()),
        (2, 1),
        "{told}"
    );
    assert_eq!(writes(&origin), asked + 1);
    nothing_staged_but(&proxy, 1).await;
}

async fn request_answers(proxy: &Proxy, bytes: &[u8]) -> Vec<u8> {
    proxy.raw(bytes).await.into_bytes()
}

async fn nothing_staged_but(proxy: &Proxy, files: usize) {
    eventually("the rest is gone", || proxy.staged_files() == files).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monolithic_upload_that_the_registry_does_not_know_goes_on_as_another() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let layer = Blob::seeded(1, LAYER);
    let begun = anyone(&proxy)
        .send(Method::POST, &ending(&uploads("a/b"), &layer.digest), &[], layer.bytes())
        .await;
    assert_eq!(begun.status, 202);
    assert_eq!(
        anyone(&proxy).put(&location(&begun), &layer.digest, layer.bytes()).await.status,
        201
    );
    assert_eq!(proxy.get(&blob("a/b", &layer.digest)).await.body, layer.bytes());
    assert_eq!(origin.blob_gets(&layer.digest), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_takes_no_pushes_can_be_pulled_from_and_the_other_way() {
    let image = Image::new(1, &[1000]);
    for status in [500, 503, 507, 429] {
        let origin = Origin::with("a/b", "v1", &image).await;
        let proxy = proxy_keeping_pushes(&origin).await;
        for method in ["POST", "PUT"] {
            origin.fault(On::any().method(method), Fault::Status(status));
        }
        for _ in 0..4 {
            assert!(anyone(&proxy).post(&uploads("c/d")).await.status >= 429, "{status}");
            let put = anyone(&proxy).manifest("c/d", "v1", &image.manifest).await;
            assert!(put.status >= 429, "{status}");
        }
        assert_eq!(proxy.get(&manifest("a/b", "v1")).await.status, 200, "{status}");
        let layer = &image.layers[0].digest;
        assert_eq!(proxy.get(&blob("a/b", layer)).await.status, 200, "{status}");

        origin.repair();
        let proxy = proxy_keeping_pushes(&origin).await;
        for method in ["GET", "HEAD"] {
            origin.fault(On::any().method(method), Fault::Status(status));
        }
        for n in 0..4 {
            let answer = proxy.get(&manifest("a/b", format!("v{n}"))).await;
            assert!(answer.status >= 429, "{status}");
        }
        assert_eq!(anyone(&proxy).post(&uploads("c/d")).await.status, 202, "{status}");
        assert_eq!(proxy.metric("roadstead_upstream_breaker_open", &[]), 0, "{status}");
    }
}
