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
/// With right logins among the wrong ones: long enough for a hundred addresses to come twice.
const MIXED: Duration = Duration::from_secs(20);
/// Between two wrong logins: twenty a second.
const WRONG_EVERY: Duration = Duration::from_millis(50);
/// Between two right ones, each of another user from a new address, so that none is remembered.
const RIGHT_EVERY: Duration = Duration::from_secs(1);
const USERS: u16 = 32;
/// A right login takes no longer.
const REQUIRED: Duration = Duration::from_secs(2);
const PASSWORD: &str = "right";

/// The name that the hashing thread has.
const THREAD: &str = "passwords";

/// Twenty wrong logins a second.
#[derive(Clone, Copy, Debug)]
struct Attack {
    /// Each in turn.
    addresses: u8,
    names: Names,
}

#[derive(Clone, Copy, Debug)]
enum Names {
    /// Another one each time, and nobody's.
    Random,
    /// Always the same, of a user who does not log in meanwhile.
    One,
    /// Of the users who log in meanwhile.
    Users,
}

impl Attack {
    const ALL: [Self; 5] = [
        Self { addresses: 1, names: Names::Random },
        Self { addresses: 1, names: Names::Users },
        Self { addresses: 100, names: Names::Random },
        Self { addresses: 100, names: Names::One },
        Self { addresses: 100, names: Names::Users },
    ];

    fn name(self, number: usize) -> String {
        match self.names {
            Names::Random => format!("stranger{number}"),
            Names::One => "victim".to_owned(),
            Names::Users => format!("user{}", number % usize::from(USERS)),
        }
    }
}

pub(crate) async fn run() -> anyhow::Result<()> {
    let kinds = [("bcrypt 12", bcrypt::hash(PASSWORD, 12)?), ("argon2id 19 MiB, t=2", argon2id()?)];
    println!(
        "logins: a wrong one every {WRONG_EVERY:?}; right ones every {RIGHT_EVERY:?}, each from a new address"
    );
    for (kind, hash) in kinds {
        for attack in Attack::ALL {
            println!("  {kind}, {} addresses, names: {:?}", attack.addresses, attack.names);
            costs(&hash, attack).await?;
            right_ones(&hash, attack).await?;
        }
    }
    Ok(())
}

/// What the attack costs the proxy and those who pull.
async fn costs(hash: &str, attack: Attack) -> anyhow::Result<()> {
    let (_folder, _origin, server, manifest) = started(hash).await?;
    let idle = observe(&server, &manifest, sleep(IDLE)).await?;
    let wrong = wrong_ones(server.address, attack, ATTACK);
    let attacked = observe(&server, &manifest, wrong).await?;
    ensure!(server.threads(THREAD)?.len() == 1, "there is more than one hashing thread");
    let wrong = attacked.during?;
    let count = |status| wrong.iter().filter(|(one, _)| *one == status).count();
    let [before, meanwhile] =
        [&idle.waits, &attacked.waits].map(|waits| millis(quantile(waits, 0.99)));
    let [hashing, all, usual] =
        [attacked.hashing, attacked.all, idle.all].map(|share| share * 100.0);
    println!(
        "    wrong: {}, of which {} heard 401 and {} 429",
        wrong.len(),
        count(401),
        count(429)
    );
    println!("    manifest p99 {meanwhile} (required: twice that of idle, {before})");
    println!(
        "    of one core: hashing {hashing:.1} % (required: 30), process {all:.1} % (idle {usual:.1})"
    );
    Ok(())
}

/// What those notice who are right, from the first second of the attack on.
async fn right_ones(hash: &str, attack: Attack) -> anyhow::Result<()> {
    let (_folder, _origin, server, _) = started(hash).await?;
    let (address, mut right) = (server.address, JoinSet::new());
    let attacking = tokio::spawn(wrong_ones(address, attack, MIXED));
    let (mut pace, start) = (interval(RIGHT_EVERY), Instant::now());
    // Nobody is right in the first moment, when there is nothing to wait for yet.
    pace.tick().await;
    for number in 0..u16::try_from(MIXED.as_secs() - 1)? {
        pace.tick().await;
        let [high, low] = number.to_be_bytes();
        let user = format!("user{}", number % USERS);
        let began = start.elapsed();
        right.spawn(async move {
            let (status, took) =
                login(address, Ipv4Addr::new(127, 1, high, low + 1), &user, PASSWORD).await?;
            anyhow::Ok((began, status, took))
        });
    }
    let mut right = right.join_all().await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    right.sort_unstable();
    attacking.await??;
    let let_in = right.iter().filter(|(_, status, _)| *status == 200);
    let took: Vec<Duration> = let_in.map(|(_, _, took)| *took).collect();
    let (half, most) = (millis(median(&took)), millis(quantile(&took, 1.0)));
    println!(
        "    right: {} of {} let in, after {half}, at most {most} (required: all, 2000 ms)",
        took.len(),
        right.len()
    );
    for (began, status, took) in
        right.iter().filter(|(_, status, took)| *status != 200 || *took > REQUIRED)
    {
        println!(
            "      the one of {:.0} s: {status} after {}",
            began.as_secs_f64(),
            millis(Some(*took))
        );
    }
    Ok(())
}

/// A proxy with users who all have this hash, and the path of a manifest that it has in memory.
async fn started(hash: &str) -> anyhow::Result<(tempfile::TempDir, Origin, Server, String)> {
    let folder = server::folder()?;
    let origin = Origin::start().await?;
    let blob = Content::blob(0, 1 << 10);
    let manifest = Content::manifest(std::slice::from_ref(&blob));
    origin.add_manifest(&manifest);
    let users = folder.path().join("htpasswd");
    let names = (0..USERS).map(|user| format!("user{user}")).chain(["victim".to_owned()]);
    let lines: Vec<String> = names.map(|name| format!("{name}:{hash}")).collect();
    fs::write(&users, lines.join("\n"))?;
    let access = format!(
        "access:\n  users: '{}'\n  rules:\n    - {{ who: anonymous, allow: [pull], images: [\"**\"] }}\n",
        users.display()
    );
    let server = server::roadstead_with(folder.path(), origin.address, &access).await?;
    let path = manifest_path(manifest.digest.as_str());
    fetch(server.address, &path).await?;
    Ok((folder, origin, server, path))
}

/// What the server did while something else went on.
struct Observed<T> {
    during: T,
    waits: Vec<Duration>,
    /// Shares of one core.
    hashing: f64,
    all: f64,
}

async fn observe<T>(
    server: &Server,
    manifest: &str,
    what: impl Future<Output = T>,
) -> anyhow::Result<Observed<T>> {
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

/// Status of each wrong login, and how long it took.
async fn wrong_ones(
    server: SocketAddr,
    attack: Attack,
    during: Duration,
) -> anyhow::Result<Vec<(u16, Duration)>> {
    let (mut wrong, mut pace, end) =
        (JoinSet::new(), interval(WRONG_EVERY), Instant::now() + during);
    while Instant::now() < end {
        pace.tick().await;
        let number = wrong.len();
        let source =
            Ipv4Addr::new(127, 0, 0, u8::try_from(number % usize::from(attack.addresses))? + 2);
        let (user, password) = (attack.name(number), format!("wrong{number}"));
        wrong.spawn(async move { login(server, source, &user, &password).await });
    }
    wrong.join_all().await.into_iter().collect()
}

/// Asks for a token from `source`; the status, and how long it took.
async fn login(
    server: SocketAddr,
    source: Ipv4Addr,
    user: &str,
    password: &str,
) -> anyhow::Result<(u16, Duration)> {
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
    let hash =
        Argon2::from(params).hash_password_with_salt(PASSWORD.as_bytes(), b"saltsaltsaltsalt");
    Ok(hash.map_err(|error| wrong(&error))?.to_string())
}
