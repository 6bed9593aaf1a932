//! A campaign: every way in which the answer to a download goes wrong, again and again, over plain
//! HTTP and TLS, for readers over HTTP/1.1 and HTTP/2. Nobody gets a whole body that is wrong, what
//! comes of a body that is cut is right as far as it goes, and afterwards the blob is kept.
//!
//! `./test` runs each once; `FAULTS_UPSTREAM=50` makes it long. Upstreams are spoken to over
//! HTTP/1.1 alone, so frames of HTTP/2 are garbage there.

use std::time::Duration;

use bytes::Bytes;
use url::Url;

use crate::http_2::{encrypted, http_2};
use crate::support::content::{Blob, Content};
use crate::support::origin::{Fault, Gate, On, Origin};
use crate::support::proxy::{Proxy, blob};
use crate::support::tls::{Authority, acceptor};
use crate::support::wire::{Break, Wire};
use crate::support::{eventually, how_often, soon};

/// A server's SETTINGS, `RST_STREAM` of stream 1 and GOAWAY (RFC 9113 §6).
const FRAMES: &[u8] = b"\0\0\0\x04\0\0\0\0\0\
    \0\0\x04\x03\0\0\0\0\x01\0\0\0\x02\
    \0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\x02";

/// TLS's alert that something is wrong inside; and no record at all.
const ALERT: &[u8] = b"\x15\x03\x03\0\x02\x02\x50";
const NO_RECORD: &[u8] = b"this is not TLS";

/// What readers may get.
#[derive(Clone, Copy, PartialEq)]
enum Hope {
    /// All of it, although something broke.
    Whole,
    /// All of it, or an answer that is no success, or the right bytes and no clean end.
    Right,
    /// Wrong bytes were among those that came, so that their end is no clean one.
    NoCleanEnd,
}

use Hope::{NoCleanEnd, Right, Whole};

/// One download, and what breaks it.
struct Scene<'a> {
    origin: &'a Origin,
    wire: &'a Wire,
    layer: &'a Blob,
    /// Somewhere in it.
    at: u64,
}

impl Scene<'_> {
    fn first(&self, fault: Fault) {
        self.origin.fault(On::path(&self.layer.digest).gets().once(), fault);
    }

    fn always(&self, fault: Fault) {
        self.origin.fault(On::path(&self.layer.digest).gets(), fault);
    }

    /// The first answer is cut, and the one for the rest is wrong.
    fn rest(&self, fault: Fault) {
        self.first(Fault::CutAfter(self.at));
        self.origin.fault(On::path(&self.layer.digest).ranged().once(), fault);
    }

    fn on_the_wire(&self, at: u64, how: Break) {
        self.wire.break_next(usize::try_from(at).expect("small"), how);
    }

    fn header(&self, name: &'static str, value: &str) {
        self.first(Fault::Header(name, Some(value.to_owned())));
    }
}

type Spoil = fn(&Scene<'_>);

/// Every kind.
const FAULTS: &[(&str, Hope, Spoil)] = &[
    ("cut behind the head", Whole, |s| s.first(Fault::CutAfter(0))),
    ("cut behind the first byte", Whole, |s| s.first(Fault::CutAfter(1))),
    ("cut in the middle", Whole, |s| s.first(Fault::CutAfter(s.at))),
    ("cut before the last byte", Whole, |s| s.first(Fault::CutAfter(s.layer.len() - 1))),
    ("cut every time", Right, |s| s.always(Fault::CutAfter(1000))),
    ("hung up on", Whole, |s| s.first(Fault::Hangup)),
    ("hung up on every time", Right, |s| s.always(Fault::Hangup)),
    ("silent before the head", Right, |s| s.first(Fault::HoldHead(Gate::new()))),
    ("silent in the middle", Whole, |s| s.on_the_wire(s.at, Break::Silence)),
    ("announced longer", Right, |s| s.first(Fault::LengthOff(100))),
    ("announced shorter", Right, |s| s.first(Fault::LengthOff(-100))),
    ("longer than it is", Right, |s| s.first(Fault::Extra(100))),
    ("one wrong byte", NoCleanEnd, |s| s.first(Fault::Flip(s.at))),
    ("one wrong byte at the end", NoCleanEnd, |s| s.first(Fault::Flip(s.layer.len() - 1))),
    ("of unknown length, and whole", Whole, |s| s.first(Fault::Chunked)),
    ("of unknown length, and cut", Whole, |s| {
        s.first(Fault::Chunked);
        s.first(Fault::CutAfter(s.at));
    }),
    ("ended by its connection", Whole, |s| s.first(Fault::UntilClose)),
    ("ended by its connection too soon", Right, |s| {
        s.first(Fault::UntilClose);
        s.first(Fault::CutAfter(s.at));
    }),
    ("a part that nobody asked for", Right, |s| s.first(Fault::Partial)),
    ("500", Whole, |s| s.first(Fault::Status(500))),
    ("503 every time", Right, |s| s.always(Fault::Status(503))),
    ("429", Right, |s| s.first(Fault::Status(429))),
    ("404", Right, |s| s.first(Fault::Status(404))),
    ("403", Right, |s| s.first(Fault::Status(403))),
    ("a page in its place", NoCleanEnd, |s| {
        s.first(Fault::Instead(200, "text/html", Bytes::from_static(b"<html>Sign in</html>")));
    }),
    ("nothing in its place", Right, |s| {
        s.first(Fault::Instead(200, "application/octet-stream", Bytes::new()));
    }),
    ("a redirect to nobody", Right, |s| s.first(Fault::Redirect("http://127.0.0.1:9/".into()))),
    ("a length that is none", Right, |s| s.header("Content-Length", "many")),
    ("an encoding that is none", Right, |s| s.header("Content-Encoding", "gzip")),
    ("the whole in place of the rest", Whole, |s| s.rest(Fault::IgnoreRange)),
    ("another whole in place of the rest", NoCleanEnd, |s| {
        s.rest(Fault::IgnoreRange);
        s.origin.fault(On::path(&s.layer.digest).ranged().once(), Fault::Flip(0));
    }),
    ("another part than the rest", Right, |s| s.rest(Fault::ShiftRange(7))),
    ("another total with the rest", Right, |s| {
        s.rest(Fault::Header("Content-Range", Some(format!("bytes {}-9999999/10000000", s.at))));
    }),
    ("no rest", Right, |s| s.rest(Fault::Status(416))),
    ("a wrong byte in the rest", NoCleanEnd, |s| s.rest(Fault::Flip(s.layer.len() - 2))),
    ("reset before the head", Whole, |s| s.on_the_wire(0, Break::Reset)),
    ("reset in the head", Whole, |s| s.on_the_wire(20, Break::Reset)),
    ("reset in the middle", Whole, |s| s.on_the_wire(s.at, Break::Reset)),
    ("ended without a word", Whole, |s| s.on_the_wire(s.at, Break::End)),
    ("ended in the head", Whole, |s| s.on_the_wire(20, Break::End)),
    ("closed in the middle", Whole, |s| s.on_the_wire(s.at, Break::Close)),
    ("of unknown length, and ended without a word", Right, |s| {
        s.first(Fault::UntilClose);
        s.on_the_wire(s.at, Break::End);
    }),
    ("frames of HTTP/2 in its place", Right, |s| {
        s.on_the_wire(0, Break::Instead(Bytes::from_static(FRAMES)));
    }),
    ("frames of HTTP/2 in the middle", NoCleanEnd, |s| {
        s.on_the_wire(s.at + 1000, Break::Insert(Bytes::from_static(FRAMES)));
    }),
    ("frames of HTTP/2 in place of the rest", NoCleanEnd, |s| {
        s.on_the_wire(s.at + 1000, Break::Instead(Bytes::from_static(FRAMES)));
    }),
    ("chunks whose lengths are none", NoCleanEnd, |s| {
        s.first(Fault::Chunked);
        s.on_the_wire(s.at + 1000, Break::Insert(Bytes::from_static(b"\r\nzz\r\n")));
    }),
    ("bytes that are lost on the way", NoCleanEnd, |s| {
        s.on_the_wire(s.at + 1000, Break::Lose(50));
    }),
    ("an alert of TLS", NoCleanEnd, |s| {
        s.on_the_wire(s.at + 1000, Break::Below(Bytes::from_static(ALERT)));
    }),
    ("no TLS any more", NoCleanEnd, |s| {
        s.on_the_wire(s.at + 1000, Break::Below(Bytes::from_static(NO_RECORD)));
    }),
    ("a head that drips", Whole, |s| s.on_the_wire(0, Break::Drip(150))),
    ("a head that is late", Whole, |s| {
        s.on_the_wire(20, Break::Late(Duration::from_millis(20)));
    }),
    ("a rest that is late", Whole, |s| {
        s.on_the_wire(s.at, Break::Late(Duration::from_millis(20)));
    }),
    ("a head without an end", Right, |s| {
        s.on_the_wire(17, Break::Insert(vec![b'x'; 200_000].into()));
    }),
];

/// How upstream and readers are spoken to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Plain,
    Tls,
    TlsAndHttp2,
}

struct Campaign {
    way: Way,
    origin: Origin,
    wire: Wire,
    authority: Authority,
    proxy: Proxy,
    tally: Tally,
}

/// Answers, by how they ended.
#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    whole: u64,
    cut: u64,
    refused: u64,
}

/// What a reader has got.
struct Got {
    status: u16,
    body: Bytes,
    complete: bool,
}

impl Campaign {
    async fn start(way: Way) -> Self {
        let origin = Origin::start().await;
        let (mut setup, authority) = encrypted(&origin);
        if way != Way::TlsAndHttp2 {
            setup.config.tls = None;
        }
        let server = origin.authority().parse().expect("an address");
        let tls = (way != Way::Plain).then(|| acceptor(authority.issue("acme.test")));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let wire = Wire::to(server, tls).await;
        let upstream = &mut setup.config.upstreams[0];
        upstream.url = Url::parse(&format!("{scheme}://{}", wire.address)).expect("a URL");
        upstream.ca = Some(authority.pem().into_bytes());
        setup.config.cache.max_size = 64 << 20;
        setup.limits.upstream_idle = Duration::from_millis(300);
        setup.limits.flight_head = Duration::from_secs(1);
        let proxy = setup.start().await;
        Self { way, origin, wire, authority, proxy, tally: Tally::default() }
    }

    async fn get(&self, layer: &Blob) -> Got {
        let path = blob("a/b", &layer.digest);
        if self.way != Way::TlsAndHttp2 {
            let answer = self.proxy.get(&path).await;
            return Got { status: answer.status, body: answer.body, complete: answer.complete };
        }
        let (send, _connection) = http_2(&self.proxy, &self.authority, 65_535).await;
        soon("an answer over HTTP/2", get_over(send, &path)).await
    }

    async fn round(&mut self, seed: u64, (name, hope, spoil): (&str, Hope, Spoil)) {
        let what = format!("{name}, {:?}, seed {seed}", self.way);
        let random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let layer = Blob::new(Content::seeded(seed, 100_000 + (random >> 16) % 200_000));
        self.origin.put_blob("a/b", &layer);
        let at = 1 + (random >> 40) % (layer.len() - 10_000);
        spoil(&Scene { origin: &self.origin, wire: &self.wire, layer: &layer, at });
        let (one, other) = tokio::join!(self.get(&layer), self.get(&layer));
        for got in [one, other] {
            self.judge(&what, hope, &layer, &got);
        }
        self.origin.repair();
        self.wire.repair();
        let proxy = &self.proxy;
        eventually("it ends", || proxy.metric("roadstead_fills_in_flight", &[]) == 0).await;
        let after = self.get_afterwards(&layer).await;
        assert_eq!(after.status, 200, "afterwards: {what}");
        assert!(after.complete && after.body == layer.bytes(), "afterwards: {what}");
        eventually("it is kept", || proxy.has_stored(&layer.digest)).await;
        eventually("nothing else is left", || proxy.staged_files() == 0).await;
        self.origin.remove_blob("a/b", &layer.digest);
        self.tally.rounds += 1;
    }

    /// Once all is well, and what is remembered of the failure for a moment is forgotten. A busy
    /// machine may take longer than `flight_head` and is asked again.
    async fn get_afterwards(&self, layer: &Blob) -> Got {
        let mut got = self.get_a_minute_later(layer).await;
        for _ in 0..3 {
            if got.status != 504 {
                break;
            }
            got = self.get_a_minute_later(layer).await;
        }
        got
    }

    async fn get_a_minute_later(&self, layer: &Blob) -> Got {
        self.proxy.clock().advance(Duration::from_secs(61));
        self.get(layer).await
    }

    fn judge(&mut self, what: &str, hope: Hope, layer: &Blob, got: &Got) {
        let right = layer.bytes();
        let is_whole = got.status == 200 && got.complete;
        assert!(!is_whole || got.body == right, "a whole body that is wrong: {what}");
        assert!(hope != Whole || is_whole, "{} and {} bytes: {what}", got.status, got.body.len());
        match got.status {
            200 if is_whole => self.tally.whole += 1,
            200 => {
                assert!(
                    hope == NoCleanEnd || right.starts_with(&got.body),
                    "wrong bytes came: {what}"
                );
                self.tally.cut += 1;
            }
            status => {
                assert!([404, 429, 502, 503, 504].contains(&status), "{status}: {what}");
                self.tally.refused += 1;
            }
        }
    }
}

async fn get_over(mut send: h2::client::SendRequest<Bytes>, path: &str) -> Got {
    let request = http::Request::get(format!("https://registry.test{path}"));
    let (response, _) =
        send.send_request(request.body(()).expect("a request"), true).expect("it is sent");
    let response = match response.await {
        Ok(response) => response,
        // One that fails at once is reset before its head has left.
        Err(error) if error.is_reset() => {
            return Got { status: 200, body: Bytes::new(), complete: false };
        }
        Err(error) => panic!("no answer: {error}"),
    };
    let status = response.status().as_u16();
    let (mut stream, mut body, mut complete) = (response.into_body(), Vec::new(), true);
    while let Some(piece) = stream.data().await {
        let Ok(piece) = piece else {
            complete = false;
            break;
        };
        drop(stream.flow_control().release_capacity(piece.len()));
        body.extend_from_slice(&piece);
    }
    Got { status, body: body.into(), complete }
}

#[expect(clippy::print_stdout, reason = "the sum of a campaign")]
async fn run(way: Way) {
    let rounds = how_often("FAULTS_UPSTREAM", 1);
    let mut campaign = Campaign::start(way).await;
    for round in 0..rounds {
        for (nth, fault) in (0..).zip(FAULTS) {
            campaign.round(1 + round * 1000 + nth, *fault).await;
        }
    }
    let Tally { rounds: all, whole, cut, refused } = campaign.tally;
    println!(
        "upstream faults, {way:?}: {} kinds x {rounds}, {all} rounds: {whole} answers whole, {cut} \
         cut, {refused} refused, 0 wrong; {all} of {all} blobs kept afterwards",
        FAULTS.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_over_plain_http_nobody_gets_a_wrong_blob_and_it_is_kept_afterwards() {
    run(Way::Plain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_over_tls_nobody_gets_a_wrong_blob_and_it_is_kept_afterwards() {
    run(Way::Tls).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_breaks_before_readers_of_http_2_nobody_gets_a_wrong_blob_and_it_is_kept() {
    run(Way::TlsAndHttp2).await;
}
