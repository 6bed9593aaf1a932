//! Upstream registries: the only code that dials out.
//!
//! An operation passes the two gates of its upstream (`breaker`: is it reachable; `throttle`: did it ask for a pause),
//! then `exchange` sends it: with what `auth` presents, along redirects, again where `retry` allows. Every URL, the
//! first as well as redirects and token realms, goes through `gate`, which decides whether and by which of two clients
//! it is dialled; `wire` owns the clients and the counters. `answer` reads what came back. What one client of ours sent
//! never reaches an upstream: requests are built here from names, digests and ranges alone.

mod body;
mod error;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Clock;
use crate::config;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::oci::{Digest, MediaType, Reference, Repository, UpstreamName};

pub use body::BlobBody;
pub use error::{Error, ErrorKind, Operation};

/// Every configured upstream, by name.
#[derive(Debug)]
pub struct Upstreams(HashMap<UpstreamName, Arc<Upstream>>);

/// One registry behind us; shared by everyone who pulls from it.
pub struct Upstream {
    name: UpstreamName,
}

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
    /// Builds the clients of every upstream; dials nowhere.
    ///
    /// # Errors
    /// If a certificate authority cannot be used.
    pub fn new(
        configs: &[config::Upstream],
        _clock: Clock,
        _limits: &Limits,
        _metrics: Arc<Metrics>,
    ) -> Result<Self, BuildError> {
        let built = |config: &config::Upstream| (config.name.clone(), Arc::new(Upstream { name: config.name.clone() }));
        Ok(Self(configs.iter().map(built).collect()))
    }

    pub fn get(&self, name: &UpstreamName) -> Option<&Arc<Upstream>> {
        self.0.get(name)
    }
}

/// Every operation takes `patience`, which bounds token, redirects and retries until the response headers, and for
/// manifests and pages the body as well; when it runs out the answer is [`ErrorKind::Timeout`].
impl Upstream {
    pub fn name(&self) -> &UpstreamName {
        &self.name
    }

    /// Asks for a manifest's digest, type and size without spending a pull (PROTOCOL §3.10, Docker Hub).
    pub async fn head_manifest(
        &self,
        _repository: &Repository,
        _reference: &Reference,
        _patience: Duration,
    ) -> Result<ManifestHead, Error> {
        Err(self.unfinished(Operation::ManifestHead))
    }

    /// Fetches a whole manifest, of at most `limits.manifest` bytes.
    pub async fn get_manifest(
        &self,
        _repository: &Repository,
        _reference: &Reference,
        _patience: Duration,
    ) -> Result<FetchedManifest, Error> {
        Err(self.unfinished(Operation::ManifestGet))
    }

    /// Whether the repository has the blob, and its size if the upstream tells; a refused HEAD becomes a GET of one
    /// byte (BLOB-13).
    pub async fn head_blob(
        &self,
        _repository: &Repository,
        _digest: &Digest,
        _patience: Duration,
    ) -> Result<Option<u64>, Error> {
        Err(self.unfinished(Operation::BlobHead))
    }

    /// Starts fetching a blob or a part of it.
    pub async fn get_blob(
        &self,
        _repository: &Repository,
        _digest: &Digest,
        _part: Option<Part>,
        _patience: Duration,
    ) -> Result<BlobResponse, Error> {
        Err(self.unfinished(Operation::BlobGet))
    }

    /// Fetches one page of tags; `query` is raw and goes through, `n` clamped to the upstream's page limit (TAG-2).
    pub async fn list_tags(
        &self,
        _repository: &Repository,
        _query: Option<&str>,
        _patience: Duration,
    ) -> Result<Page, Error> {
        Err(self.unfinished(Operation::Tags))
    }

    /// Fetches one page of referrers; `query` is raw and goes through (REF-1, REF-2).
    pub async fn referrers(
        &self,
        _repository: &Repository,
        _digest: &Digest,
        _query: Option<&str>,
        _patience: Duration,
    ) -> Result<Page, Error> {
        Err(self.unfinished(Operation::Referrers))
    }

    fn unfinished(&self, operation: Operation) -> Error {
        error::Failure::protocol("unfinished").during(&self.name, operation, 1)
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}
