//! What commands work on: parts of the server, or of a process that has opened the directory alone.

use std::sync::Arc;

use http::StatusCode;

use super::documents::Unanswered;
use crate::clock::Clock;
use crate::config::Config;
use crate::images::Pins;
use crate::limits::Limits;
use crate::misses::MissJournal;
use crate::oci::CanonicalName;
use crate::pull::{Parts, PullThrough};
use crate::route::Routes;
use crate::server::Service;
use crate::store::BlobStore;

#[derive(Clone, Debug)]
pub(crate) struct ControlParts {
    pub(super) store: BlobStore,
    pub(super) pins: Pins,
    pub(super) pull: PullThrough,
    pub(super) misses: MissJournal,
    pub(super) names: ImageNames,
    pub(super) clock: Clock,
    pub(super) limits: Limits,
}

/// Where images are to be had.
#[derive(Clone, Debug)]
pub(super) enum ImageNames {
    /// As requests are routed at that moment.
    Serving(Arc<Service>),
    Alone(Arc<Routes>),
}

impl ControlParts {
    /// Those of a server.
    pub(crate) fn of(service: &Arc<Service>, store: BlobStore, pins: Pins) -> Self {
        let names = ImageNames::Serving(Arc::clone(service));
        let (clock, limits) = (service.clock.clone(), service.limits.clone());
        let (pull, misses) = (service.pull.clone(), service.misses.clone());
        Self { store, pins, pull, misses, names, clock, limits }
    }

    /// As a server would have them, which listens to nobody.
    pub(super) fn alone(config: &Config, parts: Parts) -> Self {
        let (store, limits) = (parts.store.clone(), parts.limits.clone());
        let (clock, metrics) = (parts.clock.clone(), Arc::clone(&parts.metrics));
        let misses = MissJournal::new(&store, &limits, clock.clone(), Arc::clone(&metrics));
        let pins = Pins::new(store.clone(), &config.cache, Arc::clone(&metrics));
        let names = ImageNames::Alone(Arc::new(Routes::new(config)));
        let pull = PullThrough::new(parts, &config.cache);
        Self { store, pins, pull, misses, names, clock, limits }
    }

    /// What asks upstreams for clients.
    ///
    /// # Errors
    /// Without a server, nobody is asked for any.
    pub(super) fn serving(&self) -> Result<&PullThrough, Unanswered> {
        match &self.names {
            ImageNames::Serving(_) => Ok(&self.pull),
            ImageNames::Alone(_) => {
                let sentence = "no server runs here, so that nothing is asked of any upstream";
                Err(Unanswered(StatusCode::CONFLICT, sentence.to_owned()))
            }
        }
    }
}

impl ImageNames {
    /// The upstream and repository that an image's name leads to.
    pub(super) fn find(&self, name: &CanonicalName) -> Option<CanonicalName> {
        match self {
            Self::Serving(service) => service.find_image(name),
            Self::Alone(routes) => routes.find_image(name),
        }
    }
}
