//! Who may do what: rules over canonical names, asked before anything is looked up (DESIGN §4.4, §6). Pure.
//!
//! Scope: anonymous clients, told apart by their address.

use std::net::IpAddr;

use crate::config::Rule;
use crate::oci::CanonicalName;

/// What a request wants with an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Manifests, blobs and referrers.
    Pull,
    /// Tags.
    List,
}

/// Denies what no rule allows; rules only add (ACCESS §3.1).
#[derive(Debug)]
pub struct Policy {
    rules: Vec<Rule>,
}

impl Policy {
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules }
    }

    /// Whether a client at `peer` may do `action` on `name`. An IPv4 address is the same however the socket shows it.
    pub fn allows(&self, peer: IpAddr, action: Action, name: &CanonicalName) -> bool {
        let (peer, name) = (peer.to_canonical(), name.to_string());
        self.rules.iter().any(|rule| {
            let granted = match action {
                Action::Pull => rule.allow.pull,
                Action::List => rule.allow.list,
            };
            let near = rule.networks.is_empty() || rule.networks.iter().any(|network| network.contains(&peer));
            granted && near && rule.images.iter().any(|images| images.matches(&name))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Allow, Who};
    use crate::oci::{Pattern, Repository, UpstreamName};

    fn rule(networks: &[&str], (pull, list): (bool, bool), images: &[&str]) -> Rule {
        let networks = networks.iter().map(|text| text.parse().expect(text)).collect();
        let images = images.iter().map(|text| Pattern::parse(text).expect(text)).collect();
        let allow = Allow { pull, list, ..Allow::default() };
        Rule { who: Who::Anonymous, networks, allow, images, applications: vec![] }
    }

    fn name(upstream: &str, repository: &str) -> CanonicalName {
        let upstream = UpstreamName::parse(upstream).expect(upstream);
        CanonicalName { upstream, repository: Repository::parse(repository).expect(repository) }
    }

    fn allows(policy: &Policy, peer: &str, action: Action) -> bool {
        policy.allows(peer.parse().expect(peer), action, &name("docker.io", "library/nginx"))
    }

    #[test]
    fn without_a_matching_rule_everything_is_denied() {
        let nothing_granted = rule(&[], (false, false), &["**"]);
        let no_image = rule(&[], (true, true), &[]);
        let other_image = rule(&[], (true, true), &["quay.io/**", "docker.io/*", "docker.io/library"]);
        for rules in [vec![], vec![nothing_granted], vec![no_image], vec![other_image]] {
            let policy = Policy::new(rules);
            for action in [Action::Pull, Action::List] {
                assert!(!allows(&policy, "127.0.0.1", action), "{policy:?}");
            }
        }
    }

    #[test]
    fn an_action_is_granted_by_itself() {
        let pull = Policy::new(vec![rule(&[], (true, false), &["docker.io/**"])]);
        let list = Policy::new(vec![rule(&[], (false, true), &["docker.io/**"])]);
        assert_eq!((allows(&pull, "::1", Action::Pull), allows(&pull, "::1", Action::List)), (true, false));
        assert_eq!((allows(&list, "::1", Action::Pull), allows(&list, "::1", Action::List)), (false, true));
    }

    #[test]
    fn a_network_holds_an_address_however_the_socket_shows_it() {
        for (network, peer, expected) in [
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/8", "::ffff:11.0.0.1", false),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "10.0.0.1", false),
            ("::/0", "::ffff:10.0.0.1", false),
            ("0.0.0.0/0", "::1", false),
        ] {
            let policy = Policy::new(vec![rule(&["192.0.2.1/32", network], (true, false), &["**"])]);
            assert_eq!(allows(&policy, peer, Action::Pull), expected, "{peer} in {network}");
        }
    }

    #[test]
    fn rules_add_and_never_take_away_or_mix() {
        let near = rule(&["127.0.0.0/8"], (true, false), &["**"]);
        let listing = rule(&[], (false, true), &["docker.io/**"]);
        let policy = Policy::new(vec![near, listing]);
        assert!(allows(&policy, "127.0.0.1", Action::Pull) && allows(&policy, "127.0.0.1", Action::List));
        assert!(!allows(&policy, "192.0.2.1", Action::Pull), "the second rule grants no pull");
        let quay = name("quay.io", "a/b");
        assert!(!policy.allows("127.0.0.1".parse().expect("an address"), Action::List, &quay));
    }
}
