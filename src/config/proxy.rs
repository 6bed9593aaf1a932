//! `proxy` and `connect`: the way out of this network.
//!
//! A proxy stands at the top for all upstreams, or at one of them for that one; it is a URL, a
//! mapping with a login, `none`, or `environment`, which takes the variables that other programs
//! take. They are read here, and nowhere else.

use base64::prelude::{BASE64_STANDARD, Engine};
use percent_encoding::percent_decode_str;
use url::Url;

use super::EnvLookup;
use super::certificates;
use super::credentials::{self, UpstreamContext};
use super::keys;
use super::place::Fields;
use super::way_out::{DialTarget, DirectHost, ForwardProxy, WayOut};
use crate::secret::Secret;

/// What `proxy` says in this mapping; none if it has no such key.
pub(super) fn read(fields: &Fields<'_>, context: &UpstreamContext<'_>) -> Option<WayOut> {
    let place = fields.get("proxy")?;
    if place.is_mapping() {
        return Some(by_mapping(&place.fields(keys::PROXY), context));
    }
    let way_out = place.text().and_then(|text| match text {
        "none" => Ok(WayOut::default()),
        "environment" => from_environment(context.around.environment),
        url => Ok(all_by(plain(proxy_url(url)?), Vec::new())),
    });
    Some(place.noted(way_out).unwrap_or_default())
}

/// `connect`, of an upstream.
pub(super) fn connect(fields: &Fields<'_>) -> Option<DialTarget> {
    fields.optional("connect", |place| DialTarget::parse(place.text()?))
}

fn by_mapping(fields: &Fields<'_>, context: &UpstreamContext<'_>) -> WayOut {
    let direct = fields.list("no_proxy", DirectHost::parse);
    let authorization = login(fields, context);
    let ca = fields.optional("ca", certificates::read_authorities);
    let Some(place) = fields.get("url") else {
        fields.place.problem("has no url; write { url: http://proxy.corp.example:3128 }");
        return WayOut::default();
    };
    let url = place.noted(place.text().and_then(proxy_url));
    url.map(|url| all_by(ForwardProxy { url, authorization, ca }, direct)).unwrap_or_default()
}

fn plain(url: Url) -> ForwardProxy {
    ForwardProxy { url, authorization: None, ca: None }
}

fn all_by(proxy: ForwardProxy, direct: Vec<DirectHost>) -> WayOut {
    WayOut { http: Some(proxy.clone()), https: Some(proxy), direct }
}

const PASSWORDS: [&str; 3] = ["password", "password_file", "password_env"];

/// What the proxy is shown of the login for it, if there is one.
fn login(fields: &Fields<'_>, context: &UpstreamContext<'_>) -> Option<Secret> {
    let mut given = PASSWORDS.iter().filter_map(|key| Some((*key, fields.get(key)?)));
    let password = given.next();
    if let Some((_, second)) = given.next() {
        second.problem("a password is given already; keep one");
    }
    match (fields.get("username"), password) {
        (None, None) => None,
        (Some(place), None) => {
            place.problem("has no password beside it; give password_file or password_env");
            None
        }
        (None, Some((_, place))) => {
            place.problem("has no username beside it; give both");
            None
        }
        (Some(user), Some((source, place))) => {
            let username = user.noted(user.text());
            let password = place.noted(credentials::password(source, place, context));
            Some(basic(username?, password?.expose()))
        }
    }
}

fn basic(username: &str, password: &str) -> Secret {
    Secret::new(format!("Basic {}", BASE64_STANDARD.encode(format!("{username}:{password}"))))
}

/// The URL of a proxy. It is not repeated in messages: people put passwords into it.
fn proxy_url(text: &str) -> Result<Url, String> {
    const WANTED: &str = "write http://proxy.corp.example:3128, https://…, environment or none";
    let url = Url::parse(text).map_err(|error| format!("is no URL ({error}); {WANTED}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("is no URL of an HTTP proxy; {WANTED}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user or a password; write { url: …, username: …, password_file: … }"
            .to_owned());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("has more than scheme, host and port; {WANTED}"));
    }
    Ok(url)
}

const HTTP: [&str; 4] = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
const HTTPS: [&str; 4] = ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
const DIRECT: [&str; 2] = ["no_proxy", "NO_PROXY"];

/// The variables of proxies that are set, for a configuration that does not say what to do with
/// them.
pub(super) fn set_variables(environment: EnvLookup<'_>) -> Vec<&'static str> {
    let mut names: Vec<_> = HTTPS.into_iter().chain(HTTP.into_iter().take(2)).collect();
    names.retain(|name| environment(name).is_some_and(|value| !value.is_empty()));
    names
}

/// The small letters come first, as with curl. It does not read `HTTP_PROXY`, which a CGI script
/// would get from its client; we are none.
fn from_environment(environment: EnvLookup<'_>) -> Result<WayOut, String> {
    let first = |names: &[&'static str]| {
        let set = |name: &&'static str| {
            Some((*name, environment(name).filter(|value| !value.is_empty())?))
        };
        names.iter().find_map(set)
    };
    let proxy = |names| first(names).map(|(name, value)| from_variable(name, &value)).transpose();
    let direct = first(&DIRECT).map(|(_, value)| value).unwrap_or_default();
    // What is no host and no network is passed over: other programs have rules of their own, as
    // `<local>`.
    let direct = direct
        .split([',', ' '])
        .filter(|entry| !entry.is_empty())
        .filter_map(|entry| DirectHost::parse(entry).ok())
        .collect();
    Ok(WayOut { http: proxy(&HTTP)?, https: proxy(&HTTPS)?, direct })
}

/// A proxy as a variable has it: a login may stand in its URL, and the scheme be left out.
fn from_variable(name: &str, value: &str) -> Result<ForwardProxy, String> {
    let with_scheme = if value.contains("://") { value.into() } else { format!("http://{value}") };
    let wrong = || format!("the environment variable {name} is no URL of a proxy");
    let mut url = Url::parse(&with_scheme).map_err(|_| wrong())?;
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let authorization = (!url.username().is_empty())
        .then(|| basic(&decoded(url.username()), &decoded(url.password().unwrap_or_default())));
    url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| wrong())?;
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    let url = proxy_url(url.as_str())
        .map_err(|message| format!("the environment variable {name} {message}"))?;
    Ok(ForwardProxy { url, authorization, ca: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(set: &[(&str, &str)]) -> Result<WayOut, String> {
        let lookup = |name: &str| {
            set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        from_environment(&lookup)
    }

    fn url(proxy: Option<&ForwardProxy>) -> Option<&str> {
        proxy.map(|proxy| proxy.url.as_str())
    }

    #[test]
    fn the_variables_are_read_as_curl_reads_them() {
        let out = from(&[
            ("https_proxy", "http://small.test:1"),
            ("HTTPS_PROXY", "http://large.test:1"),
            ("HTTP_PROXY", "plain.test:3128"),
            ("NO_PROXY", "localhost, .corp.test,10.0.0.0/8 <local>,[fd00::1]"),
        ])
        .expect("valid");
        assert_eq!(url(out.https.as_ref()), Some("http://small.test:1/"));
        assert_eq!(url(out.http.as_ref()), Some("http://plain.test:3128/"));
        let direct = ["localhost", ".corp.test", "10.0.0.0/8", "fd00::1"];
        assert_eq!(out.direct, direct.map(|text| DirectHost::parse(text).expect("valid")));
        let all = from(&[("ALL_PROXY", "https://all.test"), ("https_proxy", "")]).expect("valid");
        assert_eq!(url(all.http.as_ref()), Some("https://all.test/"));
        assert_eq!(all.http, all.https);
        assert_eq!(from(&[]), Ok(WayOut::default()));
    }

    #[test]
    fn a_login_in_a_variable_is_taken_and_never_shown() {
        let out = from(&[("https_proxy", "http://me:hunter%402@p.test:3128")]).expect("valid");
        let proxy = out.https.expect("set");
        assert_eq!(proxy.url.as_str(), "http://p.test:3128/");
        assert_eq!(proxy.authorization, Some(basic("me", "hunter@2")));
        assert!(!format!("{proxy:?}").contains("hunter"));
        for bad in ["socks5://me:hunter2@p.test", "http://", "http://me:hunter2@p.test:x"] {
            let message = from(&[("https_proxy", bad)]).expect_err(bad);
            assert!(message.contains("https_proxy") && !message.contains("hunter2"), "{message}");
        }
    }
}
