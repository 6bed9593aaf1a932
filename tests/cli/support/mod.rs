//! The binary, with a configuration in a directory of its own.

mod licence_file;
pub(crate) mod licences;

use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

pub(crate) fn roadstead(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    command.args(arguments).env_remove("RUST_LOG").env_remove("ROADSTEAD_CONFIG");
    command
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).expect("text")
}

/// A directory with a configuration on fresh ports; `more` are further lines.
pub(crate) fn directory(more: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config.yaml");
    let cache = directory.path().join("cache");
    let base = format!(
        "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\ndrain_delay: 0s\ncache: {{ path: {} }}\n",
        cache.display()
    );
    fs::write(&file, base + more).expect("writable");
    (directory, file)
}

pub(crate) fn run(command: &mut Command) -> Output {
    command.output().expect("the binary runs")
}

/// A running proxy, killed when the test ends.
pub(crate) struct Serving {
    child: Child,
    stderr: BufReader<ChildStderr>,
    /// Goes with it.
    directory: Option<TempDir>,
}

impl Serving {
    pub(crate) fn start(more: &str, arguments: &[&str]) -> Self {
        let mut command = roadstead(&["serve"]);
        command.args(arguments);
        Self::spawn(&mut command, more)
    }

    /// By a command that ends up as `roadstead serve`.
    pub(crate) fn spawn(command: &mut Command, more: &str) -> Self {
        let (directory, file) = directory(more);
        let mut serving = Self::spawn_with(&file, command);
        serving.directory = Some(directory);
        serving
    }

    /// With a configuration that is there already, and stays.
    pub(crate) fn spawn_with(file: &Path, command: &mut Command) -> Self {
        command.env("ROADSTEAD_CONFIG", file).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().expect("the binary runs");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, stderr, directory: None }
    }

    /// Lines up to and with the first that contains `mark`.
    pub(crate) fn until(&mut self, mark: &str) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.stderr.read_line(&mut line).expect("readable");
            assert!(read > 0, "{mark:?} never came; before the end came {lines:#?}");
            lines.push(line.trim_end().to_owned());
            if line.contains(mark) {
                return lines;
            }
        }
    }

    /// Goes on reading what it says, so that it is not held up by that.
    pub(crate) fn read_on(&mut self) {
        let said = self.stderr.get_ref().as_fd().try_clone_to_owned().expect("a descriptor");
        std::thread::spawn(move || io::copy(&mut fs::File::from(said), &mut io::sink()));
    }

    pub(crate) fn id(&self) -> Pid {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).expect("it runs");
    }

    /// Exit code and the rest of what it said.
    pub(crate) fn end(mut self) -> (Option<i32>, String) {
        let mut rest = String::new();
        self.stderr.read_to_string(&mut rest).expect("readable");
        (self.child.wait().expect("it ends").code(), rest)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
