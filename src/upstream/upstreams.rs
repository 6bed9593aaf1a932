//! From the configuration to a client for each upstream, and to new ones when it changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::RootCertStore;

use super::client::UpstreamClient;
use super::room::PageRoom;
use super::seal::{Seal, SealStatus};
use super::transport::dial::{DialContext, HttpClients};
use super::transport::request::Transport;
use super::transport::resolve::Lookup;
use super::transport::tls;
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::licence::{self, Licence, LicenceId};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::oci::UpstreamName;

/// Every configured upstream, by name; replaced while it runs.
#[derive(Debug)]
pub struct Upstreams {
    current: ArcSwap<HashMap<UpstreamName, ConfiguredUpstream>>,
    context: BuildContext,
}

/// The upstreams of another configuration, built and not in use yet.
#[derive(Debug)]
pub struct NextUpstreams(HashMap<UpstreamName, ConfiguredUpstream>);

/// An upstream and what it was made from.
#[derive(Debug)]
struct ConfiguredUpstream {
    config: config::Upstream,
    client: Arc<UpstreamClient>,
    seal: Arc<Seal>,
}

impl ConfiguredUpstream {
    /// Whether a client would be made in the same way. A seal is put on it and taken off as it is.
    fn is_made_from(&self, config: &config::Upstream) -> bool {
        self.config == config::Upstream { sealed: self.config.sealed, ..config.clone() }
    }
}

/// A licence that an upstream is presented.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PresentedLicence {
    pub upstream: UpstreamName,
    pub id: LicenceId,
    /// Whom to ask for another; one line.
    pub issuer: String,
    pub expires: Timestamp,
}

/// A licence is a password by which it can be told: its signature is the upstream's to check.
fn licences(config: &config::Upstream) -> impl Iterator<Item = PresentedLicence> {
    let tokens = config.credentials.iter().filter_map(|credential| match &credential.login {
        config::Login::Fixed { password, .. } => licence::unverified(password.expose()).ok(),
        config::Login::Helper { .. } => None,
    });
    tokens.map(|Licence { id, issuer, expires, .. }| {
        let upstream = config.name.clone();
        PresentedLicence { upstream, id, issuer, expires }
    })
}

/// What every upstream is made with.
#[derive(Debug)]
struct BuildContext {
    roots: RootCertStore,
    clock: Clock,
    limits: Limits,
    metrics: Arc<Metrics>,
    lookup: Lookup,
    page_room: PageRoom,
}

/// Why the clients of an upstream could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("{upstream}: the certificate authority file is not usable PEM")]
    Ca { upstream: UpstreamName, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{upstream}: cannot build an HTTP client")]
    Client { upstream: UpstreamName, source: Box<dyn std::error::Error + Send + Sync> },
}

impl Upstreams {
    /// Builds the clients of every upstream; dials nowhere. Names are resolved by `lookup`.
    ///
    /// # Errors
    /// If a certificate authority cannot be used.
    pub fn new(
        configs: &[config::Upstream],
        clock: Clock,
        limits: &Limits,
        metrics: Arc<Metrics>,
        lookup: &Lookup,
    ) -> Result<Self, BuildError> {
        let (roots, limits, lookup) = (tls::system_roots(), limits.clone(), lookup.clone());
        let page_room = PageRoom::new(&limits);
        let context = BuildContext { roots, clock, limits, metrics, lookup, page_room };
        let upstreams = Self { current: ArcSwap::default(), context };
        upstreams.replace(upstreams.prepare(configs)?);
        Ok(upstreams)
    }

    /// Builds these upstreams. One whose configuration is the same stays as it is, with its tokens,
    /// gates and connections.
    ///
    /// # Errors
    /// If a certificate authority cannot be used.
    pub fn prepare(&self, configs: &[config::Upstream]) -> Result<NextUpstreams, BuildError> {
        let current = self.current.load();
        let next = |config: &config::Upstream| {
            // A reload that changes one upstream must not cost the others their tokens, or forget
            // that one of them is down.
            let known = current.get(&config.name);
            let seal = known.map(|known| Arc::clone(&known.seal));
            let seal = seal.unwrap_or_else(|| self.context.seal(config));
            let client = match known.filter(|known| known.is_made_from(config)) {
                Some(known) => Arc::clone(&known.client),
                None => Arc::new(self.context.build(config, Arc::clone(&seal))?),
            };
            let config = config.clone();
            Ok((config.name.clone(), ConfiguredUpstream { config, client, seal }))
        };
        configs.iter().map(next).collect::<Result<_, _>>().map(NextUpstreams)
    }

    /// Has these upstreams from now on; transfers under way end on what they began with, but for
    /// those of one that is sealed now, which are cut.
    pub fn replace(&self, next: NextUpstreams) {
        for known in next.0.values() {
            known.seal.configure(known.config.sealed);
        }
        self.current.store(Arc::new(next.0));
    }

    /// The licences that upstreams are presented as passwords (ACCESS §4.9).
    pub fn licences(&self) -> Vec<PresentedLicence> {
        let current = self.current.load();
        current.values().flat_map(|known| licences(&known.config)).collect()
    }

    /// Whether any upstream but this one is asked with a credential.
    pub fn others_have_logins(&self, name: &UpstreamName) -> bool {
        let current = self.current.load();
        current.values().any(|it| it.config.name != *name && !it.config.credentials.is_empty())
    }

    /// How the seal of each upstream stands, in the order of their names.
    pub fn seals(&self) -> Vec<SealStatus> {
        let current = self.current.load();
        let mut seals: Vec<_> = current.values().map(|known| known.seal.status()).collect();
        seals.sort_by(|a, b| a.upstream.as_str().cmp(b.upstream.as_str()));
        seals
    }

    /// Opens a sealed upstream for a while, or without a time seals it before that is over. One that
    /// is not sealed stays as it is.
    pub fn open_for(&self, name: &UpstreamName, time: Option<Duration>) {
        let seal = self.current.load().get(name).map(|known| Arc::clone(&known.seal));
        match (seal, time) {
            (Some(seal), Some(time)) => seal.open_for(time),
            (Some(seal), None) => seal.close(),
            (None, _) => {}
        }
    }

    /// The client of an upstream; `None` if no such upstream is configured any more.
    pub fn get(&self, name: &UpstreamName) -> Option<Arc<UpstreamClient>> {
        self.current.load().get(name).map(|known| Arc::clone(&known.client))
    }
}

impl BuildContext {
    fn seal(&self, config: &config::Upstream) -> Arc<Seal> {
        let shown = self.metrics.upstream.sealed.with_label_values(&[config.name.as_str()]);
        Arc::new(Seal::new(config.name.clone(), config.sealed, self.clock.clone(), shown))
    }

    fn build(
        &self,
        config: &config::Upstream,
        seal: Arc<Seal>,
    ) -> Result<UpstreamClient, BuildError> {
        let writable = config.writes != config::Writes::Refused;
        self.metrics.add_upstream(config.name.as_str(), writable);
        let (clients, clock) = (self.http_clients(config, seal)?, self.clock.clone());
        let transport =
            Transport::new(config, clients, clock.clone(), &self.limits, self.metrics.clone());
        Ok(UpstreamClient::new(config, transport, clock, &self.limits, self.page_room.clone()))
    }

    fn http_clients(
        &self,
        config: &config::Upstream,
        seal: Arc<Seal>,
    ) -> Result<HttpClients, BuildError> {
        let upstream = || config.name.clone();
        let mut roots = self.roots.clone();
        if let Some(ca) = &config.ca {
            tls::add_pem(&mut roots, ca)
                .map_err(|source| BuildError::Ca { upstream: upstream(), source })?;
        }
        let Self { limits, lookup, clock, roots: system_roots, .. } = self;
        let world = DialContext { system_roots, limits, lookup, clock };
        HttpClients::new(config, &roots, &world, seal)
            .map_err(|source| BuildError::Client { upstream: upstream(), source })
    }
}
