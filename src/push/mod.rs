//! Pushing to the private registry behind the cache (PROTOCOL §3.9, ACCESS §7).
//!
//! Every write is passed through: the registry decides, and nothing is answered on its behalf. The
//! cache keeps a copy of each upload while it is passed through, the mirror. When the registry has
//! accepted the upload and the mirror has the digest that it names, the mirror becomes a stored
//! blob (UPL-8).
//!
//! `uploads` tells the story of a blob, `manifests` that of a manifest, `deletions` that of a
//! delete. `relay` forwards the bytes of one request, `mirror` decides what is kept of them,
//! `sessions` holds mirrors between the requests of an upload.

mod deletions;
mod error;
mod manifests;
mod mirror;
mod relay;
mod sessions;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::oci::UpstreamName;
use crate::pull::{Parts, PullThrough};
use crate::store::BlobStore;
use crate::upstream::{UpstreamClient, Upstreams};

pub(crate) use crate::upstream::{DeleteTarget, NewManifest, UploadStart};
pub(crate) use error::Error;
pub(crate) use manifests::TakenManifest;
pub(crate) use relay::ClientChunk;
pub(crate) use uploads::{Upload, UploadHandle, UploadHeaders};

use sessions::Sessions;

/// How often uploads without a recent request are looked for.
const SESSION_SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// The service; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct PushThrough(Arc<PushCore>);

#[derive(Debug)]
struct PushCore {
    upstreams: Arc<Upstreams>,
    store: BlobStore,
    /// What a push changes is recorded there: proofs, tags and absences.
    pull: PullThrough,
    sessions: Sessions,
    limits: Limits,
    metrics: Arc<Metrics>,
    clock: Clock,
}

impl PushThrough {
    /// Writes go to the same upstreams that `pull` reads from, and what is kept of them goes into
    /// the same store.
    pub(crate) fn new(parts: &Parts, pull: PullThrough) -> Self {
        Self(Arc::new(PushCore {
            upstreams: Arc::clone(&parts.upstreams),
            store: parts.store.clone(),
            pull,
            sessions: Sessions::new(),
            limits: parts.limits.clone(),
            metrics: Arc::clone(&parts.metrics),
            clock: parts.clock.clone(),
        }))
    }

    /// Drops the mirrors of uploads without a recent request; never returns.
    pub(crate) async fn maintain(&self) {
        loop {
            tokio::time::sleep(SESSION_SWEEP_INTERVAL).await;
            self.0.sessions.sweep();
        }
    }
}

impl PushCore {
    /// The registry as it is configured now: a reload may have removed it since the request was
    /// routed.
    fn upstream(&self, name: &UpstreamName) -> Result<Arc<UpstreamClient>, Error> {
        self.upstreams.get(name).ok_or(Error::Gone)
    }
}
