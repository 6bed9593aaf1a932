//! Places for downloads: so many in all, so many for one upstream.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::limits::Limits;
use crate::oci::UpstreamName;

#[derive(Debug)]
pub(super) struct Turns {
    any: Arc<Semaphore>,
    of: HashMap<UpstreamName, Arc<Semaphore>>,
}

impl Turns {
    pub(super) fn new<'a>(limits: &Limits, upstreams: impl Iterator<Item = &'a UpstreamName>) -> Self {
        let own = |name: &UpstreamName| (name.clone(), Arc::new(Semaphore::new(limits.fills_per_upstream)));
        Self { any: Arc::new(Semaphore::new(limits.fills)), of: upstreams.map(own).collect() }
    }

    pub(super) fn any(&self) -> Arc<Semaphore> {
        Arc::clone(&self.any)
    }

    pub(super) fn of(&self, upstream: &UpstreamName) -> Option<Arc<Semaphore>> {
        self.of.get(upstream).cloned()
    }
}
