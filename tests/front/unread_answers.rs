//! Memory for answers that nobody reads: bounded for each connection and in all, given back when
//! they end, and no hindrance to whoever reads.

use h2::Reason;
use h2::client::SendRequest;

use crate::http_2::{SHORT, encrypted, http_2, open, read};
use crate::support::image::Image;
use crate::support::origin::Origin;
use crate::support::proxy::{Proxy, blob};
use crate::support::tls::Authority;
use crate::support::{eventually, soon};

const KIB: i64 = 1024;
const MIB: i64 = 1024 * KIB;

/// One frame of HTTP/2.
const FRAME: i64 = 16 * KIB;

/// Streams of one connection.
const STREAMS: i64 = 100;

/// So small that a hundred of them fit into the connection's.
const WINDOW: u32 = 8 * 1024;

fn waiting(proxy: &Proxy) -> i64 {
    proxy.metric("roadstead_http_waiting_bytes", &[])
}

/// Answers of one connection, each of which is read until `taken` bytes have come, and then left.
async fn unread(
    send: &SendRequest<bytes::Bytes>,
    path: &str,
    count: i64,
    taken: usize,
) -> Vec<h2::RecvStream> {
    let mut bodies = Vec::new();
    for _ in 0..count {
        let mut body = open(send, path).await;
        let mut had = 0;
        while had < taken {
            let piece = soon("a piece", body.data()).await.expect("more").expect("bytes");
            body.flow_control().release_capacity(piece.len()).expect("capacity that was used");
            had += piece.len();
        }
        bodies.push(body);
    }
    bodies
}

/// Fetches a blob, so that it is read from the disk from now on.
async fn store(proxy: &Proxy, authority: &Authority, path: &str) {
    let (send, _driver) = http_2(proxy, authority, 65_535).await;
    read(open(&send, path).await, usize::MAX).await;
    proxy.settled().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_unread_answers_hold_little_and_another_is_served_beside_them() {
    let image = Image::new(1, &[3_000_000]);
    let origin = Origin::with("library/a", "1", &image).await;
    let slow = origin.blob("library/a", 9, 3_000_000);
    let gate = origin.hold_at(&slow.digest, 2_900_000);
    let (setup, authority) = encrypted(&origin);
    let proxy = setup.start().await;
    let stored = blob("library/a", &image.layers[0].digest);
    store(&proxy, &authority, &stored).await;
    // What is stored, and what is still coming; of some, nothing at all is taken, of others, so
    // much that they get large pieces.
    for path in [&stored, &blob("library/a", &slow.digest)] {
        for (window, taken) in [(0, 0), (WINDOW, 100_000)] {
            let (send, _driver) = http_2(&proxy, &authority, window).await;
            let bodies = unread(&send, path, STREAMS - 1, taken).await;
            let bound = 2 * MIB + STREAMS * FRAME;
            eventually("pieces wait", || waiting(&proxy) >= 99 * FRAME).await;
            assert!(waiting(&proxy) <= bound, "{path}, {taken}: {}", waiting(&proxy));
            if window > 0 {
                let whole = soon("another", read(open(&send, &stored).await, usize::MAX)).await;
                assert!(whole == image.layers[0].bytes());
            }
            assert!(waiting(&proxy) <= bound, "{path}, {taken}: {}", waiting(&proxy));
            drop(bodies);
            eventually("nothing waits", || waiting(&proxy) == 0).await;
        }
    }
    gate.open();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_unread_answers_hold_all_memory_those_who_read_are_served() {
    let image = Image::new(1, &[3_000_000]);
    let origin = Origin::with("library/a", "1", &image).await;
    let (mut setup, authority) = encrypted(&origin);
    setup.limits.answers = 512 * 1024;
    let proxy = setup.start().await;
    let path = blob("library/a", &image.layers[0].digest);
    store(&proxy, &authority, &path).await;
    let mut unread_ones = Vec::new();
    for _ in 0..4 {
        let (send, driver) = http_2(&proxy, &authority, 0).await;
        let bodies = unread(&send, &path, STREAMS, 0).await;
        unread_ones.push((send, driver, bodies));
    }
    eventually("all memory is taken", || waiting(&proxy) >= MIB / 2).await;
    assert!(waiting(&proxy) <= MIB / 2 + 4 * FRAME, "{}", waiting(&proxy));
    let (send, _driver) = http_2(&proxy, &authority, 65_535).await;
    let reads = (0..5).map(|_| async { read(open(&send, &path).await, usize::MAX).await });
    for whole in soon("those who read", futures_util::future::join_all(reads)).await {
        assert!(whole == image.layers[0].bytes());
    }
    drop(unread_ones);
    eventually("nothing waits", || waiting(&proxy) == 0).await;
}

/// Encrypted, so that what is stored takes memory too.
#[tokio::test(flavor = "multi_thread")]
async fn those_who_follow_a_download_hold_nothing_while_it_brings_nothing() {
    let image = Image::new(1, &[3_000_000]);
    let origin = Origin::with("library/a", "1", &image).await;
    let slow = origin.blob("library/a", 9, 400_000);
    let gate = origin.hold_at(&slow.digest, 200_000);
    let (mut setup, authority) = encrypted(&origin);
    setup.limits.answers = 2 << 20;
    let proxy = setup.start().await;
    let stored = blob("library/a", &image.layers[0].digest);
    store(&proxy, &authority, &stored).await;
    let mut followers = Vec::new();
    for _ in 0..3 {
        let (send, driver) = http_2(&proxy, &authority, WINDOW).await;
        let bodies = unread(&send, &blob("library/a", &slow.digest), STREAMS, 200_000).await;
        followers.push((send, driver, bodies));
    }
    eventually("nothing is held", || waiting(&proxy) == 0).await;
    let (send, _driver) = http_2(&proxy, &authority, 65_535).await;
    let whole = soon("a stored one", read(open(&send, &stored).await, usize::MAX)).await;
    assert!(whole == image.layers[0].bytes());
    gate.open();
    let reads = followers.into_iter().flat_map(|(_, driver, bodies)| {
        tokio::spawn(driver);
        bodies.into_iter().map(|body| read(body, usize::MAX))
    });
    for rest in soon("those who follow", futures_util::future::join_all(reads)).await {
        assert_eq!(rest.len(), 200_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_read_byte_by_byte_is_ended() {
    let image = Image::new(1, &[3_000_000]);
    let origin = Origin::with("library/a", "1", &image).await;
    let (mut setup, authority) = encrypted(&origin);
    setup.limits.send_idle = 10 * SHORT;
    let proxy = setup.start().await;
    let (send, _driver) = http_2(&proxy, &authority, 1).await;
    let mut body = open(&send, &blob("library/a", &image.layers[0].digest)).await;
    let mut taken = 0;
    let reset = async {
        let mut pause = tokio::time::interval(SHORT / 10);
        while let Some(piece) = body.data().await {
            match piece {
                Ok(piece) => {
                    body.flow_control().release_capacity(piece.len()).expect("it was used");
                    taken += piece.len();
                    pause.tick().await;
                }
                Err(error) => return error.reason(),
            }
        }
        None
    };
    assert_eq!(soon("the end", reset).await, Some(Reason::CANCEL));
    assert!(taken > 10, "it was no byte after the other: {taken}");
    assert!(read(open(&send, "/v2/").await, usize::MAX).await == b"{}", "the connection goes on");
}
