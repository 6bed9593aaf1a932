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
                Action::Pull => rule.pull,
                Action::List => rule.list,
            };
            let near = rule.networks.is_empty() || rule.networks.iter().any(|network| network.contains(&peer));
            granted && near && rule.images.iter().any(|images| images.matches(&name))
        })
    }
}
