//! Manifests and forms of one connection, which are read one after the other: whose time it is that
//! passes meanwhile, and for how long the memory of one is held.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, Response};
use roadstead::config::Writes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::http_2::http_2;
use crate::support::image::{Manifest, OCI_MANIFEST};
use crate::support::origin::{Fault, Gate, Kind, On, Origin};
use crate::support::proxy::{Proxy, Setup, manifest};
use crate::support::push::open_to_all;
use crate::support::tls::{Authority, tls};
use crate::support::{eventually, soon};

/// A proxy to push through over HTTP/2, and a registry that answers a manifest when told to.
async fn slow_registry(
    origin: &Origin,
    adjust: impl FnOnce(&mut Setup),
) -> (Proxy, Authority, Gate) {
    let gate = Gate::new();
    origin.fault(On::kind(Kind::Manifest).method("PUT").once(), Fault::HoldHead(gate.clone()));
    let (mut setup, authority) = (open_to_all(origin, Writes::Kept), Authority::new());
    setup.config.tls = Some(tls(&setup, &authority, None));
    adjust(&mut setup);
    (setup.start().await, authority, gate)
}

fn small(number: usize) -> Manifest {
    let document = format!(r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","x":{number}}}"#);
    Manifest::new(OCI_MANIFEST, document)
}

/// Sends all of a body, of a length that is not announced.
fn send(
    send: &SendRequest<Bytes>,
    (method, path): (Method, String),
    body: Bytes,
) -> JoinHandle<Response<h2::RecvStream>> {
    let send = send.clone();
    tokio::spawn(async move {
        let request = Request::builder().method(method).uri(format!("https://registry.test{path}"));
        let request = request.header("content-type", OCI_MANIFEST).body(()).expect("a request");
        let mut send = send.ready().await.expect("room for a stream");
        let (answer, mut stream) = send.send_request(request, false).expect("sent");
        stream.send_data(body, true).expect("queued");
        answer.await.expect("an answer")
    })
}

fn put(tag: &str) -> (Method, String) {
    (Method::PUT, manifest("a/b", tag))
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_too_long_for_its_turn_is_told_to_try_again() {
    let origin = Origin::start().await;
    let (proxy, authority, gate) = slow_registry(&origin, |setup| {
        setup.limits.body_turn = Duration::from_millis(200);
    })
    .await;
    let (client, _driver) = http_2(&proxy, &authority, 65_535).await;
    let first = send(&client, put("v1"), small(1).bytes.clone());
    eventually("the registry has it", || gate.reached() == 1).await;
    for (to, body) in [(put("v2"), small(2).bytes), ((Method::POST, "/token".into()), "x=y".into())]
    {
        let told =
            soon("an answer", send(&client, to.clone(), body.clone())).await.expect("no panic");
        let retry = told.headers().get("retry-after").map(|value| value.to_str().expect("text"));
        assert_eq!((told.status().as_u16(), retry), (503, Some("1")), "{to:?}");
    }
    gate.open();
    assert_eq!(soon("the first", first).await.expect("no panic").status(), 201);
    let again = soon("again", send(&client, put("v2"), small(2).bytes.clone())).await;
    assert_eq!(again.expect("no panic").status(), 201);
}

/// That the time of the second is over is told by that of another client, which began later.
#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_client_begins_with_its_turn() {
    let origin = Origin::start().await;
    let (proxy, authority, gate) = slow_registry(&origin, |setup| {
        setup.limits.receive_idle = Duration::from_secs(1);
    })
    .await;
    let (client, _driver) = http_2(&proxy, &authority, 65_535).await;
    let first = send(&client, put("v1"), small(1).bytes.clone());
    eventually("the registry has it", || gate.reached() == 1).await;
    let second = send(&client, put("v2"), small(2).bytes.clone());
    eventually("the second waits", || proxy.metric("roadstead_http_requests_in_flight", &[]) == 2)
        .await;
    let (silent, _driver) = http_2(&proxy, &authority, 65_535).await;
    let request = Request::put(format!("https://registry.test{}", manifest("a/b", "v3")));
    let request = request.header("content-type", OCI_MANIFEST).body(()).expect("a request");
    let mut silent = silent.ready().await.expect("room for a stream");
    let (answer, _body) = silent.send_request(request, false).expect("sent");
    assert_eq!(soon("an answer", answer).await.expect("an answer").status(), 408);
    gate.open();
    for answer in [first, second] {
        assert_eq!(soon("an answer", answer).await.expect("no panic").status(), 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_keeps_its_memory_until_the_registry_has_it_though_its_client_leaves() {
    let origin = Origin::start().await;
    let gate = Gate::new();
    origin.fault(On::kind(Kind::Manifest).method("PUT"), Fault::HoldHead(gate.clone()));
    let mut setup = open_to_all(&origin, Writes::Kept);
    setup.limits.answers = 1 << 20;
    let proxy = setup.start().await;
    let waiting = || proxy.metric("roadstead_http_waiting_bytes", &[]);
    let padding = " ".repeat(600_000);
    for (tag, expected) in [("v1", "gone"), ("v2", "HTTP/1.1 503")] {
        let mut stream = proxy.connect().await;
        let head = format!(
            "PUT {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {OCI_MANIFEST}\r\nContent-Length: 600019\r\n\r\n",
            manifest("a/b", tag)
        );
        let document = format!(r#"{{"schemaVersion":2}}{padding}"#);
        stream.write_all(head.as_bytes()).await.expect("it reads");
        stream.write_all(document.as_bytes()).await.expect("it reads");
        if expected == "gone" {
            eventually("the registry has it", || gate.reached() == 1).await;
            drop(stream);
            proxy.settled().await;
            assert_eq!(waiting(), 600_019);
        } else {
            let mut told = [0; 12];
            soon("the answer", stream.read_exact(&mut told)).await.expect("an answer");
            assert_eq!(String::from_utf8_lossy(&told), expected);
        }
    }
    gate.open();
    eventually("nothing waits", || waiting() == 0).await;
}
