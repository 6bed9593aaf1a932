//! The `upstreams` section: what a preset knows is filled in, and no two upstreams have a name in
//! common.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::Url;

use super::certificates;
use super::credentials::{self, UpstreamContext};
use super::keys;
use super::place::{Fields, Place, closest};
use super::presets::{self, PRESETS, Preset};
use super::proxy;
use super::{Upstream, WayOut, Writes};
use crate::licence::APPLICATION_PREFIX;
use crate::oci::{Repository, UpstreamName, normal_host, split_port};

/// The upstreams of the document in its order; every preset if it has no such section.
pub(super) fn read(top: &Fields<'_>, context: &UpstreamContext<'_>) -> Vec<Upstream> {
    let Some(section) = top.get("upstreams") else {
        let preset = |preset| Upstream {
            way_out: context.way_out.clone(),
            sealed: context.sealed,
            ..from_preset(preset)
        };
        return PRESETS.iter().map(preset).collect();
    };
    let Some(entries) = section.entries() else { return Vec::new() };
    if entries.is_empty() {
        section.problem("lists no registry; leave the key out to have all the well-known ones");
    }
    let mut names = ClaimedNames::default();
    let mut hosts = ClaimedNames::default();
    let mut upstreams = Vec::new();
    for (key, place) in &entries {
        let Some(name) = place.noted(upstream_name(key)) else { continue };
        let fields = place.fields(keys::UPSTREAM);
        let mut upstream = upstream(&fields, name, context);
        let others = entries.iter().map(|(key, _)| key.as_str()).filter(|other| other != key);
        upstream.shares_with = shares_with(&fields, &others.collect::<Vec<_>>());
        let owner = upstream.name.as_str();
        names.claim(owner, owner, place);
        if std::iter::once(owner)
            .chain(upstream.aliases.iter().map(String::as_str))
            .any(|name| name == APPLICATION_PREFIX)
        {
            place.problem("proxy stands before the names of applications; choose another name");
        }
        for alias in &upstream.aliases {
            names.claim(alias, owner, fields.get("aliases").unwrap_or(place));
        }
        for host in &upstream.hosts {
            hosts.claim(host, owner, fields.get("hosts").unwrap_or(place));
        }
        upstreams.push(upstream);
    }
    upstreams
}

/// Those that this upstream shares with, of the `others` that there are.
fn shares_with(fields: &Fields<'_>, others: &[&str]) -> Vec<UpstreamName> {
    fields.list("shares_with", |text| {
        let name = upstream_name(text)?;
        if others.contains(&name.as_str()) {
            return Ok(name);
        }
        let others = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
        Err(format!("{name} is no other upstream; there are: {others}"))
    })
}

/// Which upstream has taken which name.
#[derive(Default)]
struct ClaimedNames(HashMap<String, String>);

impl ClaimedNames {
    fn claim(&mut self, name: &str, owner: &str, place: &Place<'_>) {
        let first = self.0.entry(name.to_owned()).or_insert_with(|| owner.to_owned());
        if first != owner {
            place.problem(format!(
                "{name} stands for {first} already; a name belongs to one upstream"
            ));
        }
    }
}

fn from_preset(preset: &Preset) -> Upstream {
    let name = UpstreamName::parse(preset.name).expect("presets have valid names");
    Upstream {
        url: Url::parse(preset.url).expect("presets have valid URLs"),
        aliases: owned(preset.aliases),
        token_hosts: owned(preset.token_hosts),
        library: preset.library,
        page_limit: preset.page_limit,
        ..plain(name)
    }
}

/// A registry of which only the name is known; the name is its host.
fn plain(name: UpstreamName) -> Upstream {
    let url = Url::parse(&format!("https://{name}")).expect("`upstream_name` has made a URL of it");
    Upstream {
        name,
        url,
        aliases: Vec::new(),
        hosts: Vec::new(),
        token_hosts: Vec::new(),
        blob_hosts: Vec::new(),
        shares_with: Vec::new(),
        sealed: false,
        way_out: WayOut::default(),
        connect: None,
        ca: None,
        tls_verify: true,
        library: false,
        writes: Writes::Refused,
        page_limit: None,
        credentials: Vec::new(),
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn upstream(fields: &Fields<'_>, name: UpstreamName, context: &UpstreamContext<'_>) -> Upstream {
    let preset = presets::find(name.as_str()).map(from_preset);
    let mut upstream = preset.unwrap_or_else(|| unknown(fields, name));
    if let Some(url) = fields.optional("url", |place| registry_url(place.text()?)) {
        upstream.url = url;
    }
    if leads_here(&upstream.url, context) {
        let place = fields.get("url").unwrap_or(&fields.place);
        place.warning(format!(
            "{} is this proxy itself, so that it would ask itself; write where the registry is",
            upstream.url.origin().ascii_serialization()
        ));
    }
    for (key, list, parse) in [
        ("aliases", &mut upstream.aliases, alias as fn(&str) -> Result<String, String>),
        ("hosts", &mut upstream.hosts, host_name),
        ("token_hosts", &mut upstream.token_hosts, host_and_port),
        ("blob_hosts", &mut upstream.blob_hosts, host_and_port),
    ] {
        if fields.get(key).is_some() {
            *list = fields.list(key, parse);
        }
    }
    upstream.sealed = fields.read("sealed", context.sealed, Place::flag);
    upstream.way_out = proxy::read(fields, context).unwrap_or_else(|| context.way_out.clone());
    upstream.connect = proxy::connect(fields);
    upstream.ca = fields.optional("ca", certificates::read_authorities);
    upstream.tls_verify = fields.read("tls_verify", true, Place::flag);
    upstream.writes = writes(fields);
    upstream.page_limit = fields.optional("page_limit", Place::count).or(upstream.page_limit);
    upstream.credentials = credentials::read(fields, &upstream, context);
    upstream
}

/// Whether a request to this URL would come back to us, as far as it can be told without asking
/// anybody.
fn leads_here(url: &Url, context: &UpstreamContext<'_>) -> bool {
    let (listen, port) = (context.listen, url.port_or_known_default());
    let at = |ip: IpAddr| {
        ip == listen.ip() || (listen.ip().is_unspecified() && ip.to_canonical().is_loopback())
    };
    let by_address = match url.host() {
        Some(url::Host::Ipv4(ip)) => at(ip.into()),
        Some(url::Host::Ipv6(ip)) => at(ip.into()),
        Some(url::Host::Domain(name)) => name == "localhost" && at(Ipv4Addr::LOCALHOST.into()),
        None => false,
    };
    let named = context.hosts.iter().find(|host| url.host_str() == Some(&host.name));
    // What stands before us, with TLS, listens on the usual port or on the one that is listed.
    let by_name = named.is_some_and(|host| port == Some(listen.port()) || url.port() == host.port);
    by_name || (by_address && port == Some(listen.port()))
}

fn writes(fields: &Fields<'_>) -> Writes {
    let push = fields.read("push", false, Place::flag);
    let keep = fields.read("cache_pushes", true, Place::flag);
    if let Some(place) = fields.get("cache_pushes").filter(|_| !push) {
        place.problem("nothing is pushed to this upstream; add push: true, or leave it out");
    }
    match (push, keep) {
        (false, _) => Writes::Refused,
        (true, false) => Writes::Passed,
        (true, true) => Writes::Kept,
    }
}

/// A registry without a preset. One whose name is nearly that of a preset needs a `url`, since it
/// is probably a typing mistake.
fn unknown(fields: &Fields<'_>, name: UpstreamName) -> Upstream {
    if fields.get("url").is_none()
        && let Some(meant) = closest(name.as_str(), PRESETS.iter().map(|preset| preset.name))
    {
        fields
            .place
            .problem(format!("did you mean {meant}? If not, say where it is: url: https://{name}"));
    }
    plain(name)
}

fn upstream_name(key: &str) -> Result<UpstreamName, String> {
    let normal = normal(key);
    let name = UpstreamName::parse(&normal).map_err(|_| {
        format!(
            "{key:?} is no host; name an upstream by its host, as docker.io or \
            registry.acme.test:5000"
        )
    })?;
    check_host(&name)?;
    if normal == key { Ok(name) } else { Err(format!("write it as {name}")) }
}

/// A URL with this host has to lead to it: of a name whose last part is a number, URLs make the IPv4
/// address that it stands for, or nothing (WHATWG URL §3.5, "ends in a number").
fn check_host(name: &UpstreamName) -> Result<(), String> {
    let url = Url::parse(&format!("https://{name}"))
        .map_err(|error| format!("{:?} is no host: {error}", name.as_str()))?;
    let (host, _) = split_port(name.as_str());
    match url.host_str() {
        Some(same) if same == host => Ok(()),
        other => Err(format!("{host} stands for {}: write that", other.unwrap_or_default())),
    }
}

/// Lower case, no trailing dot, no default port: the form in which names are compared (PROTOCOL
/// §1.9).
fn normal(name: &str) -> String {
    let normal = normal_host(name);
    normal.strip_suffix(":443").map_or(normal.clone(), normal_host)
}

/// A further first component or `ns` value; it has to be a valid component of a repository name
/// (SEL-4).
fn alias(text: &str) -> Result<String, String> {
    let alias = normal(text);
    if !alias.contains('/') && Repository::parse(&alias).is_ok() {
        return Ok(alias);
    }
    Err(format!(
        "{text:?} cannot stand first in an image name; use letters and digits joined by . _ or -, \
         as acme"
    ))
}

/// A host without port, in lower case: a name, an address, or an IPv6 address with or without its
/// brackets.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    let bracketed = if is_bare_ipv6(text) { format!("[{text}]") } else { text.to_owned() };
    let host = normal_host(&bracketed);
    if split_port(&host).1.is_some() || UpstreamName::parse(&host).is_err() {
        return Err(format!(
            "{text:?} is no host name; write it without scheme, port or path, as mirror.example.com"
        ));
    }
    Ok(host)
}

pub(super) fn is_bare_ipv6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

/// `host` or `host:port`, in lower case.
///
/// # Errors
/// A sentence that says what would be right.
pub fn host_and_port(text: &str) -> Result<String, String> {
    let name = UpstreamName::parse(&normal_host(text));
    name.map(|name| name.as_str().to_owned()).map_err(|_| {
        format!(
            "{text:?} is no host; write it without scheme or path, as auth.example.com or \
             auth.example.com:8443"
        )
    })
}

/// Scheme, host and port. The text is not repeated in messages: people put passwords into URLs.
fn registry_url(text: &str) -> Result<Url, String> {
    const WANTED: &str = "write https://host or https://host:port";
    let url = Url::parse(text).map_err(|error| format!("is no URL ({error}); {WANTED}"))?;
    if !matches!(url.scheme(), "https" | "http") || url.host_str().is_none() {
        return Err(format!("is no URL of a registry; {WANTED}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user or a password; give them under credentials".to_owned());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(format!("has more than scheme, host and port; {WANTED}, without /v2"));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn presets_are_valid_and_claim_every_name_once() {
        let mut seen = std::collections::HashSet::new();
        for preset in PRESETS {
            let upstream = from_preset(preset);
            assert_eq!(registry_url(preset.url), Ok(upstream.url), "{}", preset.name);
            for name in std::iter::once(&preset.name).chain(preset.aliases) {
                assert_eq!(alias(name), Ok((*name).to_owned()));
                assert!(seen.insert(*name), "{name} is claimed twice");
            }
            for host in preset.token_hosts {
                assert_eq!(host_and_port(host), Ok((*host).to_owned()));
            }
        }
    }

    #[test]
    fn urls_have_a_scheme_a_host_and_a_port_only() {
        for good in
            ["https://a.test", "https://a.test/", "http://127.0.0.1:5000", "https://[::1]:5000"]
        {
            assert!(registry_url(good).is_ok(), "{good}");
        }
        for bad in [
            "a.test",
            "a.test:5000",
            "https://",
            "ftp://a.test",
            "https://a.test/v2",
            "https://a.test?x",
            "https://a.test#x",
            "https://u@a.test",
            "https://u:hunter2@a.test",
            "unix:/run/x",
        ] {
            let message = registry_url(bad).expect_err(bad);
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn a_name_leads_to_itself() {
        for good in ["docker.io", "127.0.0.1:5000", "[::1]:5000", "1.2.test", "registry", "1a"] {
            assert!(upstream_name(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("th7.0.0", "\"th7.0.0\" is no host: invalid IPv4 address"),
            ("1.2.3.256", "is no host: invalid IPv4 address"),
            ("registry.1:5000", "is no host: invalid IPv4 address"),
            ("xn--0.test", "is no host: invalid international domain name"),
            ("127.1", "127.1 stands for 127.0.0.1: write that"),
            ("0x7f.1", "0x7f.1 stands for 127.0.0.1: write that"),
            ("1:5000", "1 stands for 0.0.0.1: write that"),
        ] {
            let told = upstream_name(bad).expect_err(bad);
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn names_are_compared_in_their_normal_form() {
        assert_eq!(alias("Acme.Test."), Ok("acme.test".to_owned()));
        assert_eq!(alias("acme.test:443"), Ok("acme.test".to_owned()));
        assert_eq!(host_name("Mirror.Example.COM."), Ok("mirror.example.com".to_owned()));
        for text in ["::1", "[::1]", "[0:0::1]", "0::1"] {
            assert_eq!(host_name(text), Ok("[::1]".to_owned()), "{text}");
        }
        assert!(host_name("[::1]:5000").is_err() && host_name("[::1").is_err());
        assert_eq!(host_and_port("[FD00::0:5]:5000"), Ok("[fd00::5]:5000".to_owned()));
        assert_eq!(upstream_name("[0::1]:443"), Err("write it as [::1]".to_owned()));
        assert!(upstream_name("[fd00::5]:5000").is_ok());
        assert_eq!(host_and_port("Auth.test:8443"), Ok("auth.test:8443".to_owned()));
        for bad in ["", "a/b", "a:5000", "a b", "-a"] {
            assert!(alias(bad).is_err(), "{bad}");
            assert!(host_name(bad).is_err(), "{bad}");
        }
        assert!(host_and_port("https://auth.test").is_err());
        assert_eq!(upstream_name("Docker.io"), Err("write it as docker.io".to_owned()));
        assert_eq!(upstream_name("quay.io:443"), Err("write it as quay.io".to_owned()));
        assert!(upstream_name("localhost:5000").is_ok() && upstream_name("a/b").is_err());
    }
}
