//! Floods of the sizes that once took everything: of an upstream that does not answer, by clients
//! who leave. `DIGESTS=20000` asks for as many.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep};

use crate::support::Serving;

/// Questions to an upstream at once, of all askers (docs/limits.md).
const QUESTIONS: usize = 256;
/// Connections whose end is on its way to the upstream, while the next is there already: on a busy
/// machine as many again.
const CLOSING: usize = QUESTIONS;
/// Who may wait for one.
const WAITING: i64 = 1024;
/// Addresses that ask.
const ASKERS: usize = 50;

/// An upstream that takes every request and never answers.
struct Silent {
    address: SocketAddr,
    connections: Arc<Connections>,
}

#[derive(Default)]
struct Connections {
    open: AtomicUsize,
    most: AtomicUsize,
}

impl Silent {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let connections = Arc::<Connections>::default();
        let its = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let its = Arc::clone(&its);
                its.most.fetch_max(1 + its.open.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    while stream.read(&mut request).await.is_ok_and(|read| read > 0) {}
                    its.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, connections }
    }

    fn open(&self) -> usize {
        self.connections.open.load(Ordering::SeqCst)
    }

    fn most(&self) -> usize {
        self.connections.most.load(Ordering::SeqCst)
    }
}

/// The proxy in front of it, as `silent.test`.
struct Flooded {
    serving: Serving,
    clients: SocketAddr,
    admin: SocketAddr,
}

impl Flooded {
    fn start(silent: &Silent) -> Self {
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("allowed");
        let upstream =
            format!("upstreams: {{ silent.test: {{ url: 'http://{}' }} }}\n", silent.address);
        let mut serving = Serving::start(&upstream, &[]);
        let line = serving.until("clients=").pop().expect("the line with the addresses");
        let address = |key: &str| {
            let rest = line.split_once(key).expect("an address").1;
            rest.split_whitespace().next().expect("an address").parse().expect("an address")
        };
        let (clients, admin) = (address("clients="), address("admin="));
        serving.read_on();
        Self { serving, clients, admin }
    }

    /// Sends a request from the `nth` asker, and waits for nothing.
    async fn ask(&self, nth: usize, path: &str) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        let from = format!("127.0.1.{}:0", 1 + nth % ASKERS).parse().expect("an address");
        socket.bind(from).expect("all of 127.0.0.0/8 is this machine");
        let mut stream = socket.connect(self.clients).await.expect("it listens");
        let request = format!("GET /v2/silent.test/app/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        stream
    }

    async fn metric(&self, name: &str) -> i64 {
        let mut stream = TcpStream::connect(self.admin).await.expect("it listens");
        let request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        let line = answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("a metric without labels").trim().parse().expect("a number")
    }

    async fn until(&self, name: &str, holds: impl Fn(i64) -> bool) {
        assert!(self.within(Duration::from_mins(1), name, holds).await, "never came: {name}");
    }

    /// Whether it came to that in time.
    async fn within(&self, time: Duration, name: &str, holds: impl Fn(i64) -> bool) -> bool {
        let end = Instant::now() + time;
        while !holds(self.metric(name).await) {
            if Instant::now() > end {
                return false;
            }
            sleep(Duration::from_millis(10)).await;
        }
        true
    }

    /// KiB of memory of its own.
    fn memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.serving.id().as_raw_nonzero());
        let status = std::fs::read_to_string(status).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let figure = line.and_then(|line| line.split_whitespace().next()).expect("a figure");
        figure.parse().expect("a number")
    }
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < end, "never happened: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

const REQUESTS: &str = "roadstead_http_requests_in_flight";
const FILLS: &str = "roadstead_fills_in_flight";

#[tokio::test(flavor = "multi_thread")]
async fn fifteen_hundred_tags_of_a_silent_upstream_are_no_more_connections_than_questions() {
    const TAGS: usize = 1500;
    let silent = Silent::start().await;
    let proxy = Flooded::start(&silent);
    let mut clients = Vec::new();
    for nth in 0..TAGS {
        clients.push(proxy.ask(nth, &format!("manifests/v{nth}")).await);
    }
    eventually("they are asked", || silent.open() >= QUESTIONS - ASKERS).await;
    proxy.until(REQUESTS, |requests| requests >= 1000).await;
    drop(clients);
    proxy.until(REQUESTS, |requests| requests == 0).await;
    eventually("nobody is asked any more", || silent.open() == 0).await;
    println!("{TAGS} tags whose clients have left: {} connections at most, then 0", silent.most());
    assert!(silent.most() <= QUESTIONS + CLOSING, "{}", silent.most());
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_digests_of_a_silent_upstream_are_bounded_downloads() {
    const AT_ONCE: usize = 1000;
    let told = std::env::var("DIGESTS").ok();
    let digests = told.map_or(2000, |told| told.parse().expect("DIGESTS is a number"));
    let silent = Silent::start().await;
    let proxy = Flooded::start(&silent);
    let (before, mut fills, mut memory) = (proxy.memory(), 0, 0);
    for round in 0..digests / AT_ONCE {
        let mut clients = Vec::new();
        for nth in round * AT_ONCE..(round + 1) * AT_ONCE {
            clients.push(proxy.ask(nth, &format!("blobs/sha256:{nth:064x}")).await);
        }
        // Later it may be known that nobody answers there; then they fail at once.
        proxy.within(Duration::from_secs(2), FILLS, |fills| fills >= 900).await;
        fills = fills.max(proxy.metric(FILLS).await);
        memory = memory.max(proxy.memory());
    }
    proxy.until(REQUESTS, |requests| requests == 0).await;
    proxy.until(FILLS, |fills| fills == 0).await;
    eventually("nobody is asked any more", || silent.open() == 0).await;
    println!(
        "{digests} digests whose clients have left: {fills} downloads and {} connections at most, \
         then 0; {before} KiB before, {memory} KiB at most, {} KiB afterwards",
        silent.most(),
        proxy.memory()
    );
    let most = WAITING + i64::try_from(QUESTIONS + 2 * AT_ONCE).expect("small");
    assert!((500..=most).contains(&fills), "{fills}");
    assert!(silent.most() <= QUESTIONS + CLOSING, "{}", silent.most());
    assert!(memory - before <= 192 << 10, "{memory} KiB");
}
