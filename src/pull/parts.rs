//! What the cache is made of, handed in by `app`.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::config;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::store::BlobStore;
use crate::upstream::Upstreams;

#[derive(Clone, Debug)]
pub struct Parts {
    pub store: BlobStore,
    pub upstreams: Arc<Upstreams>,
    pub clock: Clock,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
}

/// How long what is believed, and how much is kept; a reload replaces it.
pub(crate) type CacheSettings = Arc<ArcSwap<config::Cache>>;
