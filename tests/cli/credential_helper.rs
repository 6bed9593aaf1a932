//! The binary as docker's credential helper.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use crate::support::licences::{
    ISSUE, complains_of_broken_files, for_a_user, forbid, licence, put_broken_files, put_licence,
    run_with_request,
};

/// Runs the binary as docker's helper.
fn helper(
    directory: &TempDir,
    licence: &str,
    verb: &str,
    request: &str,
) -> (Option<i32>, String, String) {
    let path = directory.path().join("docker-credential-roadstead");
    if !path.exists() {
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_roadstead"), &path).expect("a link");
    }
    run_with_request(Command::new(&path).arg(verb), directory, licence, request)
}

/// The same as somebody who is not root.
fn as_a_user(directory: &TempDir, verb: &str, request: &str) -> (Option<i32>, String, String) {
    let mut command = for_a_user(directory, "docker-credential-roadstead");
    run_with_request(command.arg(verb), directory, "licences", request)
}

const NOT_FOUND: &str = "credentials not found in native keychain\n";

#[test]
fn the_credential_helper_answers_from_the_licence_and_lets_other_registries_be() {
    let directory = tempfile::tempdir().expect("a directory");
    licence(&directory, &["keygen", "acme"]).expect("a pair of keys");
    fs::create_dir(directory.path().join("licences")).expect("a folder");
    licence(
        &directory,
        &[&ISSUE[..], &["--expires", "90d", "--out", "licences/acme.licence"]].concat(),
    )
    .expect("a licence");
    fs::write(directory.path().join("licences/broken"), "version: 1\n").expect("writable");
    for server in
        ["registry.example.com", "https://registry.example.com", "https://registry.example.com/\n"]
    {
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
fn the_credential_helper_says_when_a_licence_ends_and_gives_one_that_has_ended() {
    for (days, told) in [
        (-10..20, None),
        (-10..3, Some("licence acme ends in 3 days, on 20")),
        (-10..0, Some("licence acme ends within a day, at 20")),
        (-10..-1, Some("licence acme expired on 20")),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        put_licence(&directory, "acme", "registry.example.com", &["myapp"], days.clone());
        let (code, stdout, stderr) = helper(&directory, "licences", "get", "registry.example.com");
        let answer: serde_json::Value =
            serde_json::from_str(&stdout).expect("stdout is the protocol's");
        assert_eq!((code, &answer["Username"]), (Some(0), &"acme".into()), "{days:?}");
        match told {
            Some(told) => {
                assert!(
                    stderr.contains(told) && stderr.ends_with("; ask Acme Inc. for a new one\n"),
                    "{stderr}"
                );
            }
            None => assert_eq!(stderr, ""),
        }
        let elsewhere = helper(&directory, "licences", "get", "quay.io");
        assert_eq!(
            elsewhere,
            (Some(1), NOT_FOUND.to_owned(), String::new()),
            "of which nobody was asked"
        );
    }
}

#[test]
fn the_credential_helper_passes_over_files_that_are_no_licences() {
    let directory = tempfile::tempdir().expect("a directory");
    put_broken_files(&directory);
    let (code, stdout, stderr) = helper(&directory, "licences", "get", "registry.example.com");
    assert_eq!((code, stdout.as_str()), (Some(1), NOT_FOUND));
    assert!(complains_of_broken_files(&stderr), "{stderr}");
    put_licence(&directory, "acme", "registry.example.com", &["myapp"], -1..90);
    put_licence(&directory, "acme-next", "registry.example.com", &["myapp"], 1..90);
    let (code, stdout, stderr) = helper(&directory, "licences", "get", "registry.example.com");
    assert!(
        code == Some(0) && stdout.contains(r#""Username":"acme""#),
        "one that begins later waits: {stdout}"
    );
    assert!(complains_of_broken_files(&stderr), "{stderr}");
    let (_, listed, _) = helper(&directory, "licences", "list", "");
    assert_eq!(listed, "{\"registry.example.com\":\"acme\"}\n", "what get gives");
}

/// As whoever runs docker, on a licence that root has put there for itself.
#[test]
fn a_licence_that_the_user_may_not_read_is_told_with_what_to_do() {
    let directory = tempfile::tempdir().expect("a directory");
    put_licence(&directory, "acme", "registry.example.com", &["myapp"], -1..90);
    for path in ["licences/acme", "licences"] {
        forbid(&directory, path);
        let at = directory.path().join(path);
        let (code, stdout, stderr) = as_a_user(&directory, "get", "registry.example.com");
        assert_eq!((code, stdout.as_str()), (Some(1), NOT_FOUND), "{stderr}");
        let told = format!("as root, run chmod a+rX {}", at.display());
        assert!(stderr.contains("Permission denied") && stderr.contains(&told), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn licences_of_one_host_that_cannot_all_be_presented_are_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let host = "registry.example.com";
    put_licence(&directory, "acme-tools", host, &["tools"], -2..90);
    put_licence(&directory, "acme-apps", host, &["myapp", "other"], -1..90);
    put_licence(&directory, "ended", host, &["old"], -9..-1);
    put_licence(&directory, "elsewhere", "b.test", &["more"], -1..90);
    let get = |server: &str| helper(&directory, "licences", "get", server);
    let (code, stdout, stderr) = get("https://Registry.example.com/v2/");
    assert!(code == Some(0) && stdout.contains(r#""Username":"acme-apps""#), "{stdout}");
    assert_eq!(
        stderr,
        "docker-credential-roadstead: several licences here are for registry.example.com, and a \
         client presents one: acme-apps (myapp, other), so images of tools (acme-tools) are not \
         found; ask Acme Inc. for one licence for all of them\n"
    );
    assert_eq!(get("b.test").2, "");
    put_licence(&directory, "all", host, &["myapp", "other", "tools"], 0..90);
    assert_eq!(get(host).2, "", "nothing is missing");
}
