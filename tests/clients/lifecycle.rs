//! Start and stop as an operator sees them: SIGTERM, a cache in use, a log nobody reads.

use std::fs;
use std::io::{BufRead as _, BufReader, PipeReader};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use http::StatusCode;
use reqwest::Response;
use roadstead::oci::{Algorithm, Digest};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::crash::files;
use crate::support::http_client::{self, client};
use crate::support::image::{Content, Image};
use crate::support::process::{Need, PATIENCE, Process, poll, ready};
use crate::support::proxy::{Proxy, Settings, addresses};
use crate::support::registry::{Auth, NEED, Registry};
use crate::support::tcp_forwarder::TcpForwarder;

/// A registry that answers slowly, and a large layer that is only there.
struct SlowRegistry {
    scratch: TempDir,
    layer: Content,
    registry: Registry,
    forwarder: TcpForwarder,
}

impl SlowRegistry {
    async fn start(bytes_per_second: u32) -> Self {
        let scratch = TempDir::new().expect("the system has a temporary folder");
        let image = Image::make(scratch.path(), 2, &[8 << 20]).await;
        let registry =
            Registry::holding(scratch.path(), Auth::Anonymous, &[("acme/app", &image)]).await;
        let forwarder = TcpForwarder::limiting_answers(registry.address, bytes_per_second).await;
        Self { layer: image.native().layers[0].content.clone(), scratch, registry, forwarder }
    }

    fn settings(&self) -> Settings {
        Settings::at(self.scratch.path(), &self.registry, self.forwarder.address)
    }

    /// Asks for the layer and returns when the head of the answer is there.
    async fn begin(&self, proxy: &Proxy) -> Response {
        let url =
            format!("http://{}/v2/quay.io/acme/app/blobs/{}", proxy.clients, self.layer.digest);
        let response = client().get(url).send().await.expect("the proxy answers");
        assert_eq!(response.status(), StatusCode::OK);
        response
    }
}

#[tokio::test]
async fn sigterm_ends_readiness_at_once_and_the_process_after_its_transfers() {
    if !ready(&[NEED]) {
        return;
    }
    let upstream = SlowRegistry::start(8 << 20).await;
    let mut proxy = Proxy::start(&upstream.settings()).await;
    let response = upstream.begin(&proxy).await;
    proxy.process.signal(Signal::TERM);
    let off = StatusCode::SERVICE_UNAVAILABLE;
    let not_ready =
        async || http_client::status(proxy.admin, "/readyz").await.filter(|status| *status == off);
    poll("end of readiness", PATIENCE, not_ready).await;
    let body = response.bytes().await.expect("the transfer that was under way completes");
    assert_eq!(Digest::of(Algorithm::Sha256, &body), upstream.layer.digest);
    let status = proxy.process.exit(PATIENCE).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn transfers_that_outlast_the_grace_period_are_cut_and_leave_nothing() {
    if !ready(&[NEED]) {
        return;
    }
    let upstream = SlowRegistry::start(1 << 20).await;
    let settings = upstream.settings().with("shutdown_grace: 1s");
    let mut proxy = Proxy::start(&settings).await;
    let response = upstream.begin(&proxy).await;
    let asked = Instant::now();
    proxy.process.signal(Signal::TERM);
    proxy.process.exit(PATIENCE).await;
    let taken = asked.elapsed();
    assert!(taken < Duration::from_secs(4), "{taken:?}");
    assert!(response.bytes().await.is_err(), "the body had a complete end");
    let left: Vec<_> =
        ["staging", "blobs"].iter().flat_map(|name| files(&settings.cache().join(name))).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_second_process_on_the_same_cache_is_refused() {
    if !ready(&[NEED]) {
        return;
    }
    let upstream = SlowRegistry::start(8 << 20).await;
    let settings = upstream.settings();
    let first = Proxy::start(&settings).await;
    let mut second = Process::start("second", &settings.folder, settings.command());
    let status = second.exit(PATIENCE).await;
    assert!(!status.success());
    let says = second.err();
    assert!(
        says.contains(&*settings.cache().to_string_lossy()) && says.contains("in use"),
        "{says}"
    );
    assert_eq!(
        http_client::status(first.admin, "/readyz").await,
        Some(StatusCode::OK),
        "the first goes on"
    );
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_no_request() {
    if !ready(&[NEED]) {
        return;
    }
    let upstream = SlowRegistry::start(8 << 20).await;
    let settings = upstream.settings();
    let (reader, writer) = std::io::pipe().expect("pipes can be made");
    let _process = Process::logging_to("roadstead", &settings.folder, settings.command(), writer);
    let mut log = BufReader::with_capacity(1, reader);
    let (clients, admin) = first_addresses(&mut log);
    // The pipe fills, then what the process keeps for it; after that lines are lost, and counted.
    let lost = async || {
        burst(clients, 1000).await;
        let metrics =
            http_client::get(admin, "/metrics").await.expect("the operator is answered as well");
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        let line =
            text.lines().find(|line| line.starts_with("roadstead_access_log_dropped_total "))?;
        (!line.ends_with(" 0")).then_some(())
    };
    poll("lost line", PATIENCE, lost).await;
    burst(clients, 1000).await;
}

/// Sends `count` requests down one connection without waiting for answers, which must all come.
async fn burst(address: SocketAddr, count: usize) {
    let requests = "GET /v2/ HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(count - 1)
        + "GET /v2/ HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let (mut from, mut to) =
        TcpStream::connect(address).await.expect("the proxy accepts").into_split();
    let mut answers = Vec::new();
    let exchange = async {
        tokio::try_join!(to.write_all(requests.as_bytes()), from.read_to_end(&mut answers))
    };
    timeout(PATIENCE, exchange)
        .await
        .expect("the log holds nobody up")
        .expect("the connection holds");
    let answers = String::from_utf8_lossy(&answers);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), count);
}

fn first_addresses(log: &mut BufReader<PipeReader>) -> (SocketAddr, SocketAddr) {
    let mut text = String::new();
    loop {
        let count = log.read_line(&mut text).expect("the pipe is open");
        assert!(count > 0, "the log ended before the addresses:\n{text}");
        if let Some(found) = addresses(&text) {
            return found;
        }
    }
}

#[tokio::test]
async fn without_a_configuration_it_serves_on_loopback_out_of_the_folder_it_is_in() {
    if !ready(&[Need::Root, Need::Program("ip")]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    // The ports are fixed, so it gets a network of its own.
    let mut command = Command::new("unshare");
    command.args([
        "--net",
        "sh",
        "-c",
        "ip link set lo up && exec \"$0\" serve",
        env!("CARGO_BIN_EXE_roadstead"),
    ]);
    command.current_dir(scratch.path()).env_remove("ROADSTEAD_CONFIG").env_remove("RUST_LOG");
    let mut process = Process::start("roadstead", scratch.path(), command);
    let (clients, admin) =
        process.until("addresses", async |process| addresses(&process.err())).await;
    assert_eq!(
        (clients.to_string(), admin.to_string()),
        ("127.0.0.1:5000".into(), "127.0.0.1:5001".into())
    );
    let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", process.pid())).expect("it runs");
    assert!(
        sockets.contains(" 0100007F:1388 00000000:0000 0A"),
        "nobody listens on port 5000:\n{sockets}"
    );
    assert!(scratch.path().join("roadstead-data").is_dir());
    process.signal(Signal::TERM);
    assert!(process.exit(PATIENCE).await.success());
}
