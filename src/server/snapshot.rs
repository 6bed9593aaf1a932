//! The part of the configuration that requests are answered under. A reload replaces it as a whole,
//! and a request keeps the one that it began with, so that no answer follows two configurations.

use std::time::Duration;

use ipnet::IpNet;

use crate::access::{Policy, VirtualHosts};
use crate::config::Config;
use crate::route::Routes;

/// What a configuration means for requests.
#[derive(Debug)]
pub(crate) struct RequestConfig {
    pub(super) routes: Routes,
    pub(super) policy: Policy,
    pub(crate) virtual_hosts: VirtualHosts,
    /// Whose `X-Forwarded-For` is believed.
    pub(super) trusted_proxies: Vec<IpNet>,
    /// Who issues licences, if anybody does.
    pub(super) issuer: Option<String>,
    /// How long new clients are still served once the proxy stops.
    pub(super) drain_delay: Duration,
    /// How long transfers may go on after that.
    pub(super) grace: Duration,
}

impl RequestConfig {
    /// Takes over what requests need from a configuration that has been checked.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            routes: Routes::new(config),
            policy: Policy::new(config.access.rules.clone(), config.applications.clone()),
            virtual_hosts: VirtualHosts::new(config),
            trusted_proxies: config.access.trusted_proxies.clone(),
            drain_delay: config.drain_delay,
            grace: config.shutdown_grace,
            issuer: config.licences.as_ref().map(|licences| licences.issuer.clone()),
        }
    }
}
