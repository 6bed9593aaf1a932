//! Deadlines and bounds that are no configuration keys, but are handed in as a value so that tests
//! can shorten them. All others are constants beside the code that they bound.

use std::time::Duration;

/// Deadlines and bounds. [`Limits::default`] is what `serve` runs with.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// From a request's arrival to its response headers; containerd gives up at 30 s (DESIGN §14.8,
    /// BLOB-12).
    pub head: Duration,
    /// From a flight's start to the upstream's response headers.
    pub flight_head: Duration,
    /// For revalidation where a stale answer is at hand (DESIGN §14.2).
    pub revalidate: Duration,
    /// One TCP connection and TLS handshake upstream; with an outbound proxy, each of the
    /// connection to it, its answer, and the handshake behind it.
    pub connect: Duration,
    /// A ping, which finds out whether an upstream that was silent answers at all (DESIGN §14.4).
    pub ping: Duration,
    /// A client's TLS handshake with the first bytes of HTTP/2, and at its end the answer to our
    /// goodbye.
    pub handshake: Duration,
    /// From the accepting of a connection to its first whole request, handshake included.
    pub first_request: Duration,
    /// Between two looks at what ends by itself: the certificate, and licences.
    pub expiry_check: Duration,
    /// Between two looks at which stored files are to be read again.
    pub scrub_look: Duration,
    /// One run of a credential helper.
    pub helper: Duration,
    /// How long the login of a credential helper is used before the helper is asked again.
    pub login_life: Duration,
    /// Silence in an upstream body before the transfer counts as broken.
    pub upstream_idle: Duration,
    /// Pause before the first retry upstream; doubles, with jitter.
    pub retry_pause: Duration,
    /// How long a new token may take until the registry takes it, whose clock may be behind (UP-6).
    pub token_settling: Duration,
    /// A client that bytes have waited for this long is cut off; each KiB that it takes makes up for
    /// a second. Where HTTP/2 carries several answers, only the one that waits ends.
    pub send_idle: Duration,
    /// A client that sends nothing of a body for this long is cut off.
    pub receive_idle: Duration,
    /// How long a manifest or form that is sent waits for those before it on its connection.
    pub body_turn: Duration,
    /// For a registry to answer once it has every byte of an upload: it may have to move them.
    pub commit: Duration,
    /// Waiting for a request head, which hyper also uses between requests (DESIGN §15); HTTP/2
    /// without any request.
    pub request_idle: Duration,
    /// Downloads into the cache at once, in all.
    pub fills: usize,
    /// Downloads into the cache at once for one upstream, so that a slow one leaves places to
    /// others.
    pub fills_per_upstream: usize,
    /// Questions to one upstream at once, of all that is read there.
    pub questions: usize,
    /// A transfer that brings less than 1 KiB/s for so long yields its place to others.
    pub slow_transfer: Duration,
    /// How long a download may wait for its turn.
    pub fill_queue: Duration,
    /// Bytes withheld from readers until the digest is known (DESIGN §14.7).
    pub hold_back: u64,
    /// Bytes: a range that starts further ahead of a download than this is fetched by itself
    /// (DESIGN §13).
    pub read_ahead: u64,
    /// Bytes of the largest manifest, pulled or pushed (MAN-8).
    pub manifest: usize,
    /// Bytes of the largest page of referrers, and of one of tags that is not large.
    pub page: usize,
    /// Bytes of the largest page of tags: gcr.io sends all of them in one.
    pub large_page: usize,
    /// Large pages in memory at once.
    pub large_pages: usize,
    /// How long the place of a large page is waited for.
    pub large_page_wait: Duration,
    /// Stored bodies of at most this many bytes are kept in memory, up to `memory` in all.
    pub small_body: u64,
    /// Bytes of small bodies in memory.
    pub memory: u64,
    /// Bytes of answers that wait for their clients, on one connection and in all.
    pub connection_answers: usize,
    pub answers: usize,
    /// How long a 404 is believed.
    pub negative: Duration,
    /// Open client connections.
    pub connections: usize,
    /// How often files are compared with what was read.
    pub watch: Duration,
    /// Between two looks at a file that has changed: it is read when it is the same at both, since
    /// somebody may still be writing it.
    pub settle: Duration,
    /// Different things that clients missed at sealed upstreams and that are remembered. A row takes
    /// some 300 bytes.
    pub misses: usize,
    /// How long a list of revocations that has lost lines has to stay as it is before licences are
    /// good again.
    pub good_again: Duration,
}

impl Limits {
    /// How long upstream has for a question that several requests may share: until whoever has asked
    /// first gives up. The question ends when nobody waits for it, and a silence has to be noted as
    /// one before that (DESIGN §14.8).
    pub(crate) fn shared_question(&self) -> Duration {
        self.flight_head.min(self.head)
    }
}

impl Default for Limits {
    fn default() -> Self {
        const KIB: u64 = 1024;
        const MIB: u64 = 1024 * KIB;
        Self {
            head: Duration::from_secs(25),
            flight_head: Duration::from_mins(1),
            revalidate: Duration::from_secs(3),
            connect: Duration::from_secs(5),
            ping: Duration::from_secs(5),
            handshake: Duration::from_secs(10),
            first_request: Duration::from_secs(10),
            expiry_check: Duration::from_hours(1),
            scrub_look: Duration::from_hours(1),
            helper: Duration::from_secs(10),
            login_life: Duration::from_mins(5),
            upstream_idle: Duration::from_secs(30),
            retry_pause: Duration::from_millis(100),
            token_settling: Duration::from_millis(1200),
            send_idle: Duration::from_secs(30),
            receive_idle: Duration::from_mins(1),
            body_turn: Duration::from_secs(10),
            commit: Duration::from_mins(5),
            request_idle: Duration::from_secs(95),
            fills: 64,
            fills_per_upstream: 16,
            questions: 256,
            slow_transfer: Duration::from_secs(10),
            fill_queue: Duration::from_secs(20),
            hold_back: 64 * KIB,
            read_ahead: 64 * MIB,
            manifest: 4 << 20,
            page: 1 << 20,
            large_page: 16 << 20,
            large_pages: 4,
            large_page_wait: Duration::from_secs(10),
            small_body: 128 * KIB,
            memory: 64 * MIB,
            connection_answers: 2 << 20,
            answers: 256 << 20,
            negative: Duration::from_secs(10),
            connections: 4096,
            watch: Duration::from_secs(4),
            settle: Duration::from_secs(1),
            misses: 10_000,
            good_again: Duration::from_secs(30),
        }
    }
}
