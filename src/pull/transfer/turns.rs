//! Places for downloads: so many in all, so many for one upstream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::limits::Limits;
use crate::oci::UpstreamName;

#[derive(Debug)]
pub(crate) struct Turns {
    any: Arc<Semaphore>,
    /// Made on first use: upstreams come and go with the configuration.
    of: Mutex<HashMap<UpstreamName, Arc<Semaphore>>>,
    each: usize,
}

impl Turns {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            any: Arc::new(Semaphore::new(limits.fills)),
            of: Mutex::default(),
            each: limits.fills_per_upstream,
        }
    }

    pub(crate) fn any(&self) -> Arc<Semaphore> {
        Arc::clone(&self.any)
    }

    /// Those of an upstream that is configured.
    pub(crate) fn of(&self, upstream: &UpstreamName) -> Arc<Semaphore> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        let places =
            of.entry(upstream.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.each)));
        Arc::clone(places)
    }
}
