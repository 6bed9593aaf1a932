//! Reloads under load: whatever is replaced, and however broken it is, no request fails and no pull
//! is cut (ACCESS §8).

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use roadstead::oci::{Algorithm, Digest, Hasher};
use rustix::process::{Pid, Signal, kill_process};
use rustls::ClientConfig;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Client, PATIENCE, basic, request, request_as};
use crate::content::Content;
use crate::origin::{Origin, TAG, blob_path, manifest_path};
use crate::server::{self, Server};
use crate::tls::{Authority, Pair};

const RELOADS: usize = 1000;
const CLIENTS: usize = 8;
/// Pulls over one connection, so that there are handshakes under way all the time.
const EACH: usize = 3;
/// So large that its transfer outlasts several reloads.
const BLOB: u64 = 32 << 20;
const PASSWORD: &str = "right";

pub(crate) async fn run() -> anyhow::Result<()> {
    let folder = server::folder()?;
    let origin = Origin::start().await?;
    let blob = Content::blob(0, BLOB);
    let manifest = Content::manifest(std::slice::from_ref(&blob));
    origin.add_blob(&blob);
    origin.add_manifest(&manifest);
    let files = Files::write(folder.path())?;
    let server = server::roadstead_with(folder.path(), origin.address, &files.sections()).await?;
    let files = Files { base: fs::read_to_string(files.configuration())?, ..files };
    let pull = Pull { address: server.address, tls: files.authority.client()?, manifest, blob };
    pull.over_one_connection(None).await?;

    let stop = Arc::new(AtomicBool::new(false));
    let mut pulling = JoinSet::new();
    for number in 0..CLIENTS {
        // Every other one logs in with each request.
        let who = (number % 2 == 0).then(|| basic("ci", PASSWORD));
        pulling.spawn(pull.clone().until(Arc::clone(&stop), who));
    }
    let start = Instant::now();
    let mut refused = 0;
    for number in 0..RELOADS {
        refused += usize::from(files.reload(&server, number).await? == "refused");
    }
    let took = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    let (mut pulls, mut failures) = (0, Vec::new());
    for mut client in pulling.join_all().await {
        pulls += client.pulls;
        failures.append(&mut client.failures);
    }
    println!(
        "reload: {RELOADS} reloads, of which {refused} were refused, in {:.1} s",
        took.as_secs_f64()
    );
    println!(
        "  {CLIENTS} clients pulled meanwhile {pulls} times a manifest and a blob of {} MiB",
        BLOB >> 20
    );
    println!("  failed requests and cut pulls: {} (required: 0)", failures.len());
    ensure!(failures.is_empty(), "the first: {:?}", failures.first());
    ensure!(pulls > CLIENTS, "hardly anything was pulled");
    Ok(())
}

/// What a client does, again and again.
#[derive(Clone)]
struct Pull {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    manifest: Arc<Content>,
    blob: Arc<Content>,
}

#[derive(Debug, Default)]
struct Pulled {
    pulls: usize,
    failures: Vec<anyhow::Error>,
}

impl Pull {
    async fn until(self, stop: Arc<AtomicBool>, who: Option<String>) -> Pulled {
        let mut pulled = Pulled::default();
        while !stop.load(Ordering::Relaxed) {
            match self.over_one_connection(who.as_deref()).await {
                Ok(()) => pulled.pulls += EACH,
                Err(failure) => pulled.failures.push(failure),
            }
        }
        pulled
    }

    async fn over_one_connection(&self, who: Option<&str>) -> anyhow::Result<()> {
        let mut client = Client::connect_with(self.address, 256 << 10, Some(&self.tls)).await?;
        for _ in 0..EACH {
            for (path, digest) in [
                (manifest_path(TAG), &self.manifest.digest),
                (blob_path(&self.blob), &self.blob.digest),
            ] {
                let request = who.map_or_else(|| request(&path), |who| request_as(&path, who));
                ensure!(
                    *digest == received(&mut client, &request).await?,
                    "wrong content of {path}"
                );
            }
        }
        Ok(())
    }
}

async fn received(client: &mut Client, request: &[u8]) -> anyhow::Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    timeout(PATIENCE, client.get(request, |bytes| hasher.update(bytes))).await??;
    Ok(hasher.finish())
}

/// What is replaced.
struct Files {
    folder: PathBuf,
    authority: Authority,
    tls: Pair,
    hash: String,
    /// The configuration as it is at first; its rules stand last.
    base: String,
}

impl Files {
    fn write(folder: &Path) -> anyhow::Result<Self> {
        let authority = Authority::new()?;
        let (tls, hash) = (authority.pair(folder)?, bcrypt::hash(PASSWORD, 4)?);
        let files = Self { folder: folder.to_owned(), authority, tls, hash, base: String::new() };
        replace(&files.users(), &format!("ci:{}\n", files.hash))?;
        Ok(files)
    }

    fn configuration(&self) -> PathBuf {
        self.folder.join("roadstead.yaml")
    }

    fn users(&self) -> PathBuf {
        self.folder.join("htpasswd")
    }

    fn sections(&self) -> String {
        let [certificate, key, users] = [&self.tls.certificate, &self.tls.key, &self.users()]
            .map(|path| path.display().to_string());
        format!(
            "tls: {{ certificate: '{certificate}', key: '{key}' }}\naccess:\n  users: '{users}'\n  rules:\n    \
             - {{ who: anonymous, allow: [pull], images: [\"**\"] }}\n"
        )
    }

    /// Replaces one thing, ten times in a row and once of those by something broken; what was
    /// counted.
    async fn reload(&self, server: &Server, number: usize) -> anyhow::Result<&'static str> {
        let part = ["configuration", "users", "tls"][number / 10 % 3];
        let broken = number % 10 == 4;
        let outcome = if broken { "refused" } else { "loaded" };
        let series = format!("roadstead_reloads_total{{outcome=\"{outcome}\",part=\"{part}\"}}");
        let before = server.metric(&series).await?;
        self.change(part, number, broken)?;
        let pid =
            i32::try_from(server.pid()).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, Signal::HUP)?;
        let counted = async {
            while server.metric(&series).await? <= before {
                sleep(Duration::from_millis(1)).await;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, counted)
            .await
            .with_context(|| format!("{part} was never {outcome}"))??;
        Ok(outcome)
    }

    fn change(&self, part: &str, number: usize, broken: bool) -> anyhow::Result<()> {
        match part {
            "configuration" if broken => {
                replace(&self.configuration(), &format!("listen: [{number}"))
            }
            "configuration" => {
                let rule = format!(
                    "    - {{ who: \"user:more{number}\", allow: [pull], images: [\"**\"] }}\n"
                );
                replace(&self.configuration(), &(self.base.clone() + &rule))
            }
            "users" if broken => replace(&self.users(), &format!("ci {number}\n")),
            "users" => replace(&self.users(), &format!("ci:{0}\nmore{number}:{0}\n", self.hash)),
            _ if broken => replace(&self.tls.certificate, &format!("broken {number}")),
            _ => {
                let (certificate, key) = self.authority.issue()?;
                replace(&self.tls.key, &key)?;
                replace(&self.tls.certificate, &certificate)
            }
        }
    }
}

/// At once, as whoever replaces files of a running server should.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, path)?)
}
