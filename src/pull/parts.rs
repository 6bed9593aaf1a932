//! What the cache is made of, handed in by `app`.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::config;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::store::BlobStore;
use crate::upstream::Upstreams;

/// The parts that reads and writes share.
#[derive(Clone, Debug)]
pub struct Parts {
    pub store: BlobStore,
    pub upstreams: Arc<Upstreams>,
    pub clock: Clock,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
}

/// The `cache` section of the configuration: times to live and sizes. A reload replaces it, so it
/// is read anew for each decision.
pub(crate) type CacheSettings = Arc<ArcSwap<config::Cache>>;
