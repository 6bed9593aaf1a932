//! All places for connections taken: those that do nothing give way, and health is always told.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob};
use crate::support::{eventually, soon};

const PLACES: usize = 8;

/// The status of a ping on a connection that stays open.
async fn ping(stream: &mut TcpStream) -> String {
    stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it reads");
    let mut answer = vec![0; 4096];
    let count = soon("an answer", stream.read(&mut answer)).await.expect("an answer");
    String::from_utf8_lossy(&answer[..count.min(12)]).into_owned()
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    !matches!(soon("the end", stream.read(&mut [0; 4096])).await, Ok(count) if count > 0)
}

fn open(proxy: &Proxy) -> i64 {
    proxy.metric("roadstead_http_connections", &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_give_way_to_whoever_asks_and_the_busy_stay() {
    let origin = Origin::start().await;
    let slow = origin.blob("a/b", 1, 2_000_000);
    let gate = origin.hold_at(&slow.digest, 1_000_000);
    let mut setup = Setup::of(&origin);
    setup.limits.connections = PLACES;
    let proxy = setup.start().await;
    let mut busy = proxy.connect().await;
    let path = blob("a/b", &slow.digest);
    let get = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    busy.write_all(get.as_bytes()).await.expect("it reads");
    let mut status = [0; 12];
    soon("the head", busy.read_exact(&mut status)).await.expect("an answer");
    let mut silent = Vec::new();
    for index in 1..PLACES {
        let mut stream = proxy.connect().await;
        if index % 2 == 0 {
            stream.write_all(b"GET /v2/ HTTP/1.1\r\nHost: localho").await.expect("it reads");
        }
        silent.push(stream);
    }
    eventually("all places are taken", || open(&proxy) == 8).await;
    for _ in 0..3 * PLACES {
        let mut one = proxy.connect().await;
        assert_eq!(ping(&mut one).await, "HTTP/1.1 200");
        silent.push(one);
    }
    for stream in &mut silent[..PLACES - 1] {
        assert!(is_closed(stream).await, "the longest silent ones are gone");
    }
    gate.open();
    let mut rest = Vec::new();
    soon("the slow one", busy.read_to_end(&mut rest)).await.expect("all of it");
    assert!(rest.len() > 2_000_000, "{}", rest.len());
}

/// A connection from this address, that asks for `path`.
async fn ask_from(proxy: &Proxy, from: &str, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(format!("{from}:0").parse().expect("an address")).expect("a free port");
    let mut stream =
        socket.connect(proxy.authority().parse().expect("an address")).await.expect("it listens");
    let get = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(get.as_bytes()).await.expect("it reads");
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_above_a_quarter_gives_way_and_a_trusted_proxy_does_not() {
    let origin = Origin::start().await;
    let slow = origin.blob("a/b", 1, 2_000_000);
    for (trusted, stays) in [("127.0.0.9/32", false), ("127.0.0.2/32", true)] {
        let gate = origin.hold_at(&slow.digest, 1_000_000);
        let mut setup = Setup::of(&origin);
        setup.limits.connections = PLACES;
        setup.config.access.trusted_proxies = vec![trusted.parse().expect("a network")];
        let proxy = setup.start().await;
        let path = blob("a/b", &slow.digest);
        let mut busy = Vec::new();
        for _ in 0..PLACES {
            let mut stream = ask_from(&proxy, "127.0.0.2", &path).await;
            let mut status = [0; 12];
            soon("the head", stream.read_exact(&mut status)).await.expect("an answer");
            busy.push(stream);
        }
        let mut comes = ask_from(&proxy, "127.0.0.3", "/v2/").await;
        let mut answer = [0; 12];
        if !stays {
            soon("its answer", comes.read_exact(&mut answer)).await.expect("an answer");
        }
        gate.open();
        let mut whole = 0;
        for mut stream in busy {
            let mut rest = Vec::new();
            let _cut_or_whole = soon("its end", stream.read_to_end(&mut rest)).await;
            whole += usize::from(rest.len() > 2_000_000);
        }
        assert_eq!(whole, if stays { PLACES } else { PLACES - 1 }, "{trusted}");
        if stays {
            soon("its answer", comes.read_exact(&mut answer)).await.expect("an answer");
        }
        assert_eq!(&answer, b"HTTP/1.1 200");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_has_so_long_and_later_ones_the_time_between_two() {
    let origin = Origin::start().await;
    let mut setup = Setup::of(&origin);
    setup.limits.first_request = Duration::from_millis(300);
    let proxy = setup.start().await;
    let mut asked = proxy.connect().await;
    assert_eq!(ping(&mut asked).await, "HTTP/1.1 200");
    let (mut silent, mut partly) = (proxy.connect().await, proxy.connect().await);
    partly.write_all(b"GET /v2/ HTTP/1.1\r\nHost: l").await.expect("it reads");
    assert!(is_closed(&mut silent).await && is_closed(&mut partly).await);
    assert_eq!(ping(&mut asked).await, "HTTP/1.1 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_however_many_hold_connections_to_the_admin_listener() {
    let origin = Origin::start().await;
    let proxy = Setup::of(&origin).start().await;
    let mut held = Vec::new();
    for index in 0..200 {
        let mut stream = proxy.connect_admin().await;
        if index % 3 == 0 {
            stream
                .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                .await
                .expect("it reads");
        }
        held.push(stream);
    }
    for path in ["/healthz", "/metrics"] {
        assert_eq!(proxy.admin(path).await.status, 200);
    }
}
