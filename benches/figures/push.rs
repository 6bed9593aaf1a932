//! What the way through roadstead adds to a push, and what many pushes at once do to those who
//! pull.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, PATIENCE, request};
use crate::content::{Content, MANIFEST};
use crate::herd::watch;
use crate::origin::{Origin, blob_path, manifest_path};
use crate::pages::{ask, fetch, stored};
use crate::server::{self, Cpu, Server};
use crate::stats::{median, millis, quantile};
use crate::taker::Taker;

const LARGE: u64 = 4 << 30;
const ROUNDS: u32 = 3;
/// No push of that size takes longer.
const LONG: Duration = Duration::from_mins(10);

/// The most anonymous memory above idle, in KiB.
const MEMORY: u64 = 32 << 10;

/// Of each in the crowd.
const PUSHERS: u64 = 32;
const PULLERS: usize = 32;
const LAYERS: u64 = 4;
const LAYER: u64 = 4 << 20;
const ALONE: Duration = Duration::from_secs(3);

/// Where a push goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Directly,
    /// Through roadstead, which keeps nothing (`cache_pushes: false`).
    Passed,
    /// Through roadstead and into its cache.
    Kept,
}

const WAYS: [Way; 3] = [Way::Directly, Way::Passed, Way::Kept];

impl Way {
    fn prefix(self) -> &'static str {
        match self {
            Self::Directly => "/v2/bench/app",
            Self::Passed => "/v2/passed.test/bench/app",
            Self::Kept => "/v2/kept.test/bench/app",
        }
    }
}

/// roadstead in front of a registry to pull from, and one to push to.
async fn roadstead(folder: &Path, origin: &Origin, taker: &Taker) -> anyhow::Result<Server> {
    let url = format!("url: 'http://{}', push: true", taker.address);
    let more = format!(
        "  passed.test: {{ {url}, cache_pushes: false }}\n  kept.test: {{ {url} }}\n\
         access: {{ rules: [{{ who: anonymous, allow: [pull, push], images: [\"**\"] }}] }}\n"
    );
    server::roadstead_with(folder, origin.address, &more).await
}

/// One large layer: time against a direct push, and memory.
pub(crate) async fn large() -> anyhow::Result<()> {
    let folder = server::folder()?;
    let (origin, taker) = (Origin::start().await?, Taker::start().await?);
    let server = Arc::new(roadstead(folder.path(), &origin, &taker).await?);
    let idle = server.figure("status", "RssAnon")?;
    let mut measured = [Measured::default(), Measured::default(), Measured::default()];
    println!("push: a layer of 4 GiB, {ROUNDS} rounds, directly and through roadstead in turn");
    for round in 0..ROUNDS {
        let blob = Content::blob(3_000 + u64::from(round), LARGE);
        for at in (0..WAYS.len()).cycle().skip(round as usize).take(WAYS.len()) {
            let address = if WAYS[at] == Way::Directly { taker.address } else { server.address };
            measured[at].push(address, WAYS[at], &blob, &server).await?;
        }
        // Only what is kept gets there.
        stored(folder.path(), &blob).await?;
    }
    ensure!(
        taker.blobs() == u64::from(ROUNDS) * WAYS.len() as u64,
        "{} blobs arrived",
        taker.blobs()
    );
    let [directly, passed, kept] = measured;
    println!("  directly {}", millis(median(&directly.took)));
    passed.print("passed through (aim: 1.25)", &directly, idle)?;
    kept.print("kept in the cache as well", &directly, idle)
}

/// What the pushes of one way took.
#[derive(Debug, Default)]
struct Measured {
    took: Vec<Duration>,
    /// Largest `RssAnon` of roadstead, in KiB.
    memory: u64,
    /// Of roadstead.
    cpu: Cpu,
}

impl Measured {
    async fn push(
        &mut self,
        to: SocketAddr,
        way: Way,
        blob: &Content,
        server: &Arc<Server>,
    ) -> anyhow::Result<()> {
        let (peak, before) = (Arc::new(AtomicU64::new(0)), server.cpu()?);
        let watching = tokio::spawn(watch(Arc::clone(server), Arc::clone(&peak)));
        let start = Instant::now();
        timeout(LONG, Pusher::to(to, way).await?.blob(blob)).await??;
        self.took.push(start.elapsed());
        watching.abort();
        let cpu = server.cpu()?.since(before);
        self.cpu = Cpu { user: self.cpu.user + cpu.user, system: self.cpu.system + cpu.system };
        self.memory = self.memory.max(peak.load(Ordering::Relaxed));
        Ok(())
    }

    fn print(&self, what: &str, directly: &Self, idle: u64) -> anyhow::Result<()> {
        let rounds = self.took.iter().zip(&directly.took);
        let ratios: Vec<f64> =
            rounds.map(|(through, direct)| through.as_secs_f64() / direct.as_secs_f64()).collect();
        let [lowest, middle, highest] =
            [0.0, 0.5, 1.0].map(|share| quantile(&ratios, share).unwrap_or_default());
        let above = self.memory.saturating_sub(idle);
        println!(
            "  {what}: {}, ratio {middle:.3} (from {lowest:.3} to {highest:.3})",
            millis(median(&self.took))
        );
        let each = |all: Duration| all.as_secs_f64() / f64::from(ROUNDS);
        let (user, system) = (each(self.cpu.user), each(self.cpu.system));
        println!("    CPU of roadstead for one: {user:.1} s user, {system:.1} s system");
        println!("    RssAnon above idle {above} KiB at most (required: {MEMORY}; idle {idle})");
        ensure!(above <= MEMORY, "a push cost too much memory");
        Ok(())
    }
}

/// Many pushes and many pulls at once, and those who want nothing but a manifest.
pub(crate) async fn crowd() -> anyhow::Result<()> {
    let folder = server::folder()?;
    let (origin, taker) = (Origin::start().await?, Taker::start().await?);
    let blob = Content::blob(0, 2 * LAYER);
    let manifest = Content::manifest(std::slice::from_ref(&blob));
    origin.add_blob(&blob);
    origin.add_manifest(&manifest);
    let server = roadstead(folder.path(), &origin, &taker).await?;
    let (manifest, blob) = (manifest_path(manifest.digest.as_str()), blob_path(&blob));
    for path in [&manifest, &blob] {
        fetch(server.address, path).await?;
    }
    println!(
        "crowd: {PUSHERS} push {LAYERS} layers of 4 MiB each, {PULLERS} pull 8 MiB again and again"
    );
    println!("  what a cached manifest takes meanwhile:");
    let (address, images) = (server.address, [images(0), images(PUSHERS)]);
    beside(&server, &manifest, "nothing", sleep(ALONE)).await?;
    beside(&server, &manifest, "pulls", while_pulling(address, &blob, sleep(ALONE))).await??;
    beside(&server, &manifest, "pushes", pushes(address, &images[0])).await??;
    beside(&server, &manifest, "both", while_pulling(address, &blob, pushes(address, &images[1])))
        .await???;
    let expected = 2 * PUSHERS * LAYERS;
    ensure!(taker.blobs() == expected, "{} blobs of {expected} arrived", taker.blobs());
    Ok(())
}

/// The layers of each of [`PUSHERS`] images.
fn images(first: u64) -> Vec<Vec<Arc<Content>>> {
    let layers =
        |image| (0..LAYERS).map(move |layer| Content::blob(10_000 + image * LAYERS + layer, LAYER));
    (first..first + PUSHERS).map(|image| layers(image).collect()).collect()
}

/// Prints what a manifest took while `what` went on.
async fn beside<T>(
    server: &Server,
    manifest: &str,
    name: &str,
    what: impl Future<Output = T>,
) -> anyhow::Result<T> {
    let (stop, address, manifest) =
        (Arc::new(AtomicBool::new(false)), server.address, manifest.to_owned());
    let stopped = Arc::clone(&stop);
    // A thread of their own, so that they do not wait for what else this process does.
    let asking = std::thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            ask(address, &manifest, &stopped).join_all().await.into_iter().collect()
        })
    });
    let start = Instant::now();
    let done = what.await;
    let took = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    let waits: anyhow::Result<Vec<_>> =
        asking.join().map_err(|_| anyhow!("those who ask have panicked"))?;
    let waits = waits?.concat();
    let [half, most] = [0.5, 0.99].map(|share| millis(quantile(&waits, share)));
    println!("    {name}: p50 {half}, p99 {most} of {}; {}", waits.len(), millis(Some(took)));
    Ok(done)
}

/// Pulls all the time until `what` is over.
async fn while_pulling<T>(
    address: SocketAddr,
    blob: &str,
    what: impl Future<Output = T>,
) -> anyhow::Result<T> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut pulls = JoinSet::new();
    for _ in 0..PULLERS {
        let (request, stop) = (request(blob), Arc::clone(&stop));
        pulls.spawn(async move {
            let mut client = Client::connect(address, 256 << 10).await?;
            while !stop.load(Ordering::Relaxed) {
                timeout(PATIENCE, client.get(&request, |_| ())).await??;
            }
            anyhow::Ok(())
        });
    }
    let done = what.await;
    stop.store(true, Ordering::Relaxed);
    pulls.join_all().await.into_iter().collect::<anyhow::Result<()>>()?;
    Ok(done)
}

/// Every image at once.
async fn pushes(address: SocketAddr, images: &[Vec<Arc<Content>>]) -> anyhow::Result<()> {
    let mut pushes = JoinSet::new();
    for (number, layers) in images.iter().cloned().enumerate() {
        pushes.spawn(async move { timeout(PATIENCE, image(address, number, &layers)).await? });
    }
    pushes.join_all().await.into_iter().collect()
}

async fn image(address: SocketAddr, number: usize, layers: &[Arc<Content>]) -> anyhow::Result<()> {
    let mut pusher = Pusher::to(address, Way::Kept).await?;
    for layer in layers {
        pusher.blob(layer).await?;
    }
    pusher.manifest(&number.to_string(), &Content::manifest(layers)).await
}

/// Raw HTTP/1.1 over one kept connection, in docker's order: POST, PATCH without a length, PUT.
struct Pusher {
    stream: TcpStream,
    way: Way,
}

impl Pusher {
    async fn to(address: SocketAddr, way: Way) -> anyhow::Result<Self> {
        let stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(Self { stream, way })
    }

    async fn blob(&mut self, blob: &Content) -> anyhow::Result<()> {
        let uploads = format!("{}/blobs/uploads/", self.way.prefix());
        self.send_head("POST", &uploads, "Content-Length: 0").await?;
        let upload = self.location("202").await?;
        self.send_head("PATCH", &upload, "Transfer-Encoding: chunked").await?;
        for block in blob.blocks() {
            self.stream.write_all(format!("{:x}\r\n", block.len()).as_bytes()).await?;
            self.stream.write_all(&block).await?;
            self.stream.write_all(b"\r\n").await?;
        }
        self.stream.write_all(b"0\r\n\r\n").await?;
        let upload = self.location("202").await?;
        let separator = if upload.contains('?') { '&' } else { '?' };
        self.send_head(
            "PUT",
            &format!("{upload}{separator}digest={}", blob.digest),
            "Content-Length: 0",
        )
        .await?;
        self.location("201").await.map(drop)
    }

    async fn manifest(&mut self, tag: &str, manifest: &Content) -> anyhow::Result<()> {
        let path = format!("{}/manifests/{tag}", self.way.prefix());
        let headers = format!("Content-Type: {MANIFEST}\r\nContent-Length: {}", manifest.size);
        self.send_head("PUT", &path, &headers).await?;
        for block in manifest.blocks() {
            self.stream.write_all(&block).await?;
        }
        self.location("201").await.map(drop)
    }

    async fn send_head(&mut self, method: &str, path: &str, headers: &str) -> anyhow::Result<()> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\n{headers}\r\n\r\n"
        );
        Ok(self.stream.write_all(head.as_bytes()).await?)
    }

    /// `Location` of an answer with that status and without a body.
    async fn location(&mut self, status: &str) -> anyhow::Result<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(head.len() < 16 << 10, "a head without end");
            ensure!(self.stream.read_buf(&mut head).await? > 0, "the connection ended early");
        }
        let head = String::from_utf8(head)?;
        ensure!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        let named =
            |line: &&str| line.get(..9).is_some_and(|name| name.eq_ignore_ascii_case("location:"));
        Ok(head.lines().find(named).context("no Location")?[9..].trim().to_owned())
    }
}
