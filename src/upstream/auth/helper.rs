//! A docker credential helper: a program that is asked for a login and prints it (PROTOCOL §2.6).
//!
//! It runs without a shell, in the environment of this process, within a deadline; then it and
//! whatever it has started are killed. What it prints is held back even in failures, since a secret
//! may stand in it; of what it says on stderr one line goes to the log.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use super::identity::BasicLogin;
use crate::oci::UpstreamName;
use crate::secret::Secret;
use crate::upstream::error::{ErrorKind, Fault, Symptom};

/// Bytes of stdout.
const STDOUT_MAX: usize = 64 * 1024;
/// Bytes of stderr that are kept.
const STDERR_KEPT: usize = 4 * 1024;
/// Characters of stderr that are logged.
const STDERR_SHOWN: usize = 300;
/// What all helpers print if they keep no login for a server.
const NOT_FOUND: &[u8] = b"credentials not found in native keychain";
/// The user name with which a helper says that the secret is an identity token, not a password.
const IDENTITY_TOKEN_USER: &str = "<token>";

/// One helper, and what it is asked.
#[derive(Debug)]
pub(in crate::upstream) struct CredentialHelper {
    /// Who needs the login, for the log.
    pub(in crate::upstream) upstream: UpstreamName,
    pub(in crate::upstream) program: PathBuf,
    /// The key under which it keeps the login.
    pub(in crate::upstream) server: String,
    /// Variables of the environment that it does not get.
    pub(in crate::upstream) withheld: Vec<String>,
    pub(in crate::upstream) deadline: Duration,
}

/// What a helper that has ended said.
struct HelperOutput {
    status: ExitStatus,
    stdout: Zeroizing<Vec<u8>>,
    stderr: Zeroizing<Vec<u8>>,
}

impl CredentialHelper {
    /// Runs the helper. `None`: it has no login for this server.
    ///
    /// # Errors
    /// `NoLogin`, with a reason that names the helper and holds nothing that it printed.
    pub(in crate::upstream) async fn login(&self) -> Result<Option<BasicLogin>, Fault> {
        let late = |_| format!("gave no answer within {} s", self.deadline.as_secs());
        let ran = tokio::time::timeout(self.deadline, self.run()).await.map_err(late).flatten();
        let said = ran.as_ref().map(|output| loggable(&output.stderr, &output.stdout));
        let said = said.unwrap_or_default();
        let login = ran.and_then(|output| login_of(output.status, &output.stdout));
        self.log(&login, &said);
        login.map_err(|reason| {
            let text = format!("the credential helper {} {reason}", self.name());
            Fault::new(ErrorKind::NoLogin, Symptom::Local, text)
        })
    }

    /// Logged here and not by whoever gets the fault: what stderr said goes no further.
    fn log(&self, login: &Result<Option<BasicLogin>, String>, said: &str) {
        let (upstream, helper) = (&self.upstream, self.name());
        match login {
            Ok(Some(_)) => {}
            Ok(None) => tracing::info!(
                %upstream,
                helper,
                said,
                "the credential helper has no login; asking anonymously"
            ),
            Err(reason) => {
                tracing::warn!(%upstream, helper, said, "the credential helper {reason}");
            }
        }
    }

    async fn run(&self) -> Result<HelperOutput, String> {
        let mut child =
            HelperProcess::start(self).map_err(|error| format!("cannot be run: {error}"))?;
        let (stdin, stdout, stderr) =
            (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take());
        let send_server = async {
            // Some helpers do not read; dropping the pipe is the end of the request.
            let _ = stdin.expect("it is piped").write_all(self.server.as_bytes()).await;
            Ok(())
        };
        // All pipes at once: a helper that fills one of them blocks until somebody reads it.
        let (stdout, stderr, ()) = tokio::try_join!(
            read_stdout(stdout.expect("it is piped")),
            read_stderr(stderr.expect("it is piped")),
            send_server
        )?;
        let status =
            child.0.wait().await.map_err(|error| format!("cannot be waited for: {error}"))?;
        Ok(HelperOutput { status, stdout, stderr })
    }

    fn name(&self) -> &str {
        self.program.file_name().and_then(|name| name.to_str()).unwrap_or("docker-credential-?")
    }
}

/// A helper at work; if it is dropped before its end, it and what it has started are killed.
struct HelperProcess(Child);

impl HelperProcess {
    fn start(helper: &CredentialHelper) -> std::io::Result<Self> {
        let mut command = Command::new(&helper.program);
        for variable in &helper.withheld {
            command.env_remove(variable);
        }
        command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own, since helpers are often scripts: what they start is killed with them.
        command.process_group(0).kill_on_drop(true).spawn().map(Self)
    }
}

impl Drop for HelperProcess {
    fn drop(&mut self) {
        // The process has an id until somebody has waited for it; as long as it has one, the kernel
        // gives its number to no other group.
        if let Some(group) = self.0.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// All of a helper's stdout, or a failure as soon as it is too much.
async fn read_stdout(stdout: impl AsyncRead + Unpin) -> Result<Zeroizing<Vec<u8>>, String> {
    // Allocated at its largest: a vector that grows leaves copies of the secret behind, which
    // nobody zeroes.
    let mut bytes = Zeroizing::new(Vec::with_capacity(STDOUT_MAX + 1));
    let read = stdout.take(STDOUT_MAX as u64 + 1).read_to_end(&mut bytes).await;
    read.map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() > STDOUT_MAX {
        return Err(format!("printed more than {STDOUT_MAX} bytes"));
    }
    Ok(bytes)
}

/// The beginning of a helper's stderr. The rest is read and dropped: a helper that cannot write
/// would not end.
async fn read_stderr(mut stderr: impl AsyncRead + Unpin) -> Result<Zeroizing<Vec<u8>>, String> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(STDERR_KEPT));
    let _ = (&mut stderr).take(STDERR_KEPT as u64).read_to_end(&mut bytes).await;
    let _ = tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await;
    Ok(bytes)
}

/// User and secret out of what a helper printed. The parser's error is left out: it may quote what
/// it has read.
fn printed_login(stdout: &[u8]) -> Option<(String, Secret)> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct PrintedLogin {
        username: String,
        secret: String,
    }
    let printed: PrintedLogin = serde_json::from_slice(stdout).ok()?;
    let secret = Zeroizing::new(printed.secret);
    Some((printed.username, Secret::of_line(&secret)?))
}

/// What the end of a helper means. The reason continues the text "the credential helper NAME".
fn login_of(status: ExitStatus, stdout: &[u8]) -> Result<Option<BasicLogin>, String> {
    // Both together: whatever else goes wrong in a helper also ends with 1, and asking anonymously
    // then would turn a broken login into images that do not exist.
    if status.code() == Some(1) && stdout.trim_ascii() == NOT_FOUND {
        return Ok(None);
    }
    if !status.success() {
        return Err(format!("failed ({status})"));
    }
    let Some((username, secret)) = printed_login(stdout) else {
        return Err("printed no login (JSON with Username and Secret)".to_owned());
    };
    // It is good for an OAuth exchange that is not implemented here. Sent as a password it would be
    // rejected without a hint at the reason.
    if username == IDENTITY_TOKEN_USER {
        return Err(
            "has an identity token for this upstream; only a user and a password can be used"
                .to_owned(),
        );
    }
    if username.is_empty() {
        return Err("printed a login without a user".to_owned());
    }
    Ok(Some(BasicLogin::new(&username, secret)))
}

/// One line out of stderr for the log, unless a secret may stand in it.
fn loggable(stderr: &[u8], stdout: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let output = String::from_utf8_lossy(stdout.trim_ascii());
    let repeats = |secret: &str| !secret.is_empty() && text.contains(secret);
    let repeats_secret = repeats(&output)
        || printed_login(stdout).is_some_and(|(_, secret)| repeats(secret.expose()));
    if repeats_secret || text.contains("\"Secret\"") {
        return "(withheld: a secret may stand in it)".to_owned();
    }
    // Control characters could forge lines of the log, or drive a terminal.
    let line = text.trim().replace(char::is_control, " ");
    line.chars().take(STDERR_SHOWN).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn read(code: i32, stdout: &str) -> Result<Option<BasicLogin>, String> {
        login_of(ExitStatus::from_raw(code << 8), stdout.as_bytes())
    }

    #[test]
    fn a_login_is_read_from_an_answer_and_nothing_else() {
        let found =
            read(0, r#"{"ServerURL":"acme.test","Username":"AWS","Secret":"hush"}"#).expect("one");
        let found = found.expect("a login");
        assert_eq!((found.username(), found.password()), ("AWS", "hush"));
        let found = read(0, r#"{"Username":"u","Secret":"hush\r\n"}"#).expect("one");
        assert_eq!(found.expect("a login").password(), "hush", "as `echo` and jq -R leave it");
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
    fn what_is_logged_is_one_short_line_without_the_secret() {
        let shown = |stderr: &str, stdout: &str| loggable(stderr.as_bytes(), stdout.as_bytes());
        assert_eq!(
            shown("no region\nset \x1b[31mAWS_REGION\n", ""),
            "no region set  [31mAWS_REGION"
        );
        assert_eq!(shown(&"é".repeat(1000), "").chars().count(), STDERR_SHOWN);
        for (stderr, stdout) in [
            ("hush: no such password", "hush\n"),
            ("+ echo hush", r#"{"Username":"u","Secret":"hush"}"#),
            (r#"cannot print {"Username":"u","Secret":"hush"}"#, ""),
        ] {
            assert!(!shown(stderr, stdout).contains("hush"), "{stderr}");
        }
    }
}
