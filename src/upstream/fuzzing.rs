//! What has to hold of the addresses and challenges that registries send, whatever they write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use url::{Host, Url};

use super::auth::challenge::{Challenge, challenges};
use super::transport::gate::{DialVia, OutboundGate, is_public};
use crate::config;
use crate::oci::UpstreamName;

/// What the gate is asked about: hosts that are configured, and ones that are not.
const TOKEN_HOSTS: [&str; 2] = ["auth.acme.test", "10.0.0.2:5001"];
const BLOB_HOSTS: [&str; 2] = ["10.0.0.3:9000", "CDN.internal"];
const HOMES: [&str; 3] = ["https://acme.test", "http://10.0.0.1:5000", "https://[fd00::5]:5443"];
/// The longest line that is written for [`round_trip`]; longer ones are not read.
const LINE_MAX: usize = 4096;

/// A byte that chooses the upstream, and what a registry sends as the address of a blob or of a
/// token server.
pub(crate) fn gate(data: &[u8]) {
    let Some((chosen, text)) = data.split_first() else { return };
    let Ok(text) = str::from_utf8(text) else { return };
    let home = Url::parse(HOMES[usize::from(*chosen) % HOMES.len()]).expect("a URL");
    let gate = OutboundGate::new(&upstream(&home, *chosen >= 128));
    if let Ok(url) = Url::parse(text)
        && let Ok(via) = gate.check(&url)
    {
        may_be_dialled(&home, &url, via);
    }
    let from = gate.home_url("/v2/a/blobs/x?y");
    assert_eq!(from.origin(), home.origin());
    if let Ok(url) = gate.redirect(&from, text) {
        may_be_dialled(&home, &url, gate.check(&url).expect("a redirect is checked"));
        assert!(home.scheme() == "http" || url.scheme() == "https", "a downgrade to {url}");
    }
    if let Ok(url) = gate.realm(text) {
        assert!(is_home(&home, &url) || is_among(&TOKEN_HOSTS, &url), "a password for {url}");
        may_be_dialled(&home, &url, gate.check(&url).expect("a realm is checked"));
    }
    let asked = gate.home_url(text);
    assert_eq!((asked.origin(), asked.fragment()), (home.origin(), None), "{text}");
}

fn may_be_dialled(home: &Url, url: &Url, via: DialVia) {
    assert!(url.username().is_empty() && url.password().is_none(), "userinfo in {url}");
    let named = is_home(home, url) || is_among(&TOKEN_HOSTS, url) || is_among(&BLOB_HOSTS, url);
    assert_eq!(via == DialVia::Configured, named, "{url}");
    assert!(url.scheme() == "https" || named && home.scheme() == "http", "{url}");
    let is_name = match url.host() {
        Some(Host::Domain(name)) => name.trim_end_matches('.').parse::<IpAddr>().is_err(),
        Some(Host::Ipv4(_) | Host::Ipv6(_)) | None => false,
    };
    assert!(named || is_name, "an address that nobody configured: {url}");
}

fn is_home(home: &Url, url: &Url) -> bool {
    (home.scheme(), home.host(), home.port_or_known_default())
        == (url.scheme(), url.host(), url.port_or_known_default())
}

/// As the gate judges, in other words: the entry as a URL of the same scheme has the same origin.
fn is_among(hosts: &[&str], url: &Url) -> bool {
    let same = |entry: &&str| {
        let entry = Url::parse(&format!("{}://{entry}/", url.scheme()));
        entry.is_ok_and(|entry| is_home(&entry, url))
    };
    hosts.iter().any(same)
}

fn upstream(home: &Url, loose: bool) -> config::Upstream {
    let hosts = |hosts: &[&str]| hosts.iter().map(ToString::to_string).collect();
    config::Upstream {
        name: UpstreamName::parse("acme.test").expect("a name"),
        url: home.clone(),
        aliases: vec![],
        hosts: vec![],
        token_hosts: hosts(&TOKEN_HOSTS),
        blob_hosts: hosts(&BLOB_HOSTS),
        shares_with: vec![],
        sealed: false,
        way_out: config::WayOut::default(),
        connect: None,
        ca: None,
        tls_verify: !loose,
        library: false,
        writes: config::Writes::Refused,
        page_limit: None,
        credentials: vec![],
    }
}

/// Sixteen bytes as addresses: what the standard library knows as private is never public, in none
/// of the forms in which IPv6 carries an IPv4 address.
pub(crate) fn addresses(data: &[u8]) {
    let Some((bytes, _)) = data.split_first_chunk::<16>() else { return };
    let v6 = Ipv6Addr::from(*bytes);
    let own_v6 = v6.is_loopback()
        || v6.is_unspecified()
        || v6.is_unique_local()
        || v6.is_unicast_link_local()
        || v6.is_multicast();
    assert!(!own_v6 || !is_public(IpAddr::V6(v6)), "{v6}");
    let [a, b, c, d, ..] = *bytes;
    let v4 = Ipv4Addr::new(a, b, c, d);
    let own_v4 = v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_unspecified()
        || v4.is_multicast()
        || v4.is_broadcast()
        || v4.is_documentation();
    let disguises = [
        IpAddr::V4(v4),
        IpAddr::V6(v4.to_ipv6_mapped()),
        IpAddr::V6(v4.to_ipv6_compatible()),
        IpAddr::V6(Ipv6Addr::from([0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d])),
        IpAddr::V6(Ipv6Addr::from([0x20, 2, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])),
    ];
    for address in disguises {
        assert!(!own_v4 || !is_public(address), "{address} is {v4}");
    }
}

/// `WWW-Authenticate` lines: few challenges, whose parts are written and read the same again.
pub(crate) fn challenge(data: &[u8]) {
    let lines = data.split(|b| *b == b'\n').filter_map(|line| HeaderValue::from_bytes(line).ok());
    let found = challenges(&lines.map(|line| (WWW_AUTHENTICATE, line)).collect::<HeaderMap>());
    assert!(found.len() <= 8);
    for challenge in found {
        round_trip(&challenge);
    }
}

fn round_trip(challenge: &Challenge) {
    let line = challenge.written();
    let Ok(value) = HeaderValue::from_str(&line) else { panic!("{line:?} is no header") };
    if line.len() > LINE_MAX {
        return;
    }
    let headers: HeaderMap = std::iter::once((WWW_AUTHENTICATE, value)).collect();
    assert_eq!(challenges(&headers), std::slice::from_ref(challenge), "{line}");
}
