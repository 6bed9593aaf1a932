//! The logins out of docker's `config.json`, which podman writes as well (PROTOCOL §2.6). Pure.
//!
//! A key is a host, as a name or as a URL, and with podman a part of its repositories behind it:
//! `quay.io/acme`. For the repositories that a key is about, a helper under `credHelpers` comes
//! first, then a user and a password under `auths`, then the helper of `credsStore`, under which
//! docker leaves an empty entry in `auths`.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use crate::oci::Repository;
use crate::secret::Secret;

/// docker pads what it writes; not everybody who writes such files does.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

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

/// The logins for one registry.
#[derive(Debug, PartialEq)]
pub(super) struct DockerLogins {
    /// For what no other one is for.
    pub(super) whole: Option<DockerLogin>,
    /// For a repository and everything below it.
    pub(super) scoped: Vec<(Repository, DockerLogin)>,
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

/// The logins that the file has for the first of `servers` that it knows: by the exact key, else by
/// the host in a key. If it knows none for the whole registry, the store of all logins is asked for
/// the last.
///
/// # Errors
/// A sentence without anything from the file but its keys and the names of helpers.
pub(super) fn logins(json: &str, servers: &[&str]) -> Result<DockerLogins, String> {
    let document: DockerConfig = serde_json::from_str(json).map_err(|error| {
        format!("is not docker's config.json (line {}, column {})", error.line(), error.column())
    })?;
    let whole = document.login(servers, "")?;
    let keys = document.auths.keys().chain(document.cred_helpers.keys());
    let scopes: BTreeSet<&str> = keys
        .map(|key| Key::parse(key))
        .filter(|key| servers.iter().any(|server| Key::parse(server).host == key.host))
        .map(|key| key.scope)
        .collect();
    let mut narrower = Vec::new();
    // A scope that is no name of a repository is about none.
    for repository in scopes.iter().filter_map(|scope| Repository::parse(scope).ok()) {
        let login = document.login(servers, repository.as_str())?;
        narrower.extend(login.map(|login| (repository, login)));
    }
    if whole.is_none() && narrower.is_empty() {
        return Err(format!("has neither a login nor a helper for {}", servers.join(" or ")));
    }
    Ok(DockerLogins { whole, scoped: narrower })
}

impl DockerConfig {
    /// The login for this part of the repositories, if there is one; empty is the registry itself.
    fn login(&self, servers: &[&str], scope: &str) -> Result<Option<DockerLogin>, String> {
        let helper = |name: &str, server: &str| {
            Some(DockerLogin::Helper { name: name.to_owned(), server: server.to_owned() })
        };
        if let Some((server, name)) = find(&self.cred_helpers, servers, scope) {
            return Ok(helper(name, server));
        }
        let store = Some(self.creds_store.as_str()).filter(|name| !name.is_empty());
        Ok(match (find(&self.auths, servers, scope), store) {
            (Some((server, entry)), Some(store)) if !entry.has_password() => helper(store, server),
            (Some((_, entry)), _) => Some(entry.login(scope)?),
            (None, Some(store)) if scope.is_empty() => {
                helper(store, servers.last().copied().unwrap_or_default())
            }
            (None, _) => None,
        })
    }
}

/// The value for the first of `servers` that is a key, and what a helper keeps its login under: the
/// server, or the key as it is written.
fn find<'a, V>(
    map: &'a BTreeMap<String, V>,
    servers: &[&'a str],
    scope: &str,
) -> Option<(&'a str, &'a V)> {
    let exact = || servers.iter().find_map(|server| Some((*server, map.get(*server)?)));
    let by_host = |server: &&'a str| {
        let host = Key::parse(server).host;
        let (key, value) = map.iter().find(|(key, _)| Key::parse(key) == Key { host, scope })?;
        Some((if scope.is_empty() { *server } else { key.as_str() }, value))
    };
    let exact = if scope.is_empty() { exact() } else { None };
    exact.or_else(|| servers.iter().find_map(by_host))
}

/// The scope of keys that are about neither a registry nor its repositories.
const NO_REPOSITORY: &str = "/";

/// What a key is about.
#[derive(Debug, PartialEq, Eq)]
struct Key<'a> {
    /// Without a port that goes without saying.
    host: &'a str,
    /// A repository; empty: all of them.
    scope: &'a str,
}

impl<'a> Key<'a> {
    /// Reads `host`, `host/repository`, or a URL: docker wrote the address of the registry's API
    /// (`https://index.docker.io/v1/`), and still does for Docker Hub.
    fn parse(text: &'a str) -> Self {
        let (port, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (":443", rest),
            (None, Some(rest)) => (":80", rest),
            (None, None) => (":443", text),
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let scope = match path.trim_end_matches('/') {
            "v1" | "v2" => "",
            // Docker Desktop keeps tokens of its own there; they are no login of ours.
            api if rest != text && (api.starts_with("v1/") || api.starts_with("v2/")) => {
                NO_REPOSITORY
            }
            scope => scope,
        };
        Self { host: host.strip_suffix(port).unwrap_or(host), scope }
    }
}

impl AuthEntry {
    /// An identity token or a registry token, which newer podman writes empty.
    fn has_token(&self) -> bool {
        let given = |token: &Option<String>| token.as_ref().is_some_and(|token| !token.is_empty());
        given(&self.identitytoken) || given(&self.registrytoken)
    }

    fn has_password(&self) -> bool {
        !self.has_token()
            && (self.auth.as_ref().is_some_and(|auth| !auth.is_empty()) || self.password.is_some())
    }

    fn login(&self, scope: &str) -> Result<DockerLogin, String> {
        let what = if scope.is_empty() {
            "this registry".to_owned()
        } else {
            format!("{scope} of this registry")
        };
        if self.has_token() {
            return Err(format!(
                "holds a token for {what}; only a user and a password can be used"
            ));
        }
        let (username, password) = match (&self.username, &self.password, &self.auth) {
            (Some(username), Some(password), _) if !password.is_empty() => {
                (username.clone(), password.clone())
            }
            (_, _, Some(auth)) if !auth.is_empty() => decode(auth).ok_or_else(|| {
                format!("has an auth for {what} that is not base64 of user:password")
            })?,
            (_, _, Some(_) | None) => {
                return Err(format!(
                    "has an entry for {what} without auth, and no credsStore that keeps it: log \
                     in again, or use username with password_file"
                ));
            }
        };
        let password = Secret::of_line(&password)
            .ok_or_else(|| format!("has an empty password for {what}"))?;
        Ok(DockerLogin::Here { username, password })
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let text = String::from_utf8(BASE64.decode(auth.trim()).ok()?).ok()?;
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
        here(logins(json, servers).expect(json).whole.expect("a login"))
    }

    fn here(login: DockerLogin) -> (String, String) {
        let DockerLogin::Here { username, password } = login else { panic!("{login:?}") };
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
            "https://index.docker.io/v2",
            "index.docker.io:443",
            "https://docker.io:443/v1/",
            "http://registry-1.docker.io:80/v1/",
            "https://registry-1.docker.io/v1",
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
            let json = format!("{{{}}}", parts.join(","));
            let found = logins(&json, &["acme.test", "acme.internal:5000"]).expect(&json);
            assert_eq!(found.scoped, [], "{json}");
            found.whole.expect(&json)
        };
        let helper = |name: &str, server: &str| DockerLogin::Helper {
            name: name.to_owned(),
            server: server.to_owned(),
        };
        let password = r#""auths": {"acme.test": {"auth": "dTpw"}}"#;
        assert_eq!(kept(&[HELPERS, password, STORE]), helper("ecr-login", "acme.test"));
        assert_eq!(
            kept(&[r#""credHelpers": {"acme.internal:5000": "a"}"#]),
            helper("a", "acme.internal:5000")
        );
        let here =
            DockerLogin::Here { username: "u".to_owned(), password: Secret::new("p".to_owned()) };
        assert_eq!(kept(&[password, STORE]), here);
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
    fn a_key_with_a_part_of_the_repositories_is_for_these_alone() {
        let json = r#"{"auths": {"acme.test/team/a": {"auth": "YTph"}, "acme.test:443/team": {"auth": "dDp0"},
                                 "acme.test": {"auth": "dTpw"}, "other.test/x": {"auth": "bm86bm8="},
                                 "acme.test/Not a name": {"auth": "bm86bm8="}},
                       "credHelpers": {"acme.test/cloud": "ecr-login"}, "credsStore": "pass"}"#;
        let found = logins(json, &["acme.test"]).expect(json);
        let helper = DockerLogin::Helper {
            name: "ecr-login".to_owned(),
            server: "acme.test/cloud".to_owned(),
        };
        let scopes: Vec<&str> = found.scoped.iter().map(|(scope, _)| scope.as_str()).collect();
        assert_eq!(scopes, ["cloud", "team", "team/a"]);
        let mut logins = found.scoped.into_iter().map(|(_, login)| login);
        assert_eq!(logins.next(), Some(helper));
        assert_eq!(logins.next().map(here), Some(("t".to_owned(), "t".to_owned())));
        assert_eq!(logins.next().map(here), Some(("a".to_owned(), "a".to_owned())));
        assert_eq!(found.whole.map(here), Some(("u".to_owned(), "p".to_owned())));
    }

    #[test]
    fn a_login_for_a_part_is_none_for_the_rest() {
        let json = r#"{"auths": {"acme.test/team": {"auth": "dDp0"}}}"#;
        let found = logins(json, &["acme.test"]).expect(json);
        assert_eq!((found.whole, found.scoped.len()), (None, 1));
    }

    #[test]
    fn padding_line_ends_and_empty_tokens_do_not_matter() {
        for entry in [
            r#""auth": "dXNlcjpwYXNz""#,
            r#""auth": "dTpwdw""#,
            r#""auth": "dTpwdw==""#,
            r#""auth": " dTpwdwo= ""#,
            r#""auth": "dTpwdwAA""#,
            r#""auth": "dTpwdw==", "identitytoken": """#,
            r#""auth": "dTpwdw=="}, "https://acme.test/v1/access-token": {"identitytoken": "x""#,
            r#""auth": "dTpwdw==", "identitytoken": "", "registrytoken": "", "username": "", "password": """#,
            r#""username": "u", "password": "pw\n""#,
        ] {
            let (user, password) =
                found(&format!(r#"{{"auths": {{"acme.test": {{{entry}}}}}}}"#), &["acme.test"]);
            assert!(
                [("u", "pw"), ("user", "pass")].contains(&(user.as_str(), password.as_str())),
                "{entry}: {user} {password:?}"
            );
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
            r#"{"auths": {"acme.test": {"auth": "dTpw"}, "acme.test/a": {"auth": "hunter2"}}}"#,
            r#"{"auths": {"acme.test/a": {"identitytoken": "hunter2"}}}"#,
            r#"{"auths": {"other.test/acme.test": {"auth": "dTpw"}}}"#,
            r#"{"auths": {"acme.test": {"auth": "dTpw", "identitytoken": "hunter2"}}}"#,
        ] {
            let refusal = logins(json, &["acme.test"]).expect_err(json);
            assert!(!refusal.contains("hunter2"), "{refusal}");
        }
    }
}
