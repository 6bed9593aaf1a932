//! The names under which clients and operators call the proxy, and what holds there (ACCESS §1.2,
//! §1.3).

use crate::config::{Config, Host, UnknownCredentials};
use crate::oci::{UpstreamName, needs_no_lookup, normal_host, split_port};

/// Every name that the proxy answers to.
#[derive(Debug)]
pub(crate) struct VirtualHosts {
    hosts: Vec<Host>,
    /// Host names bound to upstreams; they need no entry of their own.
    bound: Vec<String>,
    /// Names of the admin listener.
    admin: Vec<String>,
    /// There are users or licences: a login can lead to something.
    anybody_can_log_in: bool,
    /// Only this machine reaches the listener. Without listed hosts the realm is then http on a
    /// plain connection, and names that lead here by DNS alone are not ours; elsewhere a balancer
    /// with TLS is assumed to stand in front, and an http realm would put passwords in clear.
    listens_on_loopback: bool,
}

/// One of these names, as this request wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct VirtualHost {
    /// The audience of our tokens for this name.
    pub audience: String,
    /// Where tokens come from: an absolute URL on the name that the client used, with its port or
    /// with the one that is listed (AUTH-1).
    pub realm: String,
    /// What is called `service` in a challenge: host and port of the realm.
    pub service: String,
    /// A credential that is not good counts as none here, and the ping does not ask for one
    /// (AUTH-7).
    pub open: bool,
    /// Whether a 401 may be answered at all: somebody can log in, and the realm can be written.
    pub challenges: bool,
}

impl VirtualHosts {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            hosts: config.hosts.clone(),
            bound: config.upstreams.iter().flat_map(|upstream| upstream.hosts.clone()).collect(),
            admin: config.admin_hosts.clone(),
            anybody_can_log_in: config.access.users.is_some() || config.licences.is_some(),
            listens_on_loopback: config.listen.ip().to_canonical().is_loopback(),
        }
    }

    /// The virtual host that `host`, the `Host` header as received, names; `secure` if the
    /// connection has TLS. None: it is no name of ours (421).
    pub(crate) fn find(&self, host: Option<&str>, secure: bool) -> Option<VirtualHost> {
        let called = normal_host(host.unwrap_or_default());
        // What goes into a realm has to be a host and a port, and nothing else.
        let is_host = UpstreamName::parse(&called).is_ok();
        let (name, _) = split_port(&called);
        let listed = self.hosts.iter().find(|host| host.name == name);
        let known = listed.is_some()
            || self.bound.iter().any(|bound| bound == name)
            || (self.hosts.is_empty() && (secure || self.takes_unlisted(name)));
        if !known || (!is_host && !self.hosts.is_empty()) {
            return None;
        }
        let plain = listed
            .map_or(self.hosts.is_empty() && self.listens_on_loopback && !secure, |host| {
                host.plain_http
            });
        let open = match listed {
            Some(host) => host.unknown_credentials == UnknownCredentials::Anonymous,
            // A name without an entry of its own is strict as soon as somebody can log in.
            None => !self.anybody_can_log_in,
        };
        let scheme = if plain { "http" } else { "https" };
        // A balancer may lose the port that clients call, or put its own there.
        let authority = match listed.and_then(|host| host.port) {
            Some(port) => format!("{name}:{port}"),
            None => called.clone(),
        };
        Some(VirtualHost {
            audience: if self.hosts.is_empty() { "any".to_owned() } else { name.to_owned() },
            realm: format!("{scheme}://{authority}/token"),
            challenges: is_host && (!open || self.anybody_can_log_in),
            service: authority,
            open,
        })
    }

    /// Whether the admin listener answers to `host`, the `Host` header as received. It asks for no
    /// login, and a browser on an operator's machine may be following somebody else's page.
    pub(crate) fn is_for_operators(&self, host: Option<&str>) -> bool {
        let called = normal_host(host.unwrap_or_default());
        let (name, _) = split_port(&called);
        name.is_empty() || needs_no_lookup(name) || self.admin.iter().any(|admin| admin == name)
    }

    /// Whether a name will do on a plain connection where none are listed. A browser on this machine
    /// reaches a loopback listener, too, and a page whose name has been pointed at it could read what
    /// is here; a page cannot make the browser send another name, or none. With TLS the browser asks
    /// for a certificate of the page's name.
    fn takes_unlisted(&self, name: &str) -> bool {
        !self.listens_on_loopback || name.is_empty() || needs_no_lookup(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn hosts(edit: impl FnOnce(&mut Config)) -> VirtualHosts {
        let mut config = config::builtin(&|_| None);
        edit(&mut config);
        VirtualHosts::new(&config)
    }

    fn listed(name: &str, plain_http: bool, unknown_credentials: UnknownCredentials) -> Host {
        Host { name: name.to_owned(), port: None, plain_http, unknown_credentials }
    }

    fn vendor() -> VirtualHosts {
        hosts(|config| {
            config.hosts = vec![
                listed("registry.example.com", false, UnknownCredentials::Refused),
                listed("mirror.example.com", false, UnknownCredentials::Anonymous),
                listed("localhost", true, UnknownCredentials::Refused),
            ];
            config.upstreams[0].hosts = vec!["hub.example.com".to_owned()];
            config.access.users = Some("users".into());
        })
    }

    #[test]
    fn the_realm_is_on_the_name_and_port_that_the_client_used() {
        for (called, realm, audience) in [
            ("registry.example.com", "https://registry.example.com/token", "registry.example.com"),
            (
                "Registry.Example.COM.:5000",
                "https://registry.example.com:5000/token",
                "registry.example.com",
            ),
            ("localhost:5000", "http://localhost:5000/token", "localhost"),
            ("hub.example.com", "https://hub.example.com/token", "hub.example.com"),
        ] {
            let host = vendor().find(Some(called), false).expect(called);
            assert_eq!(
                (host.realm.as_str(), host.audience.as_str()),
                (realm, audience),
                "{called}"
            );
        }
    }

    #[test]
    fn a_listed_port_is_the_realms_whatever_a_balancer_made_of_it() {
        let host =
            Host { port: Some(8443), ..listed("a.test", false, UnknownCredentials::Refused) };
        let hosts = hosts(|config| config.hosts = vec![host]);
        for called in ["a.test", "a.test:8443", "A.test.:5000"] {
            let host = hosts.find(Some(called), false).expect(called);
            assert_eq!(
                (host.realm.as_str(), host.service.as_str(), host.audience.as_str()),
                ("https://a.test:8443/token", "a.test:8443", "a.test"),
                "{called}"
            );
        }
    }

    #[test]
    fn an_address_is_a_name_as_any_other() {
        let hosts = hosts(|config| {
            config.hosts = vec![listed("[::1]", true, UnknownCredentials::Refused)];
        });
        for (called, realm) in [
            ("[::1]:5000", "http://[::1]:5000/token"),
            ("[::1]", "http://[::1]/token"),
            ("[0:0::1]:5000", "http://[::1]:5000/token"),
        ] {
            let host = hosts.find(Some(called), false).expect(called);
            assert_eq!((host.realm.as_str(), host.audience.as_str()), (realm, "[::1]"));
            assert!(host.challenges);
        }
        for called in ["[::2]:5000", "::1", "[::1]x", "[::1]:x", "[::1]:5000:5000"] {
            assert_eq!(hosts.find(Some(called), false), None, "{called}");
        }
    }

    #[test]
    fn names_that_are_not_listed_are_not_ours() {
        for called in [
            None,
            Some(""),
            Some("evil.example"),
            Some("registry.example.com/x"),
            Some("a\"b:5000"),
        ] {
            assert_eq!(vendor().find(called, true), None, "{called:?}");
        }
    }

    #[test]
    fn without_names_a_loopback_listener_takes_those_that_no_dns_leads_here() {
        let local = hosts(|config| config.upstreams[0].hosts = vec!["hub.example.com".to_owned()]);
        let far = hosts(|config| config.listen = "0.0.0.0:5000".parse().expect("an address"));
        for (called, here) in [
            (None, true),
            (Some("127.0.0.1:5000"), true),
            (Some("10.0.0.7"), true),
            (Some("[::1]:5000"), true),
            (Some("localhost:5000"), true),
            (Some("LOCALHOST."), true),
            (Some("cache.localhost"), true),
            (Some("hub.example.com"), true),
            (Some("evil.example"), false),
            (Some("localhost.evil.example:5000"), false),
            (Some("127.0.0.1.evil.example"), false),
            (Some("127.0.0.1@evil.example"), false),
            (Some("0x7f000001"), false),
            (Some("a\"b"), false),
        ] {
            assert_eq!(local.find(called, false).is_some(), here, "{called:?}");
            assert!(far.find(called, false).is_some(), "{called:?}");
            assert!(local.find(called, true).is_some(), "{called:?}");
        }
    }

    #[test]
    fn operators_call_addresses_this_machine_and_listed_names() {
        let hosts = hosts(|config| config.admin_hosts = vec!["admin.example.com".to_owned()]);
        for (called, theirs) in [
            (None, true),
            (Some("10.0.0.7:9090"), true),
            (Some("[::1]:9090"), true),
            (Some("localhost"), true),
            (Some("Admin.example.com.:9090"), true),
            (Some("registry.example.com"), false),
            (Some("evil.example:9090"), false),
        ] {
            assert_eq!(hosts.is_for_operators(called), theirs, "{called:?}");
        }
    }

    #[test]
    fn a_listed_name_is_strict_unless_it_says_otherwise() {
        for (called, open) in [
            ("registry.example.com", false),
            ("mirror.example.com", true),
            ("localhost", false),
            ("hub.example.com", false),
        ] {
            let host = vendor().find(Some(called), true).expect(called);
            assert_eq!((host.open, host.challenges), (open, true), "{called}");
        }
    }

    #[test]
    fn without_names_a_proxy_is_open_until_somebody_can_log_in() {
        let host = |hosts: VirtualHosts, secure| {
            hosts.find(Some("10.0.0.1:5000"), secure).expect("no name")
        };
        let nobody = host(hosts(|_| {}), false);
        assert_eq!((nobody.open, nobody.challenges), (true, false));
        let users = host(hosts(|config| config.access.users = Some("users".into())), false);
        assert_eq!(
            (users.open, users.challenges, users.realm.as_str()),
            (false, true, "http://10.0.0.1:5000/token")
        );
        let secure = host(hosts(|config| config.access.users = Some("users".into())), true);
        assert_eq!(secure.realm, "https://10.0.0.1:5000/token");
        let far = hosts(|config| config.listen = "0.0.0.0:5000".parse().expect("an address"));
        assert_eq!(
            host(far, false).realm,
            "https://10.0.0.1:5000/token",
            "a balancer in front is taken to have TLS"
        );
        let broken = hosts(|config| {
            config.access.users = Some("users".into());
            config.listen = "0.0.0.0:5000".parse().expect("an address");
        });
        assert!(
            !broken.find(Some("a\"b"), false).expect("any name").challenges,
            "no realm can be written"
        );
    }
}
