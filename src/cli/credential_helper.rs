//! The docker credential helper: what `docker`, podman and skopeo ask for a login, answered from
//! the licence files on this machine (ACCESS §6.1). The binary is it when it is called
//! `docker-credential-roadstead`.
//!
//! Clients take any answer but the known sentence for a failure of every pull, from whatever
//! registry; so what is wrong with a licence goes to stderr, and the answer is that there is none.

use std::process::ExitCode;

use super::licences_here::{licences, notice, of_host, rank, request, shadowed};
use super::output::{print, tell};
use crate::clock::{Clock, Timestamp};
use crate::config::LicenceFile;

/// The name under which the binary is the helper.
pub const HELPER_NAME: &str = "docker-credential-roadstead";

/// What clients understand as "no login here"; any other text fails every pull (ACCESS §6.1).
const NO_LOGIN: &str = "credentials not found in native keychain\n";

/// Runs a verb of the protocol.
pub fn run(verb: Option<&str>) -> ExitCode {
    let request = match verb {
        Some("get" | "store" | "erase") => request(),
        _ => Ok(String::new()),
    };
    let request = match request {
        Ok(request) => request,
        Err(message) => {
            tell(&format!("{HELPER_NAME}: {message}"));
            return ExitCode::FAILURE;
        }
    };
    match verb {
        Some("get") => get(request.trim()),
        Some("list") => list(),
        Some("store") => store(&request),
        Some("erase") => ExitCode::SUCCESS,
        Some("version") => say(&format!("{HELPER_NAME} {}\n", env!("CARGO_PKG_VERSION"))),
        _ => {
            tell(&format!(
                "{HELPER_NAME}: get, list, store, erase or version; docker calls it where \
                 config.json names it"
            ));
            ExitCode::FAILURE
        }
    }
}

fn get(server: &str) -> ExitCode {
    let (licences, now) = (licences(HELPER_NAME), Clock::system().now());
    let Some(file) = best(&licences, server, now) else {
        let _ = say(NO_LOGIN);
        return ExitCode::FAILURE;
    };
    let shadowed = shadowed(&licences, &host(server), &file.licence, now);
    for message in notice(&file.licence, now).into_iter().chain(shadowed) {
        tell(&format!("{HELPER_NAME}: {message}"));
    }
    let answer = serde_json::json!({
        "ServerURL": server,
        "Username": file.licence.id.as_str(),
        "Secret": file.token.expose(),
    });
    say(&format!("{answer}\n"))
}

fn list() -> ExitCode {
    let (mut licences, now) = (licences(HELPER_NAME), Clock::system().now());
    // Where several name one host, the map keeps the last: the one that `get` answers with.
    licences.sort_by_key(|file| rank(&file.licence, now));
    let entries =
        licences.iter().flat_map(|file| file.licence.hosts.iter().map(move |host| (host, file)));
    let map: serde_json::Map<_, _> =
        entries.map(|(host, file)| (host.clone(), file.licence.id.as_str().into())).collect();
    say(&format!("{}\n", serde_json::Value::from(map)))
}

/// `docker login` stores the login that it has tried, and fails if that fails. If it is the one
/// that `get` answers with, nothing has to be stored; any other login is refused.
fn store(request: &str) -> ExitCode {
    let given: serde_json::Value = serde_json::from_str(request).unwrap_or_default();
    let server = given["ServerURL"].as_str().unwrap_or_default();
    let licences = licences(HELPER_NAME);
    let same = best(&licences, server, Clock::system().now())
        .is_some_and(|file| given["Secret"].as_str() == Some(file.token.expose()));
    if same {
        return ExitCode::SUCCESS;
    }
    let _ = say("logins come from the licence files on this machine; put the licence into \
         /etc/roadstead/licences\n");
    ExitCode::FAILURE
}

/// The licence for a server.
fn best<'a>(licences: &'a [LicenceFile], server: &str, now: Timestamp) -> Option<&'a LicenceFile> {
    of_host(licences, &host(server)).max_by_key(|file| rank(&file.licence, now))
}

/// The host, with its port, of what clients send: a name, a URL, with a slash or not.
fn host(server: &str) -> String {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest).to_ascii_lowercase()
}

fn say(text: &str) -> ExitCode {
    if print(text).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

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
