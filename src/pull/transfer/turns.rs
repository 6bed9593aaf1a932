//! Places for downloads: a number of them in all (`limits.fills`), and a number for each upstream
//! (`limits.fills_per_upstream`), so that a slow upstream leaves places to the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::limits::Limits;
use crate::oci::UpstreamName;

/// The places, as semaphores whose permits are places.
#[derive(Debug)]
pub(crate) struct Turns {
    all: Arc<Semaphore>,
    /// Made on first use: upstreams come and go with the configuration.
    by_upstream: Mutex<HashMap<UpstreamName, Arc<Semaphore>>>,
    /// Places for each upstream.
    per_upstream: usize,
}

impl Turns {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.fills)),
            by_upstream: Mutex::default(),
            per_upstream: limits.fills_per_upstream,
        }
    }

    /// The places of all upstreams together.
    pub(crate) fn all(&self) -> Arc<Semaphore> {
        Arc::clone(&self.all)
    }

    /// The places of one upstream, which the caller knows to be configured: an entry is never
    /// removed.
    pub(crate) fn of_upstream(&self, upstream: &UpstreamName) -> Arc<Semaphore> {
        let mut by_upstream = self.by_upstream.lock().unwrap_or_else(PoisonError::into_inner);
        let places = by_upstream.entry(upstream.clone());
        Arc::clone(places.or_insert_with(|| Arc::new(Semaphore::new(self.per_upstream))))
    }
}
