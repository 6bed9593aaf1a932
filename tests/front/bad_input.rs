//! Input that no client of ours sends: a clear 4xx, nothing stored, nothing asked, and no way to
//! smuggle.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::eventually;
use crate::support::image::Image;
use crate::support::origin::{Kind, Origin};
use crate::support::proxy::{Proxy, blob};
use crate::support::soon;

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

fn status(answer: &str) -> u16 {
    let word = answer.split(' ').nth(1).unwrap_or_else(|| panic!("no status line: {answer:?}"));
    word.parse().expect("a status is a number")
}

/// How many answers came over one connection.
fn answers(text: &str) -> usize {
    text.matches("HTTP/1.").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_are_no_names_are_refused_and_reach_nobody() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    let hex = "0".repeat(64);
    for path in [
        "/v2/a/../b/manifests/v1",
        "/v2/../../etc/passwd",
        "/v2/a%2fb/manifests/v1",
        "/v2/a%2Fb/manifests/v1",
        "/v2/%61/manifests/v1",
        "/v2/a//b/manifests/v1",
        "/v2//manifests/v1",
        "/v2/a;x/manifests/v1",
        "/v2/a\\b/manifests/v1",
        "/v2/a/manifests/v1%00",
        "/v2/a/manifests/..",
        "/v2/a/manifests/",
        "/v2/a/blobs/",
        "/v2/a/blobs/sha256:../../../../etc/passwd",
        &format!("/v2/a/blobs/sha256:{hex}/x"),
        &format!("/v2/a/blobs/sha256%3A%30{}", &hex[1..]),
        "/v2/a/tags/list?n=1&n=2x",
        "/v2/a/manifests/v1?ns=%00",
        "/v2/a/manifests/v1?ns=..%2f..",
        "/v2/.a/manifests/v1",
        "/v2/a\u{e9}/manifests/v1",
        "//evil.example/v2/",
        "*",
    ] {
        let answer = proxy.raw(get(path).as_bytes()).await;
        assert!((400..500).contains(&status(&answer)), "{path}: {answer}");
        assert_eq!(origin.connections(), 0, "{path}: {answer}");
    }
    assert_eq!((origin.connections(), proxy.metric("roadstead_store_blobs", &[])), (0, 0));
    assert_eq!(proxy.get("/v2/").await.status, 200, "and it still serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_made_of_keywords_are_read_from_the_right() {
    let image = Image::new(1, &[10]);
    let origin = Origin::with("manifests/blobs/tags", "list", &image).await;
    let proxy = Proxy::of(&origin).await;
    assert_eq!(
        proxy.get("/v2/manifests/blobs/tags/manifests/list").await.body,
        image.manifest.bytes
    );
    assert_eq!(proxy.get("/v2/manifests/blobs/tags/tags/list").await.status, 200);
    assert_eq!(proxy.get(&blob("manifests/blobs/tags", &image.layers[0].digest)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_on_a_get_ends_the_connection() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    for request in [
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
        "HEAD /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\nExpect: 100-continue\r\n\r\n",
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 41\r\n\r\nGET /v2/x HTTP/1.1\r\nHost: localhost\r\n\r\n..",
    ] {
        let answer = proxy.raw(request.as_bytes()).await;
        assert_eq!((status(&answer), answers(&answer)), (400, 1), "{request:?}: {answer}");
    }
    let empty =
        "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&proxy.raw(empty.as_bytes()).await), 200, "no bytes are no body");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_on_a_write_is_not_read_as_another_request() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    let hidden = "GET /v2/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let request = format!(
        "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{hidden}",
        hidden.len()
    );
    let answer = proxy.raw(request.as_bytes()).await;
    assert_eq!((status(&answer), answers(&answer)), (405, 1), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn shapes_that_two_servers_could_read_differently_are_refused() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    let hidden = "GET /v2/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for head in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 4",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: +4",
        "Content-Length: 4x",
        "Content-Length: -1",
        "Content-Length: 99999999999999999999999",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
        "Bad Header: x",
        "X: a\0b",
    ] {
        for method in ["GET", "POST"] {
            let request = format!(
                "{method} /v2/ HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n0\r\n\r\n{hidden}"
            );
            let answer = proxy.raw(request.as_bytes()).await;
            assert!((400..500).contains(&status(&answer)), "{method} {head:?}: {answer}");
            assert_eq!(answers(&answer), 1, "{method} {head:?}: {answer}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_refused() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"hello\r\n\r\n",
        b"GET /v2/ HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
    ] {
        let answer = proxy.raw(bytes).await;
        assert!(answer.is_empty() || (400..506).contains(&status(&answer)), "{bytes:?}: {answer}");
    }
    assert_eq!(proxy.get("/v2/").await.status, 200, "and it still serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_end_is_refused() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    let large =
        format!("GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET /v2/ HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(10_000));
    let long = format!("GET /v2/{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(1 << 20));
    for (what, request) in
        [("a large header", large), ("many headers", many), ("a long path", long)]
    {
        let answer = proxy.raw(request.as_bytes()).await;
        // The connection may be reset while the client is still writing.
        assert!(answer.is_empty() || (400..500).contains(&status(&answer)), "{what}: {answer}");
        assert!(answers(&answer) <= 1, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_in_absolute_form_dials_nobody() {
    let (origin, canary) = (Origin::start().await, Origin::start().await);
    let proxy = Proxy::of(&origin).await;
    for target in [format!("http://{}/v2/a/b/manifests/v1", canary.authority()), canary.authority()]
    {
        for method in ["GET", "CONNECT"] {
            let request = format!(
                "{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
                canary.authority()
            );
            let answer = proxy.raw(request.as_bytes()).await;
            assert!((400..500).contains(&status(&answer)), "{method} {target}: {answer}");
        }
    }
    assert_eq!(canary.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start().await;
    let layer = origin.blob("a/b", 1, 5);
    let proxy = Proxy::of(&origin).await;
    let path = blob("a/b", &layer.digest);
    let both = format!(
        "HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\nHEAD /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n{}",
        get("/v2/nothing")
    );
    let answer = proxy.raw(both.as_bytes()).await;
    let lines: Vec<&str> = answer.lines().filter(|line| line.starts_with("HTTP/1.1")).collect();
    assert_eq!(lines, ["HTTP/1.1 200 OK", "HTTP/1.1 200 OK", "HTTP/1.1 404 Not Found"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_nothing_is_let_go() {
    let origin = Origin::start().await;
    let mut setup = crate::support::proxy::Setup::of(&origin);
    setup.limits.request_idle = std::time::Duration::from_millis(100);
    let proxy = setup.start().await;
    for said in ["", "GET /v2/ HT"] {
        let mut stream = proxy.connect().await;
        stream.write_all(said.as_bytes()).await.expect("the proxy reads");
        let mut rest = Vec::new();
        let _reset_is_an_end_too =
            soon("the end of a silent connection", stream.read_to_end(&mut rest)).await;
    }
    eventually("both are gone", || proxy.metric("roadstead_http_connections", &[]) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_not_taken() {
    let origin = Origin::start().await;
    let proxy = Proxy::of(&origin).await;
    let request = "GET /v2/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    let mut stream = proxy.connect().await;
    stream.write_all(request.as_bytes()).await.expect("the proxy reads");
    let mut first = [0; 12];
    soon("the status", stream.read_exact(&mut first)).await.expect("an answer");
    assert_eq!(&first, b"HTTP/1.1 200");
    assert_eq!(origin.count(|request| request.kind == Kind::Ping), 0);
}
