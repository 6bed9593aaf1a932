//! HTTP/2: every connection and every stream has an end, whatever its client does, and none of them
//! disturbs another.

use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::client::SendRequest;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, Setup, blob};
use crate::support::tls::{Authority, for_http_2, tls};
use crate::support::{eventually, soon};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// Kinds of frames and flags, RFC 9113 §6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

pub(crate) const SHORT: Duration = Duration::from_millis(200);

/// A setup with TLS, and who vouches for it.
pub(crate) fn encrypted(origin: &Origin) -> (Setup, Authority) {
    let mut setup = Setup::of(origin);
    let authority = Authority::new();
    setup.config.tls = Some(tls(&setup, &authority, None));
    (setup, authority)
}

/// A well-behaved connection and its driver. The windows are this client's; that of the connection
/// leaves room beside a stream whose own is full.
pub(crate) async fn http_2(
    proxy: &Proxy,
    trusts: &Authority,
    stream_window: u32,
) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(stream_window).initial_connection_window_size(1 << 20);
    let stream = for_http_2(proxy, trusts).await;
    let (send, connection) = builder.handshake(stream).await.expect("HTTP/2");
    (send, tokio::spawn(connection))
}

const WINDOW: u32 = 65_535;

pub(crate) async fn open(send: &SendRequest<Bytes>, path: &str) -> h2::RecvStream {
    let request =
        http::Request::get(format!("https://registry.test{path}")).body(()).expect("a request");
    let mut send = send.clone().ready().await.expect("room for a stream");
    let (response, _) = send.send_request(request, true).expect("sent");
    let response = response.await.expect("an answer");
    assert_eq!(response.status(), 200);
    response.into_body()
}

pub(crate) async fn read(mut body: h2::RecvStream, most: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < most
        && let Some(piece) = body.data().await
    {
        let piece = piece.expect("a piece");
        body.flow_control().release_capacity(piece.len()).expect("capacity that was used");
        bytes.extend_from_slice(&piece);
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn on_one_http_2_connection_a_reader_that_stops_holds_up_nobody() {
    let image = Image::new(1, &[3_000_000, 2_000_000]);
    let origin = Origin::with("library/a", "1", &image).await;
    let (setup, authority) = encrypted(&origin);
    let proxy = setup.start().await;
    let (send, _driver) = http_2(&proxy, &authority, WINDOW).await;
    let path = |i: usize| format!("/v2/library/a/blobs/{}", image.layers[i].digest);
    for _cold_then_warm in 0..2 {
        let mut stopped = open(&send, &path(0)).await;
        // Its first piece is taken and never given back, so that its window of 64 KiB fills up.
        let first = stopped.data().await.expect("a piece").expect("bytes");
        let whole = soon("the other blob", read(open(&send, &path(1)).await, usize::MAX)).await;
        assert!(whole == image.layers[1].bytes() && !first.is_empty());
    }
    let stopped = soon("the blob", read(open(&send, &path(0)).await, usize::MAX)).await;
    assert!(stopped == image.layers[0].bytes());
}

/// What a stream ends with: all its bytes, or a reset.
async fn end(mut body: h2::RecvStream) -> Result<usize, Option<Reason>> {
    let mut count = 0;
    while let Some(piece) = soon("a piece or the end", body.data()).await {
        count += piece.map_err(|error| error.reason())?.len();
    }
    Ok(count)
}

/// Of a small blob everything is in hyper's hands at once; of a large one it asks for more; with no
/// window it never gets as far as that.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_reader_stops_is_reset_and_only_that_stream() {
    let image = Image::new(1, &[3_000_000, 200_000]);
    let origin = Origin::with("library/a", "1", &image).await;
    let slow = origin.blob("library/a", 9, 2_000_000);
    let gate = origin.hold_at(&slow.digest, 1_000_000);
    let (mut setup, authority) = encrypted(&origin);
    setup.limits.send_idle = SHORT;
    let proxy = setup.start().await;
    let (send, _driver) = http_2(&proxy, &authority, WINDOW).await;
    let (shut, _shut_driver) = http_2(&proxy, &authority, 0).await;
    // A registry that is slow is not its client's fault.
    let waits = tokio::spawn(read(open(&send, &blob("library/a", &slow.digest)).await, usize::MAX));
    for layer in &image.layers {
        for _cold_then_warm in 0..2 {
            for send in [&send, &shut] {
                let stalled = open(send, &blob("library/a", &layer.digest)).await;
                assert_eq!(end(stalled).await, Err(Some(Reason::CANCEL)));
            }
        }
    }
    gate.open();
    assert_eq!(soon("the slow blob", waits).await.expect("it is not reset").len(), 2_000_000);
    let whole = soon(
        "a blob",
        read(open(&send, &blob("library/a", &image.layers[0].digest)).await, usize::MAX),
    )
    .await;
    assert!(whole == image.layers[0].bytes());
    proxy.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shut_window_of_the_whole_connection_ends_its_streams() {
    let image = Image::new(1, &[3_000_000, 2_000_000]);
    let origin = Origin::with("library/a", "1", &image).await;
    let (mut setup, authority) = encrypted(&origin);
    setup.limits.send_idle = SHORT;
    let proxy = setup.start().await;
    let builder = h2::client::Builder::new();
    let (send, connection) =
        builder.handshake(for_http_2(&proxy, &authority).await).await.expect("HTTP/2");
    let _driver = tokio::spawn(connection);
    let path = |i: usize| blob("library/a", &image.layers[i].digest);
    let (first, second) = (open(&send, &path(0)).await, open(&send, &path(1)).await);
    let (first, second) = tokio::join!(end(first), end(second));
    assert_eq!((first, second), (Err(Some(Reason::CANCEL)), Err(Some(Reason::CANCEL))));
    proxy.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_agrees_on_http_2_and_does_not_begin_it_is_let_go() {
    let origin = Origin::start().await;
    let (mut setup, authority) = encrypted(&origin);
    setup.limits.handshake = SHORT;
    let mut proxy = setup.start().await;
    let mut silent = for_http_2(&proxy, &authority).await;
    all(&mut silent).await;
    proxy.setup().limits.request_idle = SHORT;
    proxy.restart().await;
    let mut begun = for_http_2(&proxy, &authority).await;
    begun.write_all(&PREFACE[..5]).await.expect("the proxy reads");
    all(&mut begun).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_streams_ends_with_a_goodbye_and_one_with_streams_stays() {
    let origin = Origin::start().await;
    let slow = origin.blob("library/a", 9, 2_000_000);
    let gate = origin.hold_at(&slow.digest, 1_000_000);
    let (mut setup, authority) = encrypted(&origin);
    setup.limits.request_idle = SHORT;
    setup.limits.handshake = Duration::from_secs(1);
    let proxy = setup.start().await;
    let (busy, _driver) = http_2(&proxy, &authority, WINDOW).await;
    let waits = open(&busy, &blob("library/a", &slow.digest)).await;
    let (used, driver) = http_2(&proxy, &authority, WINDOW).await;
    assert!(read(open(&used, "/v2/").await, usize::MAX).await == b"{}");
    let _goodbye_or_closed = soon("the end of one that was used", driver).await.expect("no panic");
    // Says nothing more, not even that it has heard the goodbye.
    let mut mute = for_http_2(&proxy, &authority).await;
    mute.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b"")].concat())
        .await
        .expect("the proxy reads");
    let heard = all(&mut mute).await;
    assert!(
        heard.iter().any(|(kind, payload)| *kind == GOAWAY && payload[4..8] == [0; 4]),
        "{heard:?}"
    );
    gate.open();
    assert_eq!(soon("the blob", read(waits, usize::MAX)).await.len(), 2_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_streams_finish_and_takes_no_new_ones() {
    let origin = Origin::start().await;
    let slow = origin.blob("library/a", 9, 2_000_000);
    let gate = origin.hold_at(&slow.digest, 1_000_000);
    let (mut setup, authority) = encrypted(&origin);
    setup.config.shutdown_grace = Duration::from_secs(15);
    let mut proxy = setup.start().await;
    let (mut send, driver) = http_2(&proxy, &authority, WINDOW).await;
    let waits = open(&send, &blob("library/a", &slow.digest)).await;
    proxy.begin_shutdown();
    let refused = soon("the goodbye", async {
        loop {
            let request =
                http::Request::get("https://registry.test/v2/").body(()).expect("a request");
            match std::future::poll_fn(|cx| send.poll_ready(cx))
                .await
                .and_then(|()| send.send_request(request, true))
            {
                Ok((answer, _)) => match answer.await {
                    Ok(_) => {}
                    Err(error) => break error,
                },
                Err(error) => break error,
            }
        }
    });
    let refused = refused.await;
    assert!(
        refused.is_go_away() || refused.reason() == Some(Reason::REFUSED_STREAM),
        "{refused:?}"
    );
    gate.open();
    assert_eq!(soon("the blob", read(waits, usize::MAX)).await.len(), 2_000_000);
    let _goodbye_or_closed = soon("the end", driver).await.expect("no panic");
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_names_no_connection_and_leaves_it_in_use() {
    let origin = Origin::start().await;
    let (setup, authority) = encrypted(&origin);
    let proxy = setup.start().await;
    let (send, _driver) = http_2(&proxy, &authority, WINDOW).await;
    let request = http::Request::get("https://registry.test/v2/").body(()).expect("a request");
    let mut ready = send.clone().ready().await.expect("room for a stream");
    let (answer, mut body) = ready.send_request(request, false).expect("sent");
    let _reset_after_the_answer = body.send_data("a read has no body".into(), true);
    let answer = soon("an answer", answer).await.expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.headers().get("connection")), (400, None));
    assert!(read(open(&send, "/v2/").await, usize::MAX).await == b"{}");
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET https://a/v2/` in HPACK, all of it indexed or literal.
const PING_REQUEST: &[u8] = b"\x82\x87\x04\x04/v2/\x01\x01a";

/// Every frame until the connection ends, by kind and payload.
async fn all(stream: &mut (impl AsyncRead + Unpin)) -> Vec<(u8, Vec<u8>)> {
    let mut bytes = Vec::new();
    let _closed_or_reset = soon("the end", stream.read_to_end(&mut bytes)).await;
    let (mut frames, mut rest) = (Vec::new(), bytes.as_slice());
    while let [a, b, c, kind, _, _, _, _, _, after @ ..] = rest {
        let length =
            usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).expect("small").min(after.len());
        frames.push((*kind, after[..length].to_vec()));
        rest = &after[length..];
    }
    frames
}

/// Begins a connection, repeats `frames` up to 10,000 times and leaves; the reason that the proxy
/// gave for its goodbye.
async fn flood(
    proxy: &Proxy,
    trusts: &Authority,
    first: Vec<u8>,
    frames: impl Fn(u32) -> Vec<u8>,
) -> Option<Reason> {
    let (mut reader, mut writer) = tokio::io::split(for_http_2(proxy, trusts).await);
    let heard = tokio::spawn(async move { all(&mut reader).await });
    let _cut_off = writer.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, b""), &first].concat()).await;
    for round in 0..10_000 {
        if writer.write_all(&frames(round)).await.is_err() {
            break;
        }
    }
    let _cut_off = writer.shutdown().await;
    let goodbye =
        heard.await.expect("no panic").into_iter().rev().find(|(kind, _)| *kind == GOAWAY)?.1;
    Some(u32::from_be_bytes(goodbye[4..8].try_into().expect("a code")).into())
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_their_connection_or_are_served_and_others_are_served_meanwhile() {
    let origin = Origin::start().await;
    let (setup, authority) = encrypted(&origin);
    let proxy = setup.start().await;
    let (send, _driver) = http_2(&proxy, &authority, WINDOW).await;
    let calm = async {
        loop {
            assert!(
                soon("another client", read(open(&send, "/v2/").await, usize::MAX)).await == b"{}"
            );
        }
    };
    let floods = async {
        let calm_down = Some(Reason::ENHANCE_YOUR_CALM);
        let request = |stream, flags| frame(HEADERS, flags, stream, PING_REQUEST);
        let reset = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        let resets = |round: u32| {
            [request(2 * round + 1, END_STREAM | END_HEADERS), reset(2 * round + 1)].concat()
        };
        assert_eq!(flood(&proxy, &authority, Vec::new(), resets).await, calm_down, "resets");
        let more = |_| frame(CONTINUATION, 0, 1, &[b'\x40'; 1000]);
        assert!(
            flood(&proxy, &authority, request(1, END_STREAM), more).await.is_some(),
            "CONTINUATION"
        );
        let nothing = |_| frame(DATA, 0, 1, b"");
        assert_eq!(
            flood(&proxy, &authority, request(1, END_HEADERS), nothing).await,
            calm_down,
            "empty DATA"
        );
        let pings = |_| frame(PING, 0, 0, &[0; 8]);
        assert_eq!(flood(&proxy, &authority, Vec::new(), pings).await, None, "PING");
        let settings = |_| frame(SETTINGS, 0, 0, b"");
        assert_eq!(flood(&proxy, &authority, Vec::new(), settings).await, None, "SETTINGS");
    };
    tokio::select! {
        () = calm => {}
        () = floods => {}
    }
    eventually("only the calm one is left", || {
        proxy.metric("roadstead_http_connections", &[]) == 1
    })
    .await;
}
