//! How much of a body is read, and when: not before it is allowed, and no faster than the registry
//! takes it.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use roadstead::config::{Allow, Writes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::content::Blob;
use crate::support::image::{Manifest, OCI_MANIFEST};
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, manifest};
use crate::support::push::{anyone, open_to_all, proxy_keeping_pushes, streamed, uploads};
use crate::support::{eventually, soon};

/// Writes until nothing is taken for a while; how much was taken.
async fn write_until_stuck(stream: &mut TcpStream, most: usize) -> usize {
    let piece = vec![7; 64 * 1024];
    let mut written = 0;
    while written < most {
        match tokio::time::timeout(Duration::from_millis(700), stream.write(&piece)).await {
            Ok(taken) => written += taken.expect("the connection stands"),
            Err(_) => return written,
        }
    }
    written
}

/// Socket buffers of two connections and a few pieces; the rest of 1 GiB stays with the client.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_takes_nothing_holds_up_its_client() {
    let origin = Origin::start().await;
    let mut setup = open_to_all(&origin, Writes::Kept);
    setup.limits.upstream_idle = Duration::from_secs(3);
    let proxy = setup.start().await;
    let (at, gate) = (anyone(&proxy).begin("a/b").await, Gate::new());
    origin.fault(On::kind(Kind::Upload).method("PATCH"), Fault::TakeUpTo(0, gate.clone()));
    let mut stream = proxy.connect().await;
    let head = format!(
        "PATCH {at} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        1_u64 << 30
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let taken = write_until_stuck(&mut stream, 64 << 20).await;
    println!("{taken} bytes were taken from the client");
    assert!(taken < 24 << 20, "{taken}");
    let ours = proxy.metric("roadstead_pushed_bytes_total", &[]);
    println!("{ours} bytes were read by the proxy");
    // Four pieces that wait, one in hand; what the kernel holds towards the registry.
    assert!(ours < 10 << 20, "{ours}");
    drop(stream);
    proxy.settled().await;
    eventually("no file is left", || proxy.staged_files() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_takes_its_time_gets_everything() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let layer = Blob::seeded(1, 6 << 20);
    origin.fault(On::kind(Kind::Upload).method("PUT"), Fault::TakeRate(8 << 20));
    assert_eq!(anyone(&proxy).blob("a/b", &layer).await.status, 201);
    assert!(proxy.has_stored(&layer.digest));
}

/// The head alone, as a client does that waits to be asked for the body.
async fn expecting(proxy: &Proxy, method: &str, path: &str, length: usize) -> (TcpStream, String) {
    let mut stream = proxy.connect().await;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {OCI_MANIFEST}\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let mut first = vec![0; 4096];
    let read = soon("an answer", stream.read(&mut first)).await.expect("an answer");
    (stream, String::from_utf8_lossy(&first[..read]).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_is_asked_for_only_once_it_is_allowed() {
    let origin = Origin::start().await;
    let mut setup = open_to_all(&origin, Writes::Kept);
    setup.config.access.rules[0].images =
        vec![roadstead::oci::Pattern::parse("registry.test/a/**").expect("a glob")];
    let proxy = setup.start().await;
    let layer = Blob::seeded(1, 100_000);
    let at = anyone(&proxy).begin("a/b").await;
    let (mut stream, first) = expecting(&proxy, "PATCH", &at, 100_000).await;
    assert_eq!(first, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&layer.bytes()).await.expect("it reads");
    let mut answer = vec![0; 4096];
    let read = soon("an answer", stream.read(&mut answer)).await.expect("an answer");
    assert!(answer[..read].starts_with(b"HTTP/1.1 202 "));

    let asked = origin.requests().len();
    let manifests = manifest("a/b", "v1");
    for (method, path, length, status) in [
        ("PATCH", uploads("b/c") + "x", 100_000, "404"),
        ("PUT", manifest("b/c", "v1"), 100, "404"),
        ("PATCH", uploads("a/b") + "x", 100_000, "404"),
        ("PUT", format!("{at}?digest=x"), 100_000, "400"),
        ("PUT", manifests, (4 << 20) + 1, "413"),
    ] {
        let (mut stream, mut first) = expecting(&proxy, method, &path, length).await;
        assert!(first.starts_with(&format!("HTTP/1.1 {status} ")), "{method} {path}: {first}");
        soon("the end", stream.read_to_string(&mut first)).await.expect("the connection ends");
        assert!(!first.contains("100 Continue"), "{first}");
    }
    assert_eq!(origin.requests().len(), asked, "nobody was asked");
}

/// Piece by piece, so that a connection that is closed before the end is met while writing.
async fn write_slowly(stream: &mut TcpStream, body: &[u8]) {
    for piece in body.chunks(64 * 1024) {
        stream.write_all(piece).await.expect("it reads all of it");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A client that writes first and reads then.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_body_does_not_cost_the_answer() {
    let origin = Origin::start().await;
    let mut setup = open_to_all(&origin, Writes::Kept);
    setup.config.access.rules[0].allow = Allow { pull: true, ..Allow::default() };
    let proxy = setup.start().await;
    // A little more than a manifest may have is read, too.
    for (length, chunked) in
        [(512 * 1024, false), (512 * 1024, true), ((4 << 20) + 1, false), ((4 << 20) + 1, true)]
    {
        let body = vec![7; length];
        let mut stream = proxy.connect().await;
        let says = if chunked {
            "Transfer-Encoding: chunked".to_owned()
        } else {
            format!("Content-Length: {length}")
        };
        let head =
            format!("PUT {} HTTP/1.1\r\nHost: localhost\r\n{says}\r\n\r\n", manifest("a/b", "v1"));
        stream.write_all(head.as_bytes()).await.expect("it reads");
        if chunked {
            stream.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await.expect("it reads");
        }
        write_slowly(&mut stream, &body).await;
        if chunked {
            stream.write_all(b"\r\n0\r\n\r\n").await.expect("it reads all of it");
        }
        let mut answer = vec![0; 4096];
        let read = soon("an answer", stream.read(&mut answer)).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        assert!(
            answer.starts_with("HTTP/1.1 404 ") || answer.starts_with("HTTP/1.1 401 "),
            "{answer}"
        );
    }
    assert_eq!(origin.connections(), 0);
}

/// It has been asked for the body by then, so that it is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_was_asked_for_and_is_refused_does_not_cost_the_answer_either() {
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let at = anyone(&proxy).begin("a/b").await;
    for fault in [Fault::Instead(413, "text/plain", Bytes::new()), Fault::Unread] {
        origin.fault(On::kind(Kind::Upload).method("PATCH"), fault);
    }
    let body = vec![7; 512 * 1024];
    let (mut stream, first) = expecting(&proxy, "PATCH", &at, body.len()).await;
    let mut answer =
        first.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").expect("it is asked for").to_owned();
    write_slowly(&mut stream, &body).await;
    if answer.is_empty() {
        let mut read = vec![0; 4096];
        let length = soon("an answer", stream.read(&mut read)).await.expect("an answer");
        answer = String::from_utf8_lossy(&read[..length]).into_owned();
    }
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

/// A manifest of exactly so many bytes.
fn sized(bytes: usize) -> Manifest {
    let document = |padding: &str| {
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","layers":[],"annotations":{{"x":"{padding}"}}}}"#
        )
    };
    Manifest::new(OCI_MANIFEST, document(&"x".repeat(bytes - document("").len())))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_four_mebibytes_passes_and_a_byte_more_does_not() {
    const LIMIT: usize = 4 << 20;
    let origin = Origin::start().await;
    let proxy = proxy_keeping_pushes(&origin).await;
    let largest = sized(LIMIT);
    assert_eq!(anyone(&proxy).manifest("a/b", "v1", &largest).await.status, 201);
    assert_eq!(proxy.get(&manifest("a/b", "v1")).await.body, largest.bytes);
    let asked = origin.requests().len();
    let beyond = sized(LIMIT + 1);
    let refused = anyone(&proxy).manifest("a/b", "v2", &beyond).await;
    assert_eq!(refused.refusal(), (413, "SIZE_INVALID".into()));
    let headers = [("content-type", OCI_MANIFEST)];
    let content = crate::support::content::Content::given(beyond.bytes.clone());
    let streamed = streamed(&content);
    let refused =
        anyone(&proxy).send(Method::PUT, &manifest("a/b", "v2"), &headers, streamed).await;
    assert_eq!(refused.refusal(), (413, "SIZE_INVALID".into()));
    assert_eq!(
        (origin.requests().len(), origin.count(|r| r.body == Bytes::new() && r.method == "PUT")),
        (asked, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_never_end_take_no_more_than_all_memory_and_others_are_told() {
    let origin = Origin::start().await;
    let mut setup = open_to_all(&origin, Writes::Kept);
    setup.limits.answers = 1 << 20;
    let proxy = setup.start().await;
    let waiting = || proxy.metric("roadstead_http_waiting_bytes", &[]);
    let head = format!(
        "PUT {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: a/b\r\nContent-Length: 4000000\r\n\r\n",
        manifest("a/b", "v1")
    );
    let part = vec![b' '; 400_000];
    let mut kept = Vec::new();
    for count in 1..=2 {
        let mut stream = proxy.connect().await;
        stream.write_all(head.as_bytes()).await.expect("it reads");
        stream.write_all(&part).await.expect("it reads");
        eventually("it is read", || waiting() == count * 400_000).await;
        kept.push(stream);
    }
    let mut third = proxy.connect().await;
    third.write_all(head.as_bytes()).await.expect("it reads");
    third.write_all(&part).await.expect("it reads");
    let mut told = [0; 12];
    soon("the answer", third.read_exact(&mut told)).await.expect("an answer");
    assert_eq!(&told, b"HTTP/1.1 503");
    // Small ones find room, and all do once the large ones are gone.
    let small = Manifest::new(OCI_MANIFEST, r#"{"schemaVersion":2}"#.to_owned());
    assert_eq!(anyone(&proxy).manifest("a/b", "v1", &small).await.status, 201);
    drop(kept);
    eventually("nothing waits", || waiting() == 0).await;
}
