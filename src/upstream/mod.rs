//! Upstream registries: the only code that dials out, and the only code that runs other programs.
//!
//! An operation passes the two gates of its upstream (`breaker`: is it reachable; `throttle`: did it ask for a pause).
//! `login` says who speaks, for which a `helper` may have to run. Then `exchange` sends it: with what `auth` presents, along redirects, again where `retry` allows. Every URL, the
//! first as well as redirects and token realms, goes through `gate`, which decides whether and by which of two clients
//! it is dialled; `wire` owns the clients (`dial`) and the counters. `answer` reads what came back. What one client of ours sent
//! never reaches an upstream: requests are built here from names, digests and ranges alone.

mod answer;
mod auth;
mod body;
mod breaker;
mod challenge;
mod dial;
mod error;
mod exchange;
mod gate;
mod helper;
mod login;
mod registry;
mod retry;
mod throttle;
mod tls;
mod token;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::Clock;
use crate::config;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::oci::{Digest, MediaType, UpstreamName};

pub use body::BlobBody;
pub use dial::Lookup;
pub use error::{Error, ErrorKind, Operation};
pub use registry::Upstream;

/// Every configured upstream, by name.
#[derive(Debug)]
pub struct Upstreams(HashMap<UpstreamName, Arc<Upstream>>);

/// The bytes of a blob that are wanted; both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    From(u64),
    Span(u64, u64),
}

/// What a HEAD on a manifest tells; everything in it is the upstream's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    pub digest: Option<Digest>,
    pub media_type: Option<MediaType>,
    /// Bytes.
    pub size: Option<u64>,
}

/// A whole manifest, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedManifest {
    /// The `Docker-Content-Digest` header.
    pub digest: Option<Digest>,
    pub media_type: MediaType,
    pub bytes: Bytes,
}

/// A blob whose body is still to be read.
#[derive(Debug)]
pub struct BlobResponse {
    pub extent: Extent,
    pub body: BlobBody,
}

/// Which bytes of the blob the body holds. A request for a part may be answered with the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Whole { size: Option<u64> },
    Part { first: u64, last: u64, total: Option<u64> },
}

/// One page of tags or referrers, as the upstream sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub media_type: Option<MediaType>,
    pub bytes: Bytes,
    /// The query of the next page, raw; the host and path that the upstream named are dropped (TAG-3).
    pub next: Option<String>,
    /// `OCI-Filters-Applied` (REF-2).
    pub filters_applied: Option<String>,
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
        let roots = tls::system_roots();
        let build = move |config: &config::Upstream| {
            let clients = clients(config, roots.clone(), limits, lookup)?;
            let gate = gate::Gate::new(config);
            let wire = wire::Wire::new(config.name.clone(), gate, clients, metrics.clone(), limits.upstream_idle);
            Ok((config.name.clone(), Arc::new(Upstream::new(config, Arc::new(wire), clock.clone(), limits))))
        };
        configs.iter().map(build).collect::<Result<_, _>>().map(Self)
    }

    pub fn get(&self, name: &UpstreamName) -> Option<&Arc<Upstream>> {
        self.0.get(name)
    }
}

fn clients(
    config: &config::Upstream,
    mut roots: rustls::RootCertStore,
    limits: &Limits,
    lookup: &Lookup,
) -> Result<dial::Clients, BuildError> {
    let upstream = || config.name.clone();
    if let Some(ca) = &config.ca {
        tls::add_pem(&mut roots, ca).map_err(|source| BuildError::Ca { upstream: upstream(), source })?;
    }
    dial::Clients::new(config, &roots, limits, lookup)
        .map_err(|source| BuildError::Client { upstream: upstream(), source })
}
