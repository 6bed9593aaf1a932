//! Other programs, each with its own log files and gone when its [`Process`] is dropped.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::time::{Instant, sleep};

/// How long any one step may take before it counts as hung.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A running program. Its output is in `NAME.out` and `NAME.err` of the folder it was started with;
/// the end of both is shown if the test fails.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Process {
    /// Starts `command` in a process group of its own.
    pub(crate) fn start(name: &str, folder: &Path, command: Command) -> Self {
        let err = file(&folder.join(format!("{name}.err")));
        Self::logging_to(name, folder, command, err)
    }

    /// The same, with its standard error somewhere else.
    pub(crate) fn logging_to(
        name: &str,
        folder: &Path,
        mut command: Command,
        err: impl Into<Stdio>,
    ) -> Self {
        let out = folder.join(format!("{name}.out"));
        command.stdin(Stdio::null()).stdout(file(&out)).stderr(err).process_group(0);
        let child =
            command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        Self { name: name.into(), child, out, err: folder.join(format!("{name}.err")) }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn out(&self) -> String {
        read(&self.out)
    }

    pub(crate) fn err(&self) -> String {
        read(&self.err)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("a child that was not waited for can be signalled");
    }

    /// The status once it has ended by itself.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for its end.
    pub(crate) async fn exit(&mut self, patience: Duration) -> ExitStatus {
        let name = self.name.clone();
        poll(&format!("the end of {name}"), patience, async || self.ended()).await
    }

    /// Waits until `condition` holds; fails early if the program ends first.
    pub(crate) async fn until<T>(
        &mut self,
        what: &str,
        mut condition: impl AsyncFnMut(&Self) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = condition(self).await {
                return value;
            }
            let status = self.ended();
            assert!(status.is_none(), "{} ended ({status:?}) before {what}", self.name);
            assert!(Instant::now() < deadline, "{}: no {what} in {PATIENCE:?}", self.name);
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// The last lines of what it wrote.
    fn report(&self) -> String {
        format!(
            "--- {0} stdout\n{1}\n--- {0} stderr\n{2}",
            self.name,
            tail(&self.out()),
            tail(&self.err())
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // The group, so that what it started goes with it.
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "{}", self.report());
        }
    }
}

/// Runs `command` to its successful end and returns its standard output.
pub(crate) async fn run(name: &str, folder: &Path, command: Command) -> String {
    let mut process = Process::start(name, folder, command);
    let status = process.exit(PATIENCE).await;
    assert!(status.success(), "{name}: {status}");
    process.out()
}

/// Runs `command` to its end, which has to be a failure, and returns all that it said.
pub(crate) async fn fail(name: &str, folder: &Path, command: Command) -> String {
    let mut process = Process::start(name, folder, command);
    let status = process.exit(PATIENCE).await;
    assert!(!status.success(), "{name} succeeded");
    process.out() + &process.err()
}

/// Asks `condition` until it has an answer.
pub(crate) async fn poll<T>(
    what: &str,
    patience: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "no {what} in {patience:?}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A command whose mounts vanish with it, for daemons that mount.
pub(crate) fn unmounting(program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", program]);
    command
}

/// What a test cannot run without.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Need {
    Root,
    Program(&'static str),
}

impl Need {
    fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!rustix::process::geteuid().is_root()).then(|| "needs root".into()),
            Self::Program(name) => (!installed(name)).then(|| format!("{name} is not installed")),
        }
    }
}

/// True if the test can run. If not, says why on a line of its own that `./test` counts; in CI that
/// is a failure.
pub(crate) fn ready(needs: &[Need]) -> bool {
    let Some(reason) = needs.iter().find_map(|need| need.missing()) else { return true };
    assert!(std::env::var_os("CI").is_none(), "cannot be skipped in CI: {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // The raw stream: the test runner swallows what the print macros write.
    let _ = writeln!(std::io::stderr(), "\nskipped: {test}: {reason}");
    false
}

fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn file(path: &Path) -> File {
    File::create(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
