//! A login out of docker's `config.json` (PROTOCOL §2.6). Pure.
//!
//! A helper under `credHelpers` comes first, then a user and a password under `auths`, then the
//! helper of `credsStore`, under which docker leaves an empty entry in `auths`.

use std::collections::BTreeMap;

use base64::prelude::{BASE64_STANDARD, Engine};
use serde::Deserialize;

use crate::secret::Secret;

/// What the file says about a login: the login itself, or the helper that keeps it.
#[derive(Debug, PartialEq)]
pub(super) enum DockerLogin {
    Here {
        username: String,
        password: Secret,
    },
    /// By a helper of this name, which keeps it for this one of the servers.
    Helper {
        name: String,
        server: String,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, AuthEntry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: String,
}

#[derive(Deserialize)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// The login for the first of `servers` that the file knows: by the exact key, else by the host in
/// a key. If it knows none, the store of all logins is asked for the last.
///
/// # Errors
/// A sentence without anything from the file but its keys and the names of helpers.
pub(super) fn login(json: &str, servers: &[&str]) -> Result<DockerLogin, String> {
    let document: DockerConfig = serde_json::from_str(json).map_err(|error| {
        format!("is not docker's config.json (line {}, column {})", error.line(), error.column())
    })?;
    let helper = |name: &str, server: &str| DockerLogin::Helper {
        name: name.to_owned(),
        server: server.to_owned(),
    };
    if let Some((server, name)) = find(&document.cred_helpers, servers) {
        return Ok(helper(name, server));
    }
    let store = Some(document.creds_store.as_str()).filter(|name| !name.is_empty());
    match (find(&document.auths, servers), store) {
        (Some((server, entry)), Some(store)) if !entry.has_password() => Ok(helper(store, server)),
        (Some((_, entry)), _) => entry.login(),
        (None, Some(store)) => Ok(helper(store, servers.last().copied().unwrap_or_default())),
        (None, None) => {
            Err(format!("has neither a login nor a helper for {}", servers.join(" or ")))
        }
    }
}

/// The first of `servers` that is a key, and its value.
fn find<'a, V>(map: &'a BTreeMap<String, V>, servers: &[&'a str]) -> Option<(&'a str, &'a V)> {
    let exact = servers.iter().find_map(|server| Some((*server, map.get(*server)?)));
    let by_host = |server: &&'a str| {
        let (_, value) = map.iter().find(|(key, _)| host(key) == host(server))?;
        Some((*server, value))
    };
    exact.or_else(|| servers.iter().find_map(by_host))
}

/// The host and port of a key, which may be a URL.
fn host(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

impl AuthEntry {
    fn has_password(&self) -> bool {
        let is_token = self.identitytoken.is_some() || self.registrytoken.is_some();
        !is_token
            && (self.auth.as_ref().is_some_and(|auth| !auth.is_empty()) || self.password.is_some())
    }

    fn login(&self) -> Result<DockerLogin, String> {
        if self.identitytoken.is_some() || self.registrytoken.is_some() {
            return Err("holds a token for this registry; only a user and a password can be used"
                .to_owned());
        }
        let (username, password) = match (&self.username, &self.password, &self.auth) {
            (Some(username), Some(password), _) => (username.clone(), password.clone()),
            (_, _, Some(auth)) => decode(auth)
                .ok_or("has an auth for this registry that is not base64 of user:password")?,
            (_, _, None) => {
                return Err("has an entry for this registry without auth, and no credsStore that \
                    keeps it: log in \
                            again, or use username with password_file"
                    .to_owned());
            }
        };
        Ok(DockerLogin::Here { username, password: Secret::new(password) })
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(BASE64_STANDARD.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    // docker itself strips zero bytes that old versions wrote.
    let password = password.trim_end_matches('\0');
    (!username.is_empty() && !password.is_empty())
        .then(|| (username.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HUB: &[&str] = &["https://index.docker.io/v1/", "docker.io", "registry-1.docker.io"];

    fn found(json: &str, servers: &[&str]) -> (String, String) {
        let DockerLogin::Here { username, password } = login(json, servers).expect(json) else {
            panic!("{json}")
        };
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
        for key in [
            "https://index.docker.io/v1/",
            "https://registry-1.docker.io",
            "docker.io/",
            "index.docker.io",
        ] {
            let json = format!(r#"{{"auths": {{"{key}": {{"username": "u", "password": "p"}}}}}}"#);
            assert_eq!(found(&json, HUB), ("u".to_owned(), "p".to_owned()), "{key}");
        }
    }

    #[test]
    fn a_helper_of_the_host_beats_a_password_which_beats_the_store() {
        const HELPERS: &str = r#""credHelpers": {"acme.test": "ecr-login", "other.test": "gcr"}"#;
        const STORE: &str = r#""credsStore": "pass""#;
        let kept = |parts: &[&str]| {
            login(&format!("{{{}}}", parts.join(",")), &["acme.test", "acme.internal:5000"])
        };
        let helper = |name: &str, server: &str| {
            Ok(DockerLogin::Helper { name: name.to_owned(), server: server.to_owned() })
        };
        let password = r#""auths": {"acme.test": {"auth": "dTpw"}}"#;
        assert_eq!(kept(&[HELPERS, password, STORE]), helper("ecr-login", "acme.test"));
        assert_eq!(
            kept(&[r#""credHelpers": {"acme.internal:5000": "a"}"#]),
            helper("a", "acme.internal:5000")
        );
        let here =
            DockerLogin::Here { username: "u".to_owned(), password: Secret::new("p".to_owned()) };
        assert_eq!(kept(&[password, STORE]), Ok(here));
        for (auths, server) in [
            (r#""auths": {"acme.test": {}}"#, "acme.test"),
            (r#""auths": {"https://acme.test": {"auth": ""}}"#, "acme.test"),
            (
                r#""auths": {"acme.test": {"auth": "dTpw", "identitytoken": "hunter2"}}"#,
                "acme.test",
            ),
            (r#""auths": {"other.test": {"auth": "dTpw"}}"#, "acme.internal:5000"),
            (r#""auths": {}"#, "acme.internal:5000"),
        ] {
            assert_eq!(kept(&[auths, STORE]), helper("pass", server), "{auths}");
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
