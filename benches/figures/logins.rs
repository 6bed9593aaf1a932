//! What wrong logins cost the server, and those who log in or pull meanwhile (ACCESS §5.3).

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use argon2::{Argon2, PasswordHasher};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::client::PATIENCE;
use crate::content::Content;
use crate::origin::{Origin, manifest_path};
use crate::pages::{ask, fetch};
use crate::server::{self, Cpu, Server};
use crate::stats::{median, millis, quantile};

const IDLE: Duration = Duration::from_secs(10);
const ATTACK: Duration = Duration::from_secs(30);
/// Between two wrong logins: twenty a second.
const WRONG_EVERY: Duration = Duration::from_millis(50);
/// Between two right ones, each of another user from another address, so that none is remembered.
const RIGHT_EVERY: Duration = Duration::from_secs(2);
const USERS: u8 = 16;
const PASSWORD: &str = "right";

/// The name that the hashing thread has.
const THREAD: &str = "passwords";

pub(crate) async fn run() -> anyhow::Result<()> {
    let kinds = [
        ("bcrypt 10", bcrypt::hash(PASSWORD, 10)?),
        ("bcrypt 12", bcrypt::hash(PASSWORD, 12)?),
        ("argon2id 19 MiB, t=2", argon2id()?),
    ];
    println!("logins: a wrong one every {WRONG_EVERY:?} for {ATTACK:?}, each for another user");
    for (kind, hash) in kinds {
        for addresses in [1, 100] {
            println!("  {kind}, addresses: {addresses}");
            measure(&hash, addresses).await?;
        }
    }
    Ok(())
}

async fn measure(hash: &str, addresses: u8) -> anyhow::Result<()> {
    let folder = server::folder()?;
    let origin = Origin::start().await?;
    let blob = Content::blob(0, 1 << 10);
    let manifest = Content::manifest(std::slice::from_ref(&blob));
    origin.add_manifest(&manifest);
    let users = folder.path().join("htpasswd");
    let lines: Vec<String> = (0..USERS).map(|user| format!("user{user}:{hash}")).collect();
    fs::write(&users, lines.join("\n"))?;
    let access = format!(
        "access:\n  users: '{}'\n  rules:\n    - {{ who: anonymous, allow: [pull], images: [\"**\"] }}\n",
        users.display()
    );
    let server = server::roadstead_with(folder.path(), origin.address, &access).await?;
    let path = manifest_path(manifest.digest.as_str());
    fetch(server.address, &path).await?;
    let idle = observe(&server, &path, sleep(IDLE)).await?;
    let attack = observe(&server, &path, attack(server.address, addresses)).await?;
    ensure!(server.threads(THREAD)?.len() == 1, "there is more than one hashing thread");
    attack.during?.print();
    let (before, meanwhile) = (quantile(&idle.waits, 0.99), quantile(&attack.waits, 0.99));
    println!("    manifest p99 {} (required: twice that of idle, {})", millis(meanwhile), millis(before));
    let [hashing, all, usual] = [attack.hashing, attack.all, idle.all].map(|share| share * 100.0);
    println!("    of one core: hashing {hashing:.1} % (required: 30), process {all:.1} % (idle {usual:.1})");
    Ok(())
}

/// What the server did while something else went on.
struct Observed<T> {
    during: T,
    waits: Vec<Duration>,
    /// Shares of one core.
    hashing: f64,
    all: f64,
}

async fn observe<T>(server: &Server, manifest: &str, what: impl Future<Output = T>) -> anyhow::Result<Observed<T>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asking = ask(server.address, manifest, &stop);
    let (start, all_before, hashing_before) = (Instant::now(), server.cpu()?, hashing(server)?);
    let during = what.await;
    let took = start.elapsed();
    let share = |cpu: Cpu| (cpu.user + cpu.system).as_secs_f64() / took.as_secs_f64();
    let all = share(server.cpu()?.since(all_before));
    let hashing = share(hashing(server)?.since(hashing_before));
    stop.store(true, Ordering::Relaxed);
    let waits = asking.join_all().await.into_iter().collect::<Result<Vec<_>, _>>()?.concat();
    Ok(Observed { during, waits, hashing, all })
}

fn hashing(server: &Server) -> anyhow::Result<Cpu> {
    server.threads(THREAD)?.first().copied().context("there is no hashing thread")
}

/// How the logins went: status, and how long each took.
#[derive(Debug)]
struct Logins {
    wrong: Vec<(u16, Duration)>,
    right: Vec<(u16, Duration)>,
}

async fn attack(server: SocketAddr, addresses: u8) -> anyhow::Result<Logins> {
    let (mut wrong, mut right) = (JoinSet::new(), JoinSet::new());
    let (mut strangers, mut friends) = (interval(WRONG_EVERY), interval(RIGHT_EVERY));
    let end = Instant::now() + ATTACK;
    // Nobody is right in the first moment, when there is nothing to wait for yet.
    friends.tick().await;
    while Instant::now() < end {
        tokio::select! {
            _ = strangers.tick() => {
                let number = wrong.len();
                let source = Ipv4Addr::new(127, 0, 0, u8::try_from(number % usize::from(addresses))? + 2);
                wrong.spawn(async move { login(server, source, &format!("stranger{number}"), "wrong").await });
            }
            _ = friends.tick() => {
                let number = u8::try_from(right.len())? % USERS;
                let source = Ipv4Addr::new(127, 0, 0, 200 + number);
                right.spawn(async move { login(server, source, &format!("user{number}"), PASSWORD).await });
            }
        }
    }
    let wrong = wrong.join_all().await.into_iter().collect::<Result<_, _>>()?;
    let right = right.join_all().await.into_iter().collect::<Result<_, _>>()?;
    Ok(Logins { wrong, right })
}

impl Logins {
    fn print(&self) {
        let count = |status| self.wrong.iter().filter(|(one, _)| *one == status).count();
        let all = self.wrong.len();
        println!("    wrong: {all}, of which {} were checked (401) and {} told to wait (429)", count(401), count(429));
        let let_in = self.right.iter().filter(|(status, _)| *status == 200);
        let took: Vec<Duration> = let_in.map(|(_, took)| *took).collect();
        let (half, most) = (millis(median(&took)), millis(quantile(&took, 1.0)));
        let (good, all) = (took.len(), self.right.len());
        println!("    right: {good} of {all} let in, after {half}, at most {most} (required: all, 2000 ms)");
    }
}

/// Asks for a token from `source`; the status, and how long it took.
async fn login(server: SocketAddr, source: Ipv4Addr, user: &str, password: &str) -> anyhow::Result<(u16, Duration)> {
    let basic = STANDARD.encode(format!("{user}:{password}"));
    let request = format!(
        "GET /token?service=bench HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {basic}\r\n\
         Connection: close\r\n\r\n"
    );
    let start = Instant::now();
    let asked = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let mut stream = socket.connect(server).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = timeout(PATIENCE, asked).await??;
    let took = start.elapsed();
    let head = std::str::from_utf8(answer.get(..12).context("no status")?)?;
    Ok((head.trim_start_matches("HTTP/1.1 ").parse()?, took))
}

/// 19 MiB, two passes, one lane.
fn argon2id() -> anyhow::Result<String> {
    let wrong = |error: &dyn std::fmt::Display| anyhow::anyhow!("argon2id: {error}");
    let params = argon2::Params::new(19 * 1024, 2, 1, None).map_err(|error| wrong(&error))?;
    let hash = Argon2::from(params).hash_password_with_salt(PASSWORD.as_bytes(), b"saltsaltsaltsalt");
    Ok(hash.map_err(|error| wrong(&error))?.to_string())
}
