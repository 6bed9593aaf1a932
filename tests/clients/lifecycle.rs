//! Start and stop as an operator sees them: SIGTERM, a cache in use, a log nobody reads.

use std::fs;
use std::io::{BufRead as _, BufReader, PipeReader};
use std::process::Command;
use std::time::Duration;

use http::StatusCode;
use reqwest::Response;
use roadstead::oci::{Algorithm, Digest};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::crash::files;
use crate::image::{Content, Image};
use crate::process::{Need, PATIENCE, Process, poll, ready};
use crate::proxy::{Proxy, Settings, addresses};
use crate::registry::{Auth, NEED, Registry};
use crate::slow::SlowLine;
use crate::web::{self, client};

/// A proxy at the end of a thin line, and a large layer that is only upstream.
struct Scene {
    scratch: TempDir,
    layer: Content,
    registry: Registry,
    line: SlowLine,
}

impl Scene {
    async fn set(bytes_per_second: u32) -> Self {
        let scratch = TempDir::new().expect("the system has a temporary folder");
        let image = Image::make(scratch.path(), 2, &[8 << 20]).await;
        let registry = Registry::holding(scratch.path(), Auth::Anonymous, &[("acme/app", &image)]).await;
        let line = SlowLine::to(registry.address, bytes_per_second).await;
        Self { layer: image.native().layers[0].content.clone(), scratch, registry, line }
    }

    fn settings(&self) -> Settings {
        Settings::at(self.scratch.path(), &self.registry, self.line.address)
    }

    /// Asks for the layer and returns when the head of the answer is there.
    async fn begin(&self, proxy: &Proxy) -> Response {
        let url = format!("http://{}/v2/quay.io/acme/app/blobs/{}", proxy.clients, self.layer.digest);
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
    let scene = Scene::set(8 << 20).await;
    let mut proxy = Proxy::start(&scene.settings()).await;
    let response = scene.begin(&proxy).await;
    proxy.process.signal(Signal::TERM);
    let off = StatusCode::SERVICE_UNAVAILABLE;
    let not_ready = async || web::status(proxy.admin, "/readyz").await.filter(|status| *status == off);
    poll("end of readiness", PATIENCE, not_ready).await;
    let body = response.bytes().await.expect("the transfer that was under way completes");
    assert_eq!(Digest::of(Algorithm::Sha256, &body), scene.layer.digest);
    let status = proxy.process.exit(PATIENCE).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn transfers_that_outlast_the_grace_period_are_cut_and_leave_nothing() {
    if !ready(&[NEED]) {
        return;
    }
    let scene = Scene::set(1 << 20).await;
    let settings = scene.settings().with("shutdown_grace: 1s");
    let mut proxy = Proxy::start(&settings).await;
    let response = scene.begin(&proxy).await;
    let asked = Instant::now();
    proxy.process.signal(Signal::TERM);
    proxy.process.exit(PATIENCE).await;
    let taken = asked.elapsed();
    assert!(taken < Duration::from_secs(4), "{taken:?}");
    assert!(response.bytes().await.is_err(), "the body had a complete end");
    let left: Vec<_> = ["staging", "blobs"].iter().flat_map(|name| files(&settings.cache().join(name))).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_second_process_on_the_same_cache_is_refused() {
    if !ready(&[NEED]) {
        return;
    }
    let scene = Scene::set(8 << 20).await;
    let settings = scene.settings();
    let first = Proxy::start(&settings).await;
    let mut second = Process::start("second", &settings.folder, settings.command());
    let status = second.exit(PATIENCE).await;
    assert!(!status.success());
    let says = second.err();
    assert!(says.contains(&*settings.cache().to_string_lossy()) && says.contains("in use"), "{says}");
    assert_eq!(web::status(first.admin, "/readyz").await, Some(StatusCode::OK), "the first goes on");
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_no_request() {
    /// Far more log than a pipe of 64 KiB holds.
    const REQUESTS: usize = 3000;
    if !ready(&[NEED]) {
        return;
    }
    let scene = Scene::set(8 << 20).await;
    let settings = scene.settings();
    let (reader, writer) = std::io::pipe().expect("pipes can be made");
    let _process = Process::logging_to("roadstead", &settings.folder, settings.command(), writer);
    let mut log = BufReader::with_capacity(1, reader);
    let address = first_addresses(&mut log);
    let client = client();
    for _ in 0..REQUESTS {
        let answer = client.get(format!("http://{address}/v2/")).send().await.expect("the log holds nobody up");
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let waiting = rustix::io::ioctl_fionread(log.get_ref()).expect("a pipe knows what is in it");
    assert!(waiting > 32 << 10, "only {waiting} bytes were logged: the reader was never behind");
}

fn first_addresses(log: &mut BufReader<PipeReader>) -> std::net::SocketAddr {
    let mut text = String::new();
    loop {
        let count = log.read_line(&mut text).expect("the pipe is open");
        assert!(count > 0, "the log ended before the addresses:\n{text}");
        if let Some((clients, _)) = addresses(&text) {
            return clients;
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
    command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$0\" serve", env!("CARGO_BIN_EXE_roadstead")]);
    command.current_dir(scratch.path()).env_remove("ROADSTEAD_CONFIG").env_remove("RUST_LOG");
    let mut process = Process::start("roadstead", scratch.path(), command);
    let (clients, admin) = process.until("addresses", async |process| addresses(&process.err())).await;
    assert_eq!((clients.to_string(), admin.to_string()), ("127.0.0.1:5000".into(), "127.0.0.1:5001".into()));
    let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", process.pid())).expect("it runs");
    assert!(sockets.contains(" 0100007F:1388 00000000:0000 0A"), "nobody listens on port 5000:\n{sockets}");
    assert!(scratch.path().join("roadstead-data").is_dir());
    process.signal(Signal::TERM);
    assert!(process.exit(PATIENCE).await.success());
}
