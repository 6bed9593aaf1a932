//! A login out of docker's `config.json` (PROTOCOL §2.6). Pure.
//!
//! Scope: `auths` with `auth` or `username` and `password`. Credential helpers are not run.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Deserialize;

use super::{Login, Secret};

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// The login for the first of `servers` that the file knows: by the exact key, else by the host in a key.
///
/// # Errors
/// A sentence without anything from the file but its keys.
pub(super) fn login(json: &str, servers: &[&str]) -> Result<Login, String> {
    let document: Document = serde_json::from_str(json)
        .map_err(|error| format!("is not docker's config.json (line {}, column {})", error.line(), error.column()))?;
    let exact = servers.iter().find_map(|server| document.auths.get(*server));
    let by_host = || {
        let find = |server: &&str| document.auths.iter().find(|(key, _)| host(key) == host(server));
        servers.iter().find_map(find).map(|(_, entry)| entry)
    };
    let entry = exact.or_else(by_host).ok_or_else(|| format!("has no auths entry for {}", servers.join(" or ")))?;
    entry.login()
}

/// The host and port of a key, which may be a URL.
fn host(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

impl Entry {
    fn login(&self) -> Result<Login, String> {
        if self.identitytoken.is_some() || self.registrytoken.is_some() {
            return Err("holds a token for this registry; only a user and a password can be used".to_owned());
        }
        let (username, password) = match (&self.username, &self.password, &self.auth) {
            (Some(username), Some(password), _) => (username.clone(), password.clone()),
            (_, _, Some(auth)) => {
                decode(auth).ok_or("has an auth for this registry that is not base64 of user:password")?
            }
            (_, _, None) => {
                return Err("has an entry for this registry without auth; a credential helper keeps it, which is not \
                            run: use username with password_file"
                    .to_owned());
            }
        };
        Ok(Login::Fixed { username, password: Secret::new(password) })
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(BASE64_STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    // docker itself strips zero bytes that old versions wrote.
    let password = password.trim_end_matches('\0');
    (!username.is_empty() && !password.is_empty()).then(|| (username.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: &[&str] = &["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"];

    fn found(json: &str, servers: &[&str]) -> (String, String) {
        let Login::Fixed { username, password } = login(json, servers).expect(json) else { panic!("{json}") };
        (username, password.expose().to_owned())
    }

    #[test]
    fn an_exact_key_beats_one_with_the_same_host() {
        let json = r#"{"auths": {"https://acme.test/v2/": {"username": "other", "password": "no"},
                                 "acme.test": {"auth": "dTpwOnE="}}}"#;
        assert_eq!(found(json, &["acme.test"]), ("u".to_owned(), "p:q".to_owned()));
    }

    #[test]
    fn a_url_key_is_found_by_its_host() {
        for key in ["https://index.docker.io/v1/", "https://registry-1.docker.io", "docker.io/", "index.docker.io"] {
            let json = format!(r#"{{"auths": {{"{key}": {{"username": "u", "password": "p"}}}}}}"#);
            assert_eq!(found(&json, HUB), ("u".to_owned(), "p".to_owned()), "{key}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_without_quoting_it() {
        for json in [
            "{\"auths\": \"hunter2\"}",
            "{",
            "{}",
            r#"{"auths": {"other.test": {"auth": "dTpw"}}}"#,
            r#"{"auths": {"acme.test": {}}}"#,
            r#"{"auths": {"acme.test": {"auth": "hunter2"}}}"#,
            r#"{"auths": {"acme.test": {"auth": "dTo="}}}"#,
            r#"{"auths": {"acme.test": {"auth": "dTpw", "identitytoken": "hunter2"}}}"#,
        ] {
            let refusal = login(json, &["acme.test"]).expect_err(json);
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }
}
