//! Servers as real processes: started in a folder of their own, metered through `/proc`, gone when
//! dropped.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::client::{Client, request};

/// The kernel's unit of CPU time in `/proc`: 1/100 s on every architecture that this runs on.
const TICK: Duration = Duration::from_millis(10);

/// How long a server may take to listen.
const START: Duration = Duration::from_secs(15);

/// A server, and the processes it starts itself.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Where roadstead has its metrics.
    admin: Option<SocketAddr>,
    child: Child,
}

/// CPU time used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cpu {
    pub(crate) user: Duration,
    pub(crate) system: Duration,
}

impl Cpu {
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }
}

impl Server {
    /// Runs `command`, its output in `folder`, and waits until it listens on `address`.
    pub(crate) async fn start(
        name: &'static str,
        folder: &Path,
        mut command: Command,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let output = folder.join(format!("{name}.log"));
        let log = File::create(&output)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("{name} does not start"))?;
        let mut server = Self { name, address, admin: None, child };
        let deadline = Instant::now() + START;
        while TcpStream::connect(address).await.is_err() {
            let ended = server.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                bail!("{name} does not listen ({ended:?}):\n{}", fs::read_to_string(&output)?);
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Of the process and its children.
    pub(crate) fn cpu(&self) -> anyhow::Result<Cpu> {
        let mut sum = Cpu::default();
        for pid in self.family()? {
            let Stat { user, system, .. } = Stat::of(pid).context("a server process has ended")?;
            sum.user += user;
            sum.system += system;
        }
        Ok(sum)
    }

    /// Of each of its threads that has this name.
    pub(crate) fn threads(&self, name: &str) -> anyhow::Result<Vec<Cpu>> {
        let named = |task: &Path| {
            fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid()))?
            .filter_map(|task| Some(task.ok()?.path()));
        let stats = tasks.filter(|task| named(task)).filter_map(|task| Stat::read(&task));
        Ok(stats.map(|Stat { user, system, .. }| Cpu { user, system }).collect())
    }

    /// One number of `/proc/PID/status` or `/proc/PID/io`, as `RssAnon` (KiB) or `read_bytes`.
    pub(crate) fn figure(&self, file: &str, key: &str) -> anyhow::Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_ascii_whitespace().next());
        Ok(number.with_context(|| format!("{key} in {file}"))?.parse()?)
    }

    /// One series of its metrics; zero as long as there is none.
    pub(crate) async fn metric(&self, series: &str) -> anyhow::Result<u64> {
        let mut client = Client::connect(self.admin.context("no metrics here")?, 64 << 10).await?;
        let (_, text) = client.whole(&request("/metrics")).await?;
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        Ok(line.map_or(Ok(0), |value| value.trim().parse())?)
    }

    /// The process and its children.
    fn family(&self) -> anyhow::Result<Vec<u32>> {
        let own = self.pid();
        let everyone = fs::read_dir("/proc")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let children = everyone.filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.parent == own));
        Ok(std::iter::once(own).chain(children).collect())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The parent first, so that it starts no new children; a process that has ended already is
        // no matter.
        for pid in self.family().unwrap_or_default() {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            let _ = pid.map(|pid| kill_process(pid, Signal::KILL));
        }
        let _ = self.child.wait();
    }
}

/// The fields of `/proc/PID/stat` that count here.
struct Stat {
    parent: u32,
    user: Duration,
    system: Duration,
}

impl Stat {
    /// `None` if there is no such process any more.
    fn of(pid: u32) -> Option<Self> {
        Self::read(Path::new(&format!("/proc/{pid}")))
    }

    /// Of a process or of one thread, by its folder.
    fn read(folder: &Path) -> Option<Self> {
        let text = fs::read_to_string(folder.join("stat")).ok()?;
        // The name in parentheses may hold anything; the fields behind it are state, parent, …,
        // utime and stime.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let ticks = |at: usize| Some(TICK * fields.get(at)?.parse().ok()?);
        Some(Self { parent: fields.get(1)?.parse().ok()?, user: ticks(11)?, system: ticks(12)? })
    }
}

/// A folder below cargo's target folder, so that it lies on a disk; gone when dropped.
pub(crate) fn folder() -> anyhow::Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
}

/// Two addresses that nobody listens on just now.
pub(crate) fn free_addresses() -> anyhow::Result<[SocketAddr; 2]> {
    let both = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
    Ok([both[0].local_addr()?, both[1].local_addr()?])
}

/// roadstead in front of `origin`, with a cache below `folder`.
pub(crate) async fn roadstead(folder: &Path, origin: SocketAddr) -> anyhow::Result<Server> {
    roadstead_with(folder, origin, "").await
}

/// The same with `more` lines in its configuration.
pub(crate) async fn roadstead_with(
    folder: &Path,
    origin: SocketAddr,
    more: &str,
) -> anyhow::Result<Server> {
    ensure!(!cfg!(debug_assertions), "speed is measured with `cargo bench`");
    build("roadstead", Path::new(env!("CARGO_BIN_EXE_roadstead")), folder, origin, more).await
}

/// The same of any build, told from others by `name`.
pub(crate) async fn build(
    name: &'static str,
    program: &Path,
    folder: &Path,
    origin: SocketAddr,
    more: &str,
) -> anyhow::Result<Server> {
    let [listen, admin] = free_addresses()?;
    let root = folder.display();
    let config = folder.join("roadstead.yaml");
    let text = format!(
        "listen: {listen}\nadmin: {admin}\ncache: {{ path: '{root}/cache', tag_ttl: 1h, proof_ttl: 1h, \
         min_free: 1GiB }}\ndefault_upstream: origin.test\nupstreams:\n  origin.test: {{ url: 'http://{origin}' }}\n{more}"
    );
    fs::write(&config, text)?;
    let mut command = Command::new(program);
    command.arg("serve").arg("--config").arg(config).env_remove("RUST_LOG");
    let mut server = Server::start(name, folder, command, listen).await?;
    server.admin = Some(admin);
    Ok(server)
}
