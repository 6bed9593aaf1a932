//! The way out of this network, in types that cannot hold nonsense.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use url::{Host as UrlHost, Url};

use crate::oci::UpstreamName;
use crate::secret::Secret;

/// How the hosts of an upstream are reached; by default directly.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WayOut {
    /// For `http` URLs.
    pub http: Option<ForwardProxy>,
    /// For `https` URLs.
    pub https: Option<ForwardProxy>,
    /// Hosts that are dialled without a proxy.
    pub direct: Vec<DirectHost>,
}

/// A proxy that passes requests on, or connects us.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardProxy {
    /// `http` or `https`, a host, perhaps a port.
    pub url: Url,
    /// The value of `Proxy-Authorization`.
    pub authorization: Option<Secret>,
    /// PEM of authorities that are trusted for the proxy's own certificate beside the system's.
    pub ca: Option<Vec<u8>>,
}

/// An entry of `no_proxy`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectHost {
    pub name: DirectName,
    /// None: any port.
    pub port: Option<u16>,
}

/// Which hosts an entry of `no_proxy` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectName {
    All,
    /// This name and every name below it; lower case.
    Below(String),
    Network(IpNet),
}

/// Where to dial: a name or an address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialTarget {
    pub host: UrlHost<String>,
    pub port: u16,
}

impl DialTarget {
    /// `host:port`, an IPv6 address in brackets.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no host with a port; write it as 10.0.0.5:443");
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
        Ok(Self { host: UrlHost::parse(host).map_err(|_| wrong())?, port })
    }
}

impl fmt::Display for DialTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl DirectHost {
    /// A name, which means those below it as well, with or without a dot or `*.` in front; an
    /// address, a network, or `*`. A name and an IPv4 address may have a port.
    ///
    /// # Errors
    /// A sentence that says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let any_port = |name| Ok(Self { name, port: None });
        if text == "*" {
            return any_port(DirectName::All);
        }
        if let Ok(net) = text.parse::<IpNet>() {
            return any_port(DirectName::Network(net));
        }
        if let Ok(address) = text.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
            return any_port(DirectName::Network(IpAddr::V6(address).into()));
        }
        let bare = text.strip_prefix("*.").or_else(|| text.strip_prefix('.')).unwrap_or(text);
        let (host, port) = match bare.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| not_direct(text))?)),
            None => (bare, None),
        };
        let name = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => DirectName::Network(address.into()),
            Err(_) => DirectName::Below(bare_name(host).ok_or_else(|| not_direct(text))?),
        };
        Ok(Self { name, port })
    }
}

/// A host name in lower case, without a dot at its end.
fn bare_name(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    (!name.contains(':') && UpstreamName::parse(name).is_ok()).then(|| name.to_owned())
}

fn not_direct(text: &str) -> String {
    format!(
        "{text:?} is neither a host nor a network; write registry.corp.example, .corp.example, \
         10.0.0.0/8 or *"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_to_dial_has_a_port() {
        for good in ["10.0.0.5:443", "[fd00::1]:443", "registry.test:5000"] {
            assert_eq!(DialTarget::parse(good).expect(good).to_string(), good);
        }
        for bad in ["10.0.0.5", "fd00::1", ":443", "a.test:0", "a.test:x", "https://a.test:443"] {
            assert!(DialTarget::parse(bad).is_err(), "{bad}");
        }
        let with_port = DirectHost::parse("[fd00::1]:5000").expect("an address with a port");
        assert_eq!(with_port.port, Some(5000));
        for bad in ["", "a b", "a/b", "http://a.test", "10.0.0.0/33", "a.test:x"] {
            assert!(DirectHost::parse(bad).is_err(), "{bad}");
        }
    }
}
