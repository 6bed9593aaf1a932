//! A docker credential helper: a program that is asked for a login and prints it (PROTOCOL §2.6).
//!
//! It runs without a shell, in the environment of this process, within a deadline; then it and
//! whatever it has started are killed. What it prints is held back even in failures, since a secret
//! may stand in it; of what it says on stderr one line goes to the log.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::login::Login;
use crate::oci::UpstreamName;
use crate::secret::Secret;
use crate::upstream::error::{ErrorKind, Failure, Symptom};

/// Bytes of an answer.
const LARGEST_ANSWER: usize = 64 * 1024;
/// Bytes of stderr that are kept, and characters of it that are shown.
const LARGEST_COMPLAINT: usize = 4 * 1024;
const LONGEST_COMPLAINT: usize = 300;
/// What all helpers say if they keep no login for a server.
const NONE: &[u8] = b"credentials not found in native keychain";
/// In the place of a user: the secret is not a password.
const IDENTITY_TOKEN: &str = "<token>";

/// One helper, and what it is asked.
#[derive(Debug)]
pub(in crate::upstream) struct Helper {
    /// Who needs the login, for the log.
    pub(in crate::upstream) upstream: UpstreamName,
    pub(in crate::upstream) program: PathBuf,
    /// The key under which it keeps the login.
    pub(in crate::upstream) server: String,
    pub(in crate::upstream) deadline: Duration,
}

/// What a helper left behind.
struct Answer {
    status: ExitStatus,
    stdout: Zeroizing<Vec<u8>>,
    stderr: Zeroizing<Vec<u8>>,
}

impl Helper {
    /// Runs the helper. `None`: it has no login for this server.
    ///
    /// # Errors
    /// `NoLogin`, with a reason that names the helper and holds nothing that it printed.
    pub(in crate::upstream) async fn login(&self) -> Result<Option<Login>, Failure> {
        let late = |_| format!("gave no answer within {} s", self.deadline.as_secs());
        let ran = tokio::time::timeout(self.deadline, self.run()).await.map_err(late).flatten();
        let said = ran
            .as_ref()
            .map(|answer| complaint(&answer.stderr, &answer.stdout))
            .unwrap_or_default();
        let login = ran.and_then(|answer| login(answer.status, &answer.stdout));
        let (upstream, helper) = (&self.upstream, self.name());
        match &login {
            Ok(Some(_)) => {}
            Ok(None) => {
                tracing::info!(%upstream, helper, said, "the credential helper has no login; asking anonymously");
            }
            Err(reason) => {
                tracing::warn!(%upstream, helper, said, "the credential helper {reason}");
            }
        }
        login.map_err(|reason| {
            Failure::new(
                ErrorKind::NoLogin,
                Symptom::Local,
                format!("the credential helper {helper} {reason}"),
            )
        })
    }

    async fn run(&self) -> Result<Answer, String> {
        let mut child =
            Running::start(&self.program).map_err(|error| format!("cannot be run: {error}"))?;
        let (stdin, stdout, stderr) =
            (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take());
        let tell = async {
            // Some helpers do not read; dropping the pipe is the end of the request.
            let _ = stdin.expect("it is piped").write_all(self.server.as_bytes()).await;
            Ok(())
        };
        let listen = answer(stdout.expect("it is piped"));
        let (stdout, stderr, ()) =
            tokio::try_join!(listen, beginning(stderr.expect("it is piped")), tell)?;
        let status =
            child.0.wait().await.map_err(|error| format!("cannot be waited for: {error}"))?;
        Ok(Answer { status, stdout, stderr })
    }

    fn name(&self) -> &str {
        self.program.file_name().and_then(|name| name.to_str()).unwrap_or("docker-credential-?")
    }
}

/// A helper at work; if it is dropped before its end, it and what it has started are killed.
struct Running(Child);

impl Running {
    fn start(program: &Path) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true).spawn().map(Self)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // There is an id as long as nobody has waited for the process; so long the group is no one
        // else's.
        if let Some(group) = self.0.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// All of a helper's output, or a refusal as soon as it is too much.
async fn answer(stdout: impl AsyncRead + Unpin) -> Result<Zeroizing<Vec<u8>>, String> {
    // As large as it may become, so that no copy of a secret is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST_ANSWER + 1));
    let read = stdout.take(LARGEST_ANSWER as u64 + 1).read_to_end(&mut bytes).await;
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > LARGEST_ANSWER {
        return Err(format!("printed more than {LARGEST_ANSWER} bytes"));
    }
    Ok(bytes)
}

/// The beginning of a helper's stderr; the rest is read too, so that it is not kept from going on.
async fn beginning(mut stderr: impl AsyncRead + Unpin) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LARGEST_COMPLAINT));
    let _ = (&mut stderr).take(LARGEST_COMPLAINT as u64).read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    Ok(bytes)
}

/// User and secret out of what a helper printed. The parser's error is left out: it may quote what
/// it has read.
fn printed(stdout: &[u8]) -> Option<(String, Secret)> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Printed {
        username: String,
        secret: String,
    }
    let printed: Printed = serde_json::from_slice(stdout).ok()?;
    Some((printed.username, Secret::new(printed.secret)))
}

/// What a helper that has ended means. The reason goes on from "the credential helper NAME".
fn login(status: ExitStatus, stdout: &[u8]) -> Result<Option<Login>, String> {
    if status.code() == Some(1) && stdout.trim_ascii() == NONE {
        return Ok(None);
    }
    if !status.success() {
        return Err(format!("failed ({status})"));
    }
    let Some((username, secret)) = printed(stdout) else {
        return Err("printed no login (JSON with Username and Secret)".to_owned());
    };
    if username == IDENTITY_TOKEN {
        return Err(
            "has an identity token for this upstream; only a user and a password can be used"
                .to_owned(),
        );
    }
    if username.is_empty() || secret.expose().is_empty() {
        return Err("printed a login without a user or without a password".to_owned());
    }
    Ok(Some(Login::new(&username, secret)))
}

/// One line out of stderr for the log, unless a secret may stand in it.
fn complaint(stderr: &[u8], stdout: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let output = String::from_utf8_lossy(stdout.trim_ascii());
    let repeats = |secret: &str| !secret.is_empty() && text.contains(secret);
    let is_told =
        repeats(&output) || printed(stdout).is_some_and(|(_, secret)| repeats(secret.expose()));
    if is_told || text.contains("\"Secret\"") {
        return "(withheld: a secret may stand in it)".to_owned();
    }
    let line = text.trim().replace(char::is_control, " ");
    line.chars().take(LONGEST_COMPLAINT).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn read(code: i32, stdout: &str) -> Result<Option<Login>, String> {
        login(ExitStatus::from_raw(code << 8), stdout.as_bytes())
    }

    #[test]
    fn a_login_is_read_from_an_answer_and_nothing_else() {
        let found =
            read(0, r#"{"ServerURL":"acme.test","Username":"AWS","Secret":"hush"}"#).expect("one");
        let found = found.expect("a login");
        assert_eq!((found.username(), found.password()), ("AWS", "hush"));
        assert_eq!(read(1, "credentials not found in native keychain\n"), Ok(None));
        for (code, stdout) in [
            (0, "credentials not found in native keychain"),
            (2, "credentials not found in native keychain"),
            (1, "credentials not found in native keychain, hush"),
            (1, r#"{"Username":"u","Secret":"hush"}"#),
            (0, ""),
            (0, "hush"),
            (0, r#"{"Username":"u","Secret":["hush"]}"#),
            (0, r#"{"Username":"u"}"#),
            (0, r#"{"Username":"","Secret":"hush"}"#),
            (0, r#"{"Username":"u","Secret":""}"#),
            (0, r#"{"Username":"<token>","Secret":"hush"}"#),
        ] {
            let reason = read(code, stdout).expect_err(stdout);
            assert!(!reason.contains("hush"), "{reason}");
        }
        assert!(
            read(0, r#"{"Username":"<token>","Secret":"hush"}"#)
                .expect_err("no password")
                .contains("identity")
        );
    }

    #[test]
    fn a_complaint_is_one_short_line_without_the_secret() {
        let shown = |stderr: &str, stdout: &str| complaint(stderr.as_bytes(), stdout.as_bytes());
        assert_eq!(
            shown("no region\nset \x1b[31mAWS_REGION\n", ""),
            "no region set  [31mAWS_REGION"
        );
        assert_eq!(shown(&"é".repeat(1000), "").chars().count(), LONGEST_COMPLAINT);
        for (stderr, stdout) in [
            ("hush: no such password", "hush\n"),
            ("+ echo hush", r#"{"Username":"u","Secret":"hush"}"#),
            (r#"cannot print {"Username":"u","Secret":"hush"}"#, ""),
        ] {
            assert!(!shown(stderr, stdout).contains("hush"), "{stderr}");
        }
    }
}
