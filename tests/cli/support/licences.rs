//! Licences: issued by the command, or written as no command would; and those who ask for them.

use std::fs;
use std::io::Write;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::Duration;

use roadstead::clock::{Clock, Timestamp};
use roadstead::config::LicenceFile;
use roadstead::licence::{Licence, LicenceId, PrivateKey, Slug};
use tempfile::TempDir;

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

/// Puts a licence into the directory, as `licences/<id>`; it is issued and begins at the first day
/// from now and is good for an hour after the second.
pub(crate) fn put(
    directory: &TempDir,
    id: &str,
    host: &str,
    applications: &[&str],
    days: Range<i64>,
) {
    let hour = 3600;
    let now = i64::try_from(Clock::system().now().unix().as_secs()).expect("a small number");
    let at = |days: i64, more| {
        Timestamp::from_unix(Duration::from_secs(
            u64::try_from(now + 24 * hour * days + more).expect("after 1970"),
        ))
    };
    let licence = Licence {
        id: LicenceId::parse(id).expect(id),
        issuer: "Acme Inc.".to_owned(),
        customer: "Customer GmbH".to_owned(),
        email: None,
        applications: applications.iter().map(|slug| Slug::parse(slug).expect(slug)).collect(),
        hosts: vec![host.to_owned()],
        issued: at(days.start, 0),
        not_before: at(days.start, 0),
        expires: at(days.end, hour),
    };
    let token = PrivateKey::generate().and_then(|key| key.sign(&licence)).expect("a token");
    let folder = directory.path().join("licences");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join(id), LicenceFile::write(&licence, &token)).expect("writable");
}

/// Files that are no licences, each in another way, beside the good ones.
pub(crate) fn spoil(directory: &TempDir) {
    let folder = directory.path().join("licences");
    fs::create_dir_all(&folder).expect("a folder");
    fs::write(folder.join("broken"), "version: 1\n").expect("writable");
    fs::write(folder.join("binary"), b"\xff\xfe").expect("writable");
    fs::write(folder.join("large"), "#".repeat(20_000)).expect("writable");
    std::os::unix::fs::symlink("nowhere", folder.join("unreadable")).expect("a link");
}

pub(crate) fn complains_of_what_was_spoilt(stderr: &str) -> bool {
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
pub(crate) fn asked(
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
