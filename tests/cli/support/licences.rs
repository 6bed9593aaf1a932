//! Licences that the command issues, files that are no licences, and commands that look for one.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

pub(crate) use super::licence_file::put_licence;
use super::{roadstead, run, text};

/// Runs `licence` in a directory; what it prints if it succeeds, else what it says.
pub(crate) fn licence(directory: &TempDir, arguments: &[&str]) -> Result<String, String> {
    let output = run(roadstead(&["licence"]).args(arguments).current_dir(directory.path()));
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

pub(crate) const ISSUE: [&str; 13] = [
    "issue",
    "--key",
    "acme.key",
    "--issuer",
    "Acme Inc.",
    "--id",
    "acme-prod",
    "--customer",
    "Customer GmbH",
    "--application",
    "myapp",
    "--host",
    "registry.example.com",
];

/// Files that are no licences, each in another way, beside the good ones.
pub(crate) fn put_broken_files(directory: &TempDir) {
    let folder = directory.path().join("licences");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("broken"), "version: 1\n").expect("writable");
    fs::write(folder.join("binary"), b"\xff\xfe").expect("writable");
    fs::write(folder.join("large"), "#".repeat(20_000)).expect("writable");
    std::os::unix::fs::symlink("nowhere", folder.join("unreadable")).expect("a link");
}

pub(crate) fn complains_of_broken_files(stderr: &str) -> bool {
    [
        "broken:1: has no token",
        "binary: it is not UTF-8",
        "large is larger",
        "unreadable: No such file",
    ]
    .iter()
    .all(|part| stderr.contains(part))
}

/// Runs a command with the licences at `licence` and the request on stdin: exit code, stdout,
/// stderr.
pub(crate) fn run_with_request(
    command: &mut Command,
    directory: &TempDir,
    licence: &str,
    request: &str,
) -> (Option<i32>, String, String) {
    let mut child = command
        .env("ROADSTEAD_LICENCE", directory.path().join(licence))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("piped").write_all(request.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Takes from everybody but root the right to read it.
pub(crate) fn forbid(directory: &TempDir, path: &str) {
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode));
    mode(directory.path(), 0o755).expect("the test's own");
    mode(&directory.path().join(path), 0).expect("the test's own");
}

/// The binary by this name, run by somebody who is not root.
pub(crate) fn for_a_user(directory: &TempDir, name: &str) -> Command {
    let program = directory.path().join(name);
    if !program.exists() {
        // A copy: the folder of the build may be root's alone.
        fs::copy(env!("CARGO_BIN_EXE_roadstead"), &program).expect("room for it");
    }
    let mut command = Command::new(program);
    if rustix::process::geteuid().is_root() {
        command.uid(65_534).gid(65_534);
    }
    command
}
