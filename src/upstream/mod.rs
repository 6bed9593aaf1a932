//! Upstream registries: the only code that dials out, and the only code that runs other programs.
//!
//! An operation passes the two gates of its upstream (`breaker`: is it reachable; `throttle`: did
//! it ask for a pause). `login` says who speaks, for which a `helper` may have to run. Then
//! `exchange` sends it: with what `auth` presents, along redirects, again where `retry` allows.
//! Every URL, the first as well as redirects and token realms, goes through `gate`, which decides
//! whether and by which of two clients it is dialled; `wire` owns the clients (`dial`) and the
//! counters. `answer` reads what came back. What one client of ours sent never reaches an upstream:
//! requests are built here from names, digests and ranges alone.

mod answer;
mod auth;
mod call;
mod error;
mod reads;
mod transport;
mod writes;

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::clock::Clock;
use crate::config;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::oci::{Digest, Extent, MediaType, UpstreamName};

pub use error::{Error, ErrorKind, FailureClass, Operation};
pub use reads::Upstream;
use transport::{dial, gate, request, tls};

pub use transport::body::BlobBody;
pub use transport::dial::Lookup;
pub use transport::feed::{Closed, Feed, UploadBody, feed};
pub use writes::{Beginning, Chunk, NewManifest, Progress, Taken, UploadAddress, Uploaded};

/// Every configured upstream, by name; replaced while it runs.
#[derive(Debug)]
pub struct Upstreams {
    current: ArcSwap<HashMap<UpstreamName, Configured>>,
    surroundings: Surroundings,
}

/// An upstream and what it was made from.
#[derive(Debug)]
struct Configured {
    config: config::Upstream,
    upstream: Arc<Upstream>,
}

/// What every upstream is made with.
#[derive(Debug)]
struct Surroundings {
    roots: rustls::RootCertStore,
    clock: Clock,
    limits: Limits,
    metrics: Arc<Metrics>,
    lookup: Lookup,
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

/// One page of tags or referrers, as the upstream sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub media_type: Option<MediaType>,
    pub bytes: Bytes,
    /// The query of the next page, raw; the host and path that the upstream named are dropped
    /// (TAG-3).
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
        let (roots, limits, lookup) = (tls::system_roots(), limits.clone(), lookup.clone());
        let surroundings = Surroundings { roots, clock, limits, metrics, lookup };
        let upstreams = Self { current: ArcSwap::default(), surroundings };
        upstreams.replace(configs)?;
        Ok(upstreams)
    }

    /// Has these upstreams from now on. One whose configuration is the same stays as it is, with
    /// its tokens, gates and connections; transfers under way end on what they began with.
    ///
    /// # Errors
    /// If a certificate authority cannot be used; then nothing has changed.
    pub fn replace(&self, configs: &[config::Upstream]) -> Result<(), BuildError> {
        let current = self.current.load();
        let next = |config: &config::Upstream| {
            let same = current.get(&config.name).filter(|known| known.config == *config);
            let upstream = match same {
                Some(known) => Arc::clone(&known.upstream),
                None => Arc::new(self.surroundings.build(config)?),
            };
            Ok((config.name.clone(), Configured { config: config.clone(), upstream }))
        };
        let next: HashMap<_, _> = configs.iter().map(next).collect::<Result<_, _>>()?;
        self.current.store(Arc::new(next));
        Ok(())
    }

    pub fn get(&self, name: &UpstreamName) -> Option<Arc<Upstream>> {
        self.current.load().get(name).map(|known| Arc::clone(&known.upstream))
    }
}

impl Surroundings {
    fn build(&self, config: &config::Upstream) -> Result<Upstream, BuildError> {
        let gate = gate::Gate::new(config);
        let idle = self.limits.upstream_idle;
        let wire = request::Wire::new(
            config.name.clone(),
            gate,
            self.clients(config)?,
            self.metrics.clone(),
            idle,
        );
        Ok(Upstream::new(config, Arc::new(wire), self.clock.clone(), &self.limits))
    }

    fn clients(&self, config: &config::Upstream) -> Result<dial::Clients, BuildError> {
        let upstream = || config.name.clone();
        let mut roots = self.roots.clone();
        if let Some(ca) = &config.ca {
            tls::add_pem(&mut roots, ca)
                .map_err(|source| BuildError::Ca { upstream: upstream(), source })?;
        }
        dial::Clients::new(config, &roots, &self.limits, &self.lookup)
            .map_err(|source| BuildError::Client { upstream: upstream(), source })
    }
}
