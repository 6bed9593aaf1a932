//! The docker credential helper: what `docker`, podman and skopeo ask for a login, answered from the licence files on
//! this machine (ACCESS §6.1). The binary is it when it is called `docker-credential-roadstead`.
//!
//! Clients take any answer but the known sentence for a failure of every pull, from whatever registry; so what is wrong
//! with a licence goes to stderr, and the answer is that there is none.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::{print, tell};
use crate::clock::{Clock, Timestamp};
use crate::config::{self, LicenceFile};

/// The name under which the binary is the helper.
pub const NAME: &str = "docker-credential-roadstead";

const FOLDER: &str = "/etc/roadstead/licences";
const NONE: &str = "credentials not found in native keychain\n";
const LONGEST_REQUEST: u64 = 64 * 1024;

/// Runs a verb of the protocol.
pub fn run(verb: Option<&str>) -> ExitCode {
    let mut request = String::new();
    if matches!(verb, Some("get" | "store" | "erase"))
        && let Err(error) = io::stdin().take(LONGEST_REQUEST).read_to_string(&mut request)
    {
        tell(&format!("{NAME}: cannot read the request: {error}"));
        return ExitCode::FAILURE;
    }
    match verb {
        Some("get") => get(request.trim()),
        Some("list") => list(),
        Some("store") => store(&request),
        Some("erase") => ExitCode::SUCCESS,
        Some("version") => say(&format!("{NAME} {}\n", env!("CARGO_PKG_VERSION"))),
        _ => {
            tell(&format!("{NAME}: get, list, store, erase or version; docker calls it where config.json names it"));
            ExitCode::FAILURE
        }
    }
}

fn get(server: &str) -> ExitCode {
    let Some(file) = best(server) else {
        let _ = say(NONE);
        return ExitCode::FAILURE;
    };
    let answer = serde_json::json!({
        "ServerURL": server,
        "Username": file.licence.id.as_str(),
        "Secret": file.token.expose(),
    });
    say(&format!("{answer}\n"))
}

fn list() -> ExitCode {
    let licences = licences();
    let entries = licences.iter().flat_map(|file| file.licence.hosts.iter().map(move |host| (host, file)));
    let map: serde_json::Map<_, _> =
        entries.map(|(host, file)| (host.clone(), file.licence.id.as_str().into())).collect();
    say(&format!("{}\n", serde_json::Value::from(map)))
}

/// `docker login` stores what it was given; if that is what we answer anyway, there is nothing to do.
fn store(request: &str) -> ExitCode {
    let given: serde_json::Value = serde_json::from_str(request).unwrap_or_default();
    let server = given["ServerURL"].as_str().unwrap_or_default();
    let same = best(server).is_some_and(|file| given["Secret"].as_str() == Some(file.token.expose()));
    if same {
        return ExitCode::SUCCESS;
    }
    let _ = say("logins come from the licence files on this machine; put the licence into /etc/roadstead/licences\n");
    ExitCode::FAILURE
}

/// The licence for a server: one that has not ended first, then the one that was issued last.
fn best(server: &str) -> Option<LicenceFile> {
    choose(licences(), &host(server), Clock::system().now())
}

fn choose(licences: Vec<LicenceFile>, host: &str, now: Timestamp) -> Option<LicenceFile> {
    let named = licences.into_iter().filter(|file| file.licence.hosts.iter().any(|own| own.eq_ignore_ascii_case(host)));
    named.max_by_key(|file| (now < file.licence.expires, file.licence.issued))
}

/// The host, with its port, of what clients send: a name, a URL, with a slash or not.
fn host(server: &str) -> String {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest).to_ascii_lowercase()
}

/// Every licence that can be read.
pub(super) fn licences() -> Vec<LicenceFile> {
    let given = std::env::var_os("ROADSTEAD_LICENCE").map(PathBuf::from);
    let folder = Path::new(FOLDER);
    let paths = given.into_iter().chain(folder.is_dir().then(|| folder.to_owned()));
    let mut found = Vec::new();
    for path in paths {
        for file in config::files_of(&path).unwrap_or_else(|message| complain(&message)) {
            match config::read_licence(&file) {
                Ok(licence) => found.push(licence),
                Err(message) => tell(&format!("{NAME}: {message}")),
            }
        }
    }
    found
}

fn complain(message: &str) -> Vec<PathBuf> {
    tell(&format!("{NAME}: {message}"));
    Vec::new()
}

fn say(text: &str) -> ExitCode {
    if print(text).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Secret;
    use crate::licence::{Licence, LicenceId, Slug};

    fn file(id: &str, host: &str, issued: u64, expires: u64) -> LicenceFile {
        let at = |seconds| Timestamp::from_unix(Duration::from_secs(seconds));
        let licence = Licence {
            id: LicenceId::parse(id).expect(id),
            issuer: "Acme Inc.".to_owned(),
            customer: "Customer".to_owned(),
            email: None,
            applications: vec![Slug::parse("myapp").expect("a slug")],
            hosts: vec![host.to_owned()],
            issued: at(issued),
            not_before: at(issued),
            expires: at(expires),
        };
        LicenceFile { licence, token: Secret::new("token".to_owned()) }
    }

    #[test]
    fn one_that_has_not_ended_comes_first_and_then_the_latest() {
        let now = Timestamp::from_unix(Duration::from_secs(1_000));
        let all = || {
            vec![
                file("old", "a.test", 1, 5_000),
                file("new", "a.test", 2, 5_000),
                file("ended", "a.test", 3, 900),
                file("other", "b.test", 9, 5_000),
                file("only-ended", "c.test", 1, 900),
            ]
        };
        for (host, expected) in
            [("a.test", Some("new")), ("b.test", Some("other")), ("c.test", Some("only-ended")), ("d.test", None)]
        {
            let chosen = choose(all(), host, now);
            assert_eq!(chosen.map(|file| file.licence.id.to_string()).as_deref(), expected, "{host}");
        }
    }

    #[test]
    fn servers_are_compared_by_host_and_port() {
        for (server, expected) in [
            ("registry.example.com", "registry.example.com"),
            ("https://Registry.example.com/", "registry.example.com"),
            ("https://registry.example.com:5000/v2/", "registry.example.com:5000"),
            ("localhost:5000", "localhost:5000"),
        ] {
            assert_eq!(host(server), expected);
        }
    }
}
