//! The binary as an operator meets it: exit codes, what it prints, how it stops.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

fn roadstead(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
    command.args(arguments).env_remove("RUST_LOG").env_remove("ROADSTEAD_CONFIG");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).expect("text")
}

/// A directory with a configuration on fresh ports; `more` are further lines.
fn directory(more: &str) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("config.yaml");
    let cache = directory.path().join("cache");
    let base = format!("listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\ncache: {{ path: {} }}\n", cache.display());
    fs::write(&file, base + more).expect("writable");
    (directory, file)
}

fn run(command: &mut Command) -> Output {
    command.output().expect("the binary runs")
}

/// A running proxy, killed when the test ends.
struct Serving {
    child: Child,
    stderr: BufReader<ChildStderr>,
    _directory: TempDir,
}

impl Serving {
    fn start(more: &str, arguments: &[&str]) -> Self {
        let (directory, file) = directory(more);
        let mut command = roadstead(&["serve"]);
        command.args(arguments).env("ROADSTEAD_CONFIG", &file).stderr(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().expect("the binary runs");
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, stderr, _directory: directory }
    }

    /// Lines up to and with the first that contains `mark`.
    fn until(&mut self, mark: &str) -> Vec<String> {
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

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, signal).expect("it runs");
    }

    /// Exit code and the rest of what it said.
    fn end(mut self) -> (Option<i32>, String) {
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

#[test]
fn check_says_that_a_file_is_valid() {
    let (_directory, file) = directory("upstreams: { quay.io: , acme.test: { url: 'https://acme.test' } }\n");
    let output = run(&mut roadstead(&["check", &file.display().to_string()]));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let expected = format!("{} is valid: 2 upstreams (quay.io, acme.test), clients at 127.0.0.1:0\n", file.display());
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn check_and_serve_tell_every_problem_and_exit_with_64() {
    let (_directory, file) =
        directory("lisen: x\nupstreams: { quay.io: { credentials: [{ username: u, password: hunter2 }] } }\n");
    let name = file.display().to_string();
    for arguments in [vec!["check", &name], vec!["serve", "--config", &name]] {
        let output = run(&mut roadstead(&arguments));
        assert_eq!(output.status.code(), Some(64));
        let stderr = text(&output.stderr);
        let lines: Vec<&str> = stderr.lines().collect();
        assert_eq!(lines.len(), 2, "{stderr}");
        assert_eq!(lines[0], format!("{name}:4: lisen: unknown key; did you mean listen?"));
        assert!(lines[1].starts_with(&format!("{name}:5: upstreams.quay.io.credentials[0].password: ")), "{stderr}");
        assert!(!stderr.contains("hunter2"));
        assert!(!Path::new(&name).with_file_name("cache").exists(), "nothing was started");
    }
}

#[test]
fn a_missing_file_is_a_bad_configuration() {
    let output = run(&mut roadstead(&["serve", "--config", "/nonexistent/config.yaml"]));
    assert_eq!(output.status.code(), Some(64));
    assert!(text(&output.stderr).starts_with("/nonexistent/config.yaml: cannot be read: No such file"));
}

#[test]
fn a_port_in_use_is_told_with_its_key() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    for key in ["listen", "admin"] {
        let (_directory, file) = directory("");
        let content = fs::read_to_string(&file)
            .expect("readable")
            .replace(&format!("{key}: 127.0.0.1:0"), &format!("{key}: {address}"));
        fs::write(&file, content).expect("writable");
        let output = run(&mut roadstead(&["serve", "--config", &file.display().to_string()]));
        assert_eq!(output.status.code(), Some(1));
        let stderr = text(&output.stderr);
        assert!(stderr.contains(&format!("roadstead: cannot listen on {address}: ")), "{stderr}");
        assert!(stderr.contains(&format!("another address as {key} in the configuration")), "{stderr}");
    }
}

#[test]
fn serve_says_where_it_is_and_how_to_try_it_and_ends_on_sigterm() {
    let mut serving = Serving::start("upstreams: { quay.io: { tls_verify: false } }\n", &[]);
    let lines = serving.until("tls_verify is false").join("\n");
    let address = lines.split_once("clients    http://").expect("the address").1.lines().next().expect("a line");
    assert_ne!(address.parse::<SocketAddr>().expect("an address").port(), 0, "the port that was bound");
    assert!(lines.contains("/metrics") && lines.contains("docker pull 127.0.0.1:") && lines.contains("curl http://"));
    assert!(lines.contains("upstreams  quay.io") && !lines.contains('\u{1b}'), "{lines}");
    assert!(TcpListener::bind(address).is_err(), "it listens there");
    serving.signal(Signal::TERM);
    let (code, rest) = serving.end();
    assert_eq!(code, Some(0), "{rest}");
    assert!(rest.contains("SIGTERM"), "{rest}");
}

#[test]
fn sigint_ends_it_as_well() {
    let mut serving = Serving::start("", &[]);
    serving.until("serving");
    serving.signal(Signal::INT);
    assert_eq!(serving.end().0, Some(0));
}

#[test]
fn json_lines_are_all_that_machines_read() {
    let mut serving = Serving::start("upstreams: { quay.io: { tls_verify: false } }\n", &["--log-format", "json"]);
    let mut lines = serving.until("tls_verify is false");
    serving.signal(Signal::TERM);
    lines.extend(serving.end().1.lines().map(str::to_owned));
    for line in &lines {
        let object: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(
            object["level"].is_string() && object["message"].is_string() && object["timestamp"].is_string(),
            "{line}"
        );
    }
    assert!(lines.len() >= 3, "{lines:?}");
}

/// Runs `licence` in a directory; what it prints if it succeeds, else what it says.
fn licence(directory: &TempDir, arguments: &[&str]) -> Result<String, String> {
    let output = run(roadstead(&["licence"]).args(arguments).current_dir(directory.path()));
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

const ISSUE: [&str; 13] = [
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

#[test]
fn a_licence_is_made_shown_and_revoked() {
    let directory = tempfile::tempdir().expect("a directory");
    let made = licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    assert!(made.contains("acme.key") && made.contains("acme.pub"), "{made}");
    let permissions = std::os::unix::fs::PermissionsExt::mode(
        &fs::metadata(directory.path().join("acme.key")).expect("a key").permissions(),
    );
    assert_eq!(permissions & 0o777, 0o600);
    let again = licence(&directory, &["keygen", "acme"]).expect_err("keys are never overwritten");
    assert!(again.contains("acme.key") && again.contains("exists"), "{again}");
    licence(&directory, &[&ISSUE[..], &["--expires", "90d", "--out", "acme.licence"]].concat()).expect("a licence");
    let shown = licence(&directory, &["show", "acme.licence", "--public-key", "acme.pub"]).expect("a good licence");
    for line in ["licence       acme-prod\n", "applications  myapp\n", "(90 days left)\n", "signature     good"] {
        assert!(shown.contains(line) || shown.contains(&line.replace("90", "89")), "{line:?} is missing in\n{shown}");
    }
    licence(&directory, &["keygen", "other"]).expect("a pair of keys");
    let wrong = licence(&directory, &["show", "acme.licence", "--public-key", "other.pub"]).expect_err("another key");
    assert!(wrong.contains("no configured key has signed it"), "{wrong}");
    licence(&directory, &["revoke", "acme-prod", "--list", "revoked", "--reason", "left us"]).expect("a revocation");
    licence(&directory, &["revoke", "acme-test", "--list", "revoked"]).expect("another");
    let list = fs::read_to_string(directory.path().join("revoked")).expect("a list");
    let lines: Vec<&str> = list.lines().collect();
    assert!(lines[0].starts_with("acme-prod 20") && lines[0].ends_with("Z # left us") && lines.len() == 2, "{list}");
}

#[test]
fn what_cannot_be_issued_is_told_and_leaves_no_file() {
    let (directory, config) = directory(
        "hosts: [a.test]\naccess: { rules: [{ who: anonymous, allow: [pull], images: [\"**\"] }] }\n\
         applications: { worker: { images: [\"quay.io/acme/**\"] } }\n",
    );
    licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    let config = config.to_str().expect("text");
    for (more, told) in [
        (&["--expires", "tomorrow"][..], "is no time"),
        (&["--expires", "2020-01-01"], "lies behind us"),
        (&["--expires", "90d", "--application", "My.App"], "is no application name"),
        (&["--expires", "90d", "--config", config], "has no application myapp; it has: worker"),
    ] {
        let refused = licence(&directory, &[&ISSUE[..], more, &["--out", "x.licence"]].concat()).expect_err(told);
        assert!(refused.contains(told), "{refused}");
        assert!(!directory.path().join("x.licence").exists());
    }
    let public = licence(
        &directory,
        &[
            "issue",
            "--key",
            "acme.pub",
            "--issuer",
            "a",
            "--id",
            "a",
            "--customer",
            "a",
            "--application",
            "a",
            "--host",
            "a",
            "--expires",
            "1d",
        ],
    )
    .expect_err("a public key signs nothing");
    assert!(public.contains("holds no PRIVATE KEY block"), "{public}");
}

#[test]
fn openssl_reads_our_keys_and_we_read_its() {
    let directory = tempfile::tempdir().expect("a directory");
    licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    let openssl = |arguments: &[&str]| run(Command::new("openssl").args(arguments).current_dir(directory.path()));
    let public = openssl(&["pkey", "-in", "acme.key", "-pubout"]);
    assert_eq!(text(&public.stdout), fs::read_to_string(directory.path().join("acme.pub")).expect("a key"));
    assert!(openssl(&["genpkey", "-algorithm", "ed25519", "-out", "theirs.key"]).status.success());
    let arguments: Vec<&str> = ISSUE.iter().map(|word| if *word == "acme.key" { "theirs.key" } else { word }).collect();
    licence(&directory, &[&arguments[..], &["--expires", "1d"]].concat()).expect("a licence by their key");
}

#[test]
fn files_that_a_configuration_names_are_part_of_it() {
    let (directory, file) = directory(
        "access: { users: users, rules: [{ who: anonymous, allow: [pull], images: [\"**\"] }] }\n\
         applications: { myapp: { images: [\"quay.io/acme/**\"] } }\n\
         licences: { issuer: Acme Inc., public_keys: [gone.pub], revoked: revoked }\n",
    );
    fs::write(directory.path().join("users"), "ci:plain\n").expect("writable");
    fs::write(directory.path().join("revoked"), "acme soon\n").expect("writable");
    for command in ["check", "serve"] {
        let arguments = if command == "check" { vec!["check"] } else { vec!["serve", "--config"] };
        let output = run(roadstead(&arguments).arg(&file).current_dir(directory.path()));
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{told}");
        for part in ["users:1: ci: ", "cannot read gone.pub", "revoked:1: "] {
            assert!(told.contains(part), "{part} is missing in {told}");
        }
    }
}

/// Runs the binary as docker's helper, with a licence at `licence`: exit code, stdout, stderr.
fn helper(directory: &TempDir, licence: &str, verb: &str, request: &str) -> (Option<i32>, String, String) {
    use std::io::Write;
    let path = directory.path().join("docker-credential-roadstead");
    if !path.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_roadstead"), &path).expect("a link");
    }
    let mut child = Command::new(&path)
        .arg(verb)
        .env("ROADSTEAD_LICENCE", directory.path().join(licence))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the helper runs");
    child.stdin.take().expect("piped").write_all(request.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

const NOT_FOUND: &str = "credentials not found in native keychain\n";

#[test]
fn the_credential_helper_answers_from_the_licence_and_lets_other_registries_be() {
    let directory = tempfile::tempdir().expect("a directory");
    licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    fs::create_dir(directory.path().join("licences")).expect("a folder");
    licence(&directory, &[&ISSUE[..], &["--expires", "90d", "--out", "licences/acme.licence"]].concat())
        .expect("a licence");
    fs::write(directory.path().join("licences/broken"), "version: 1\n").expect("writable");
    for server in ["registry.example.com", "https://registry.example.com", "https://registry.example.com/\n"] {
        let (code, stdout, stderr) = helper(&directory, "licences", "get", server);
        let answer: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
        assert_eq!(
            (code, &answer["Username"], &answer["ServerURL"]),
            (Some(0), &"acme-prod".into(), &server.trim().into())
        );
        assert!(stderr.contains("licences/broken") && stderr.contains("has no token"), "{stderr}");
        let store = helper(&directory, "licences", "store", &stdout);
        assert_eq!(store.0, Some(0), "docker stores what it was given: {store:?}");
    }
    for licences in ["licences", "licences/broken", "gone"] {
        let (code, stdout, _) = helper(&directory, licences, "get", "quay.io");
        assert_eq!((code, stdout.as_str()), (Some(1), NOT_FOUND), "{licences}");
    }
    let other = r#"{"ServerURL":"registry.example.com","Username":"acme-prod","Secret":"another"}"#;
    assert_eq!(helper(&directory, "licences", "store", other).0, Some(1));
    assert_eq!(helper(&directory, "licences", "erase", "registry.example.com").0, Some(0));
    let (_, listed, _) = helper(&directory, "licences", "list", "");
    assert_eq!(listed, "{\"registry.example.com\":\"acme-prod\"}\n");
}

#[test]
fn a_pull_secret_holds_the_login_in_each_clients_form() {
    let directory = tempfile::tempdir().expect("a directory");
    licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    licence(&directory, &[&ISSUE[..], &["--expires", "90d", "--out", "acme.licence"]].concat()).expect("a licence");
    let secret = |format| licence(&directory, &["pull-secret", "acme.licence", "--format", format]).expect(format);
    let docker: serde_json::Value = serde_json::from_str(&secret("docker")).expect("JSON");
    let entry = &docker["auths"]["registry.example.com"];
    assert_eq!(entry["username"], "acme-prod");
    let auth = entry["auth"].as_str().expect("text");
    assert!(secret("hosts").contains(&format!("authorization = \"Basic {auth}\"")));
    let kubernetes = secret("kubernetes");
    assert!(kubernetes.contains("kind: Secret\n") && kubernetes.contains("type: kubernetes.io/dockerconfigjson\n"));
}
