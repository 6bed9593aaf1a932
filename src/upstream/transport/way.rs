//! The way to a URL: straight there, or through the proxy of the network. Pure.
//!
//! Read as curl reads it: `https` goes through a tunnel (CONNECT), and `http` in absolute form,
//! since proxies commonly allow CONNECT to TLS ports only. A proxy resolves names by itself, so no
//! filtering resolver sees them; [`is_internal`] says which names are not even told to one.

use std::net::IpAddr;

use url::{Host, Url};

use crate::config::{self, DialTarget, DirectHost, DirectName, ForwardProxy, WayOut};

/// How the hosts of one upstream are reached.
#[derive(Debug)]
pub(super) struct WaysOut {
    out: WayOut,
    /// The upstream's own URL, for which alone `connect` holds.
    home: Url,
    connect: Option<DialTarget>,
}

/// How one URL is reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Way<'a> {
    Direct,
    /// The proxy is sent the whole URL, and asks for it itself.
    Forward(&'a ForwardProxy),
    /// The proxy connects us, and sees nothing of what is said.
    Tunnel(&'a ForwardProxy),
}

impl WaysOut {
    pub(super) fn new(config: &config::Upstream) -> Self {
        let (out, connect) = (config.way_out.clone(), config.connect.clone());
        Self { out, home: config.url.clone(), connect }
    }

    pub(super) fn way(&self, url: &Url) -> Way<'_> {
        let is_https = url.scheme() == "https";
        let proxy = if is_https { &self.out.https } else { &self.out.http };
        let Some(proxy) = proxy else { return Way::Direct };
        let moved = self.moved(url);
        let is_direct = |target: &DialTarget| self.out.direct.iter().any(|d| matches(d, target));
        if target_of(url).as_ref().is_some_and(is_direct) || moved.is_some_and(is_direct) {
            Way::Direct
        } else if is_https || moved.is_some() {
            Way::Tunnel(proxy)
        } else {
            Way::Forward(proxy)
        }
    }

    /// Host and port that are dialled for a URL; none if it has no host.
    pub(super) fn target(&self, url: &Url) -> Option<DialTarget> {
        self.moved(url).cloned().or_else(|| target_of(url))
    }

    /// Some proxy of these; they have one authority for their certificates.
    pub(super) fn any_proxy(&self) -> Option<&ForwardProxy> {
        self.out.https.as_ref().or(self.out.http.as_ref())
    }

    /// `connect`, for the upstream's own origin.
    fn moved(&self, url: &Url) -> Option<&DialTarget> {
        self.connect.as_ref().filter(|_| url.origin() == self.home.origin())
    }
}

fn target_of(url: &Url) -> Option<DialTarget> {
    let (host, port) = (url.host()?.to_owned(), url.port_or_known_default()?);
    Some(DialTarget { host, port })
}

/// Names and what lies below them; addresses by their network.
fn matches(direct: &DirectHost, target: &DialTarget) -> bool {
    if direct.port.is_some_and(|port| port != target.port) {
        return false;
    }
    match (&direct.name, &target.host) {
        (DirectName::All, _) => true,
        (DirectName::Network(net), Host::Ipv4(address)) => net.contains(&IpAddr::V4(*address)),
        (DirectName::Network(net), Host::Ipv6(address)) => net.contains(&IpAddr::V6(*address)),
        (DirectName::Below(suffix), Host::Domain(name)) => is_below(name, suffix),
        (DirectName::Network(_), Host::Domain(_))
        | (DirectName::Below(_), Host::Ipv4(_) | Host::Ipv6(_)) => false,
    }
}

/// Whether `name` is `suffix` or ends in it after a dot.
fn is_below(name: &str, suffix: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let rest = name.strip_suffix(suffix);
    rest.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Domains that mean something in one's own network only (RFC 6761, RFC 6762 and its appendix G,
/// RFC 8375, ICANN's `internal`, Kubernetes' `svc`), and a cloud's metadata that has a public name.
const INTERNAL: [&str; 13] = [
    "localhost",
    "local",
    "internal",
    "localdomain",
    "home.arpa",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "svc",
    "consul",
    "metadata.tencentyun.com",
];

/// Whether a name can only lead into somebody's own network: one without a dot, which is completed
/// by a search list, or one below a domain that is never public.
pub(super) fn is_internal(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    !name.contains('.') || INTERNAL.iter().any(|domain| is_below(name, domain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy() -> ForwardProxy {
        let url = Url::parse("http://proxy.corp.test:3128").expect("valid");
        ForwardProxy { url, authorization: None, ca: None }
    }

    fn ways(direct: &[&str], connect: Option<&str>) -> WaysOut {
        let direct = direct.iter().map(|text| DirectHost::parse(text).expect("valid")).collect();
        WaysOut {
            out: WayOut { http: Some(proxy()), https: Some(proxy()), direct },
            home: Url::parse("https://acme.test").expect("valid"),
            connect: connect.map(|text| DialTarget::parse(text).expect("valid")),
        }
    }

    fn word(ways: &WaysOut, url: &str) -> &'static str {
        match ways.way(&Url::parse(url).expect("valid")) {
            Way::Direct => "direct",
            Way::Forward(_) => "forward",
            Way::Tunnel(_) => "tunnel",
        }
    }

    #[test]
    fn no_proxy_holds_for_names_what_lies_below_networks_and_ports() {
        let ways = ways(
            &["corp.test", ".dotted.test", "*.star.test", "10.0.0.0/8", "fd00::/8", "p.test:5000"],
            None,
        );
        for (url, way) in [
            ("https://acme.test/", "tunnel"),
            ("http://acme.test/", "forward"),
            ("https://corp.test/", "direct"),
            ("https://a.b.CORP.test./", "direct"),
            ("https://xcorp.test/", "tunnel"),
            ("https://corp.test.evil.example/", "tunnel"),
            ("https://dotted.test/", "direct"),
            ("https://a.dotted.test/", "direct"),
            ("https://a.star.test/", "direct"),
            ("https://10.1.2.3/", "direct"),
            ("https://11.1.2.3/", "tunnel"),
            ("https://[fd00::1]:5000/", "direct"),
            ("https://[2001:db8::1]/", "tunnel"),
            ("https://p.test:5000/", "direct"),
            ("https://p.test/", "tunnel"),
        ] {
            assert_eq!(word(&ways, url), way, "{url}");
        }
        assert_eq!(word(&self::ways(&["*"], None), "https://acme.test/"), "direct");
        assert_eq!(ways.any_proxy(), Some(&proxy()));
    }

    #[test]
    fn connect_holds_for_the_upstreams_own_origin() {
        let ways = ways(&[], Some("10.0.0.5:8443"));
        let target = |url: &str| {
            let target = ways.target(&Url::parse(url).expect("valid")).expect("a host");
            target.to_string()
        };
        assert_eq!(target("https://acme.test/v2/"), "10.0.0.5:8443");
        assert_eq!(target("https://acme.test:5000/"), "acme.test:5000");
        assert_eq!(target("http://acme.test/"), "acme.test:80");
        assert_eq!(target("https://[::1]/"), "[::1]:443");
        let direct = self::ways(&["10.0.0.0/8"], Some("10.0.0.5:8443"));
        assert_eq!(word(&direct, "https://acme.test/"), "direct", "where it leads counts as well");
    }

    #[test]
    fn names_of_ones_own_network_are_known() {
        for name in [
            "localhost",
            "localhost.",
            "a.localhost",
            "metadata",
            "instance-data",
            "metadata.google.internal",
            "metadata.google.internal.",
            "printer.local",
            "a.svc.cluster.local",
            "registry.default.svc",
            "router.lan",
            "metadata.tencentyun.com",
        ] {
            assert!(is_internal(name), "{name}");
        }
        for name in ["cdn.example", "local.example", "internal.example.com", "xlocalhost.example"] {
            assert!(!is_internal(name), "{name}");
        }
    }
}
