//! The outbound gate: which URLs may be dialled, and by which client. Pure.
//!
//! Registries name further addresses themselves: redirects to blob storage, token realms. What they
//! name must not reach into our network, nor take a credential elsewhere (RELIABILITY §2.1, §2.2).
//! The gate sees every URL before it is dialled; names that are not configured are resolved by the
//! filtering resolver in `resolve`, which asks [`is_public`] about each address. Literal addresses
//! never reach a resolver, so the gate refuses them itself; and names that a proxy resolves reach
//! none of ours, so it refuses those of internal networks. Storage that a redirect leads to
//! mostly has a host that nobody configured, so such names must be reachable.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};
use url::{Host, Url};

use super::way::{Way, WaysOut, is_internal};
use crate::config;

/// Which URLs one upstream may lead us to.
#[derive(Debug)]
pub(in crate::upstream) struct OutboundGate {
    /// The upstream's configured URL.
    home: Url,
    /// `host` or `host:port`, in lower case as `Url` has hosts.
    token_hosts: Vec<String>,
    blob_hosts: Vec<String>,
    ways: WaysOut,
}

/// Which of the two clients dials a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum DialVia {
    /// Its exact host and port are configured; any address will do.
    Configured,
    /// Somebody else named it; only public addresses.
    Public,
}

/// Why a URL is not dialled. `Display` shows no path and no query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum ForbiddenUrl {
    NoHttps,
    /// A redirect from https to http.
    Downgrade,
    UserInfo,
    /// An IP address that is not configured.
    AddressLiteral,
    /// Every address of the name is one of our own networks'.
    PrivateName,
    /// A name that leads into somebody's own network, and that a proxy would look up for us.
    InternalName,
    /// A token realm that is neither the upstream itself nor one of its `token_hosts` (UP-5).
    ForeignRealm,
    Unparsable,
}

impl fmt::Display for ForbiddenUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoHttps => "it is not https",
            Self::Downgrade => "it leads from https to http",
            Self::UserInfo => "it carries a user name",
            Self::AddressLiteral => "it is an address instead of a name",
            Self::PrivateName => "it resolves to private addresses only; blob_hosts would allow it",
            Self::InternalName => {
                "it is a name of an internal network, behind a proxy; blob_hosts would allow it"
            }
            Self::ForeignRealm => "it is neither the upstream nor one of its token_hosts",
            Self::Unparsable => "it is not a URL",
        })
    }
}

impl std::error::Error for ForbiddenUrl {}

impl OutboundGate {
    pub(in crate::upstream) fn new(config: &config::Upstream) -> Self {
        let lower = |hosts: &[String]| hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self {
            home: config.url.clone(),
            token_hosts: lower(&config.token_hosts),
            blob_hosts: lower(&config.blob_hosts),
            ways: WaysOut::new(config),
        }
    }

    /// `path`, and the query behind it, at the upstream itself.
    pub(in crate::upstream) fn home_url(&self, path: &str) -> Url {
        let mut url = self.home.clone();
        let (path, query) =
            path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        url.set_path(path);
        url.set_query(query);
        url
    }

    /// Decides whether `url` is dialled, and by which client.
    pub(in crate::upstream) fn check(&self, url: &Url) -> Result<DialVia, ForbiddenUrl> {
        let host = url.host().ok_or(ForbiddenUrl::Unparsable)?;
        let configured = self.is_home(url)
            || is_listed(&self.token_hosts, url)
            || is_listed(&self.blob_hosts, url);
        // An upstream on plain http is the operator's choice for its own hosts, and for no others.
        let scheme_ok = match url.scheme() {
            "https" => true,
            "http" => self.home.scheme() == "http" && configured,
            _ => false,
        };
        match host {
            _ if !scheme_ok => Err(ForbiddenUrl::NoHttps),
            _ if has_user(url) => Err(ForbiddenUrl::UserInfo),
            _ if configured => Ok(DialVia::Configured),
            // A proxy looks the name up itself, where no filter of ours sees the addresses.
            Host::Domain(name) if self.way(url) != Way::Direct && is_internal(name) => {
                Err(ForbiddenUrl::InternalName)
            }
            // The URL parser takes `127.0.0.1..` for a name; whoever looks it up may not.
            Host::Domain(name) if ends_in_a_number(name) => Err(ForbiddenUrl::AddressLiteral),
            Host::Domain(_) => Ok(DialVia::Public),
            Host::Ipv4(_) | Host::Ipv6(_) => Err(ForbiddenUrl::AddressLiteral),
        }
    }

    /// Where a redirect leads; relative ones are resolved (RED-1).
    pub(in crate::upstream) fn redirect(
        &self,
        from: &Url,
        location: &str,
    ) -> Result<Url, ForbiddenUrl> {
        let to = from.join(location).map_err(|_| ForbiddenUrl::Unparsable)?;
        if from.scheme() == "https" && to.scheme() == "http" {
            return Err(ForbiddenUrl::Downgrade);
        }
        self.check(&to).map(|_| to)
    }

    /// The token realm of a challenge, if our credential may be sent there (UP-5). GitLab and
    /// Docker Hub have it on a host of its own, which `token_hosts` names; being a blob host is not
    /// enough, since whoever stores blobs need not be trusted with a password.
    pub(in crate::upstream) fn realm(&self, realm: &str) -> Result<Url, ForbiddenUrl> {
        let url = Url::parse(realm).map_err(|_| ForbiddenUrl::Unparsable)?;
        self.check(&url)?;
        if self.is_home(&url) || is_listed(&self.token_hosts, &url) {
            Ok(url)
        } else {
            Err(ForbiddenUrl::ForeignRealm)
        }
    }

    /// Whether a request that was made to the upstream may go on there with its credential: to the
    /// upstream itself, or to a host that the operator trusts with both, content and credentials
    /// (RED-2).
    pub(in crate::upstream) fn may_take_credential(&self, url: &Url) -> bool {
        let is_trusted = is_listed(&self.token_hosts, url) && is_listed(&self.blob_hosts, url);
        self.is_home(url) || is_trusted
    }

    /// Directly, or through which proxy.
    pub(super) fn way(&self, url: &Url) -> Way<'_> {
        self.ways.way(url)
    }

    /// Whether it is the upstream itself, and not a host that somebody has named.
    pub(super) fn is_home(&self, url: &Url) -> bool {
        self.home.origin() == url.origin()
    }
}

/// Whether a host would be an IPv4 address to the URL standard, but for dots behind it (WHATWG URL
/// §3.5, "ends in a number"). No top-level domain is a number.
fn ends_in_a_number(name: &str) -> bool {
    let last = name.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").unwrap_or("-");
    last.bytes().all(|byte| byte.is_ascii_digit())
        || hexadecimal.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn has_user(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Whether `host:port` of the URL is in the list; a bare `host` there stands for the scheme's own
/// port.
fn is_listed(hosts: &[String], url: &Url) -> bool {
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return false;
    };
    let with_port = format!("{host}:{port}");
    hosts.iter().any(|entry| *entry == with_port || (url.port().is_none() && entry == host))
}

/// Scheme, host and port of a URL: all that errors and logs show of it.
pub(in crate::upstream) fn origin_of(url: &Url) -> String {
    url.origin().ascii_serialization()
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(first: u16, second: u16, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, 0, 0, 0, 0, 0, 0), length)
}

/// IANA's special-purpose registry, multicast, the reserved class E, and Azure's host agent
/// (168.63.129.16), which answers every virtual machine there.
const NOT_PUBLIC_V4: [Ipv4Net; 17] = [
    v4(0, 0, 0, 0, 8),
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(168, 63, 129, 16, 32),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
    v4(255, 255, 255, 255, 32),
];

const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);
const SIX_TO_FOUR: Ipv6Net = v6(0x2002, 0, 16);
const NAT64: Ipv6Net = v6(0x64, 0xff9b, 96);
/// Protocol assignments (Teredo and ORCHID among them) and documentation, inside the global range.
const NOT_PUBLIC_V6: [Ipv6Net; 3] = [v6(0x2001, 0, 23), v6(0x2001, 0xdb8, 32), v6(0x3fff, 0, 20)];

/// Whether an address lies in the public Internet, seen through the forms in which IPv6 carries an
/// IPv4 address.
pub(in crate::upstream) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => NOT_PUBLIC_V4.iter().all(|net| !net.contains(&address)),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(inner) => is_public(IpAddr::V4(inner)),
            None => {
                GLOBAL_V6.contains(&address)
                    && NOT_PUBLIC_V6.iter().all(|net| !net.contains(&address))
            }
        },
    }
}

/// The IPv4 address that a mapped, NAT64 or 6to4 address stands for.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bytes = address.octets();
    let at = |i: usize| Ipv4Addr::new(bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]);
    let mapped = || address.to_ipv4_mapped();
    let nat64 = || NAT64.contains(&address).then(|| at(12));
    let six_to_four = || SIX_TO_FOUR.contains(&address).then(|| at(2));
    mapped().or_else(nat64).or_else(six_to_four)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::UpstreamName;

    fn gate(url: &str) -> OutboundGate {
        let hosts = |hosts: &[&str]| hosts.iter().map(ToString::to_string).collect();
        OutboundGate::new(&config::Upstream {
            name: UpstreamName::parse("acme.test").expect("valid"),
            url: Url::parse(url).expect("valid"),
            aliases: vec![],
            hosts: vec![],
            token_hosts: hosts(&["auth.acme.test", "10.0.0.2:5001", "both.test"]),
            blob_hosts: hosts(&["10.0.0.3:9000", "CDN.internal", "both.test"]),
            shares_with: vec![],
            sealed: false,
            way_out: config::WayOut::default(),
            connect: None,
            ca: None,
            tls_verify: true,
            library: false,
            writes: config::Writes::Refused,
            page_limit: None,
            credentials: vec![],
        })
    }

    fn checked(gate: &OutboundGate, url: &str) -> Result<DialVia, ForbiddenUrl> {
        gate.check(&Url::parse(url).expect(url))
    }

    #[test]
    fn only_exact_configured_hosts_may_be_private() {
        let gate = gate("https://acme.test:5000");
        for (url, expected) in [
            ("https://acme.test:5000/v2/", Ok(DialVia::Configured)),
            ("https://acme.test/v2/", Ok(DialVia::Public)),
            ("https://auth.acme.test/token", Ok(DialVia::Configured)),
            ("https://auth.acme.test:8443/token", Ok(DialVia::Public)),
            ("https://10.0.0.3:9000/b", Ok(DialVia::Configured)),
            ("https://cdn.internal/b", Ok(DialVia::Configured)),
            ("https://10.0.0.3/b", Err(ForbiddenUrl::AddressLiteral)),
            ("https://127.0.0.1:5000/", Err(ForbiddenUrl::AddressLiteral)),
            ("https://0x7f.1/", Err(ForbiddenUrl::AddressLiteral)),
            ("https://2130706433/", Err(ForbiddenUrl::AddressLiteral)),
            ("https://[::1]/", Err(ForbiddenUrl::AddressLiteral)),
            ("https://93.184.216.34/", Err(ForbiddenUrl::AddressLiteral)),
            ("https://127.0.0.1../", Err(ForbiddenUrl::AddressLiteral)),
            ("https://0x7f.1../", Err(ForbiddenUrl::AddressLiteral)),
            ("https://a.2130706433../", Err(ForbiddenUrl::AddressLiteral)),
            ("https://cdn.test../", Ok(DialVia::Public)),
            ("https://1password.1com/", Ok(DialVia::Public)),
            ("https://user@cdn.example/", Err(ForbiddenUrl::UserInfo)),
            ("https://u:p@acme.test:5000/", Err(ForbiddenUrl::UserInfo)),
            ("http://acme.test:5000/", Err(ForbiddenUrl::NoHttps)),
            ("http://cdn.example/", Err(ForbiddenUrl::NoHttps)),
            ("ftp://acme.test/", Err(ForbiddenUrl::NoHttps)),
            ("https://cdn.example/", Ok(DialVia::Public)),
        ] {
            assert_eq!(checked(&gate, url), expected, "{url}");
        }
    }

    #[test]
    fn an_http_upstream_allows_http_for_its_own_hosts_only() {
        let gate = gate("http://10.0.0.1:5000");
        assert_eq!(checked(&gate, "http://10.0.0.1:5000/v2/"), Ok(DialVia::Configured));
        assert_eq!(checked(&gate, "http://10.0.0.3:9000/"), Ok(DialVia::Configured));
        assert_eq!(checked(&gate, "http://cdn.example/"), Err(ForbiddenUrl::NoHttps));
        assert_eq!(checked(&gate, "http://10.0.0.1:5001/"), Err(ForbiddenUrl::NoHttps));
    }

    #[test]
    fn redirects_resolve_and_never_downgrade() {
        let gate = gate("http://10.0.0.1:5000");
        let from = Url::parse("http://10.0.0.1:5000/v2/a/blobs/x").expect("valid");
        assert_eq!(gate.redirect(&from, "../y?z=1").expect("relative").path(), "/v2/a/y");
        let secure = Url::parse("https://cdn.example/").expect("valid");
        assert_eq!(gate.redirect(&secure, "http://10.0.0.1:5000/"), Err(ForbiddenUrl::Downgrade));
        assert_eq!(gate.redirect(&from, "http://[::1"), Err(ForbiddenUrl::Unparsable));
    }

    #[test]
    fn a_realm_is_the_upstream_or_a_token_host_never_a_blob_host() {
        let gate = gate("https://acme.test");
        assert!(gate.realm("https://acme.test/token").is_ok());
        assert!(gate.realm("https://auth.acme.test/token").is_ok());
        assert!(gate.realm("https://10.0.0.2:5001/token").is_ok());
        for realm in [
            "https://cdn.internal/token",
            "https://acme.test.evil.example/",
            "https://acme.test:444/",
        ] {
            assert_eq!(gate.realm(realm), Err(ForbiddenUrl::ForeignRealm), "{realm}");
        }
        assert_eq!(gate.realm("token"), Err(ForbiddenUrl::Unparsable));
    }

    #[test]
    fn a_redirect_keeps_the_credential_where_the_operator_trusts_with_both() {
        let gate = gate("https://acme.test");
        for (url, keeps) in [
            ("https://acme.test/v2/a", true),
            ("https://both.test/b", true),
            ("https://auth.acme.test/b", false),
            ("https://cdn.internal/b", false),
            ("https://cdn.example/b", false),
            ("https://acme.test:444/v2/a", false),
        ] {
            assert_eq!(gate.may_take_credential(&Url::parse(url).expect(url)), keeps, "{url}");
        }
    }

    #[test]
    fn what_is_shown_of_a_url_is_its_origin_and_of_a_refusal_what_would_allow_it() {
        let url = Url::parse("https://u:p@acme.test:5000/secret?x=y").expect("valid");
        assert_eq!(origin_of(&url), "https://acme.test:5000");
        for refusal in [ForbiddenUrl::PrivateName, ForbiddenUrl::InternalName] {
            assert!(refusal.to_string().contains("blob_hosts"), "{refusal}");
        }
    }

    #[test]
    fn addresses_that_are_not_public_are_known_in_every_disguise() {
        for address in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.9.9.9",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.168.1.1",
            "198.19.0.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b::a83f:8110",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a83f:8110::1",
            "2002:c0a8:101::1",
            "fe80::1",
            "fc00::1",
            "fd00:ec2::254",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fec0::1",
        ] {
            assert!(!is_public(address.parse().expect(address)), "{address}");
        }
        for address in [
            "1.1.1.1",
            "93.184.216.34",
            "172.15.0.1",
            "172.32.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
            "2002:101:101::1",
        ] {
            assert!(is_public(address.parse().expect(address)), "{address}");
        }
    }
}
