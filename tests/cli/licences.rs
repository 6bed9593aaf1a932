//! `roadstead licence`.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::{directory, roadstead, run, text};

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
