//! What a pull-through cache is: bytes from the store if the asker has a right to them there, else
//! from upstream once, with everybody who asks reading along.
//!
//! `blobs` and `manifests` tell the two stories top to bottom. Below them: `membership` proves
//! rights, `flight`, `fill` and `tail` run one transfer for many readers, `relay` passes through
//! what cannot be kept, `freshness` decides about tags. Shared work runs in tasks of its own; a
//! caller that leaves changes nothing.

mod blobs;
mod error;
mod facts;
mod listings;
mod manifests;
mod pushed;
mod single_flight;
mod tasks;
mod transfer;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::Stream;

use crate::clock::Clock;
use crate::config;
use crate::expiring::ExpiringCache;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::oci::{CanonicalName, Digest, Reference, Tag};
use crate::store::BlobStore;
use crate::upstream::{BuildError, ManifestHead, Upstream, Upstreams};

pub use blobs::{BlobAnswer, BlobHead, Content};
pub use error::Error;
pub use listings::Referrers;
pub use manifests::{ManifestAnswer, ManifestContent, Want};
pub use pushed::PushedManifest;

use facts::membership::Membership;
use facts::negative::{Absences, Era, ProvisionalTags, Sizes, Subject};
use single_flight::SingleFlight;
use tasks::Tasks;
use transfer::flight::Flights;
use transfer::turns::Turns;

/// Bytes as they come; an error cuts the body short.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes, Error>> + Send>>;

/// How long what is believed; replaced while it runs.
type Ages = Arc<ArcSwap<config::Cache>>;

/// How long a blob is passed through after the disk filled up under it.
const UNSTORABLE: Duration = Duration::from_mins(1);
/// Such blobs that are remembered.
const UNSTORABLE_MAX: u64 = 10_000;

/// What the cache did for an answer; the same word in logs, metrics and tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// From the store.
    Hit,
    /// Fetched for this request.
    Miss,
    /// From a download that others had started.
    Joined,
    /// A tag within its time to live.
    Fresh,
    /// Upstream has confirmed what was known.
    Revalidated,
    /// Upstream does not answer; what was known stands in.
    Stale,
    /// Known not to exist.
    Negative,
    /// Passed through without being kept.
    Relay,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Joined => "joined",
            Self::Fresh => "fresh",
            Self::Revalidated => "revalidated",
            Self::Stale => "stale",
            Self::Negative => "negative",
            Self::Relay => "relay",
        }
    }
}

/// What a [`PullThrough`] is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    pub store: BlobStore,
    pub upstreams: Arc<Upstreams>,
    pub clock: Clock,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
}

/// The service; clones share it.
#[derive(Clone, Debug)]
pub struct PullThrough(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: BlobStore,
    upstreams: Arc<Upstreams>,
    clock: Clock,
    limits: Limits,
    metrics: Arc<Metrics>,
    ages: Ages,
    membership: Membership,
    absences: Arc<Absences>,
    provisional: ProvisionalTags,
    sizes: Sizes,
    flights: Flights,
    turns: Turns,
    /// Blobs that the disk has no room for at the moment.
    unstorable: ExpiringCache<Digest, ()>,
    tag_heads: SingleFlight<(CanonicalName, Tag, Era), Result<ManifestHead, Error>>,
    manifest_gets: SingleFlight<(CanonicalName, Reference, Era), Result<ManifestAnswer, Error>>,
    tasks: Tasks,
}

impl PullThrough {
    pub fn new(parts: Parts, cache: &config::Cache) -> Self {
        let tasks = Tasks::default();
        let absences = Arc::new(Absences::new(parts.clock.clone()));
        let ages = Ages::new(ArcSwap::from_pointee(cache.clone()));
        Self(Arc::new(Inner {
            membership: Membership::new(&parts, Arc::clone(&absences), Arc::clone(&ages), &tasks),
            ages,
            absences,
            provisional: ProvisionalTags::new(),
            sizes: Sizes::new(),
            flights: Flights::default(),
            turns: Turns::new(&parts.limits),
            unstorable: ExpiringCache::new(UNSTORABLE_MAX, parts.clock.clone()),
            tag_heads: SingleFlight::new(tasks.clone()),
            manifest_gets: SingleFlight::new(tasks.clone()),
            tasks,
            store: parts.store,
            upstreams: parts.upstreams,
            clock: parts.clock,
            limits: parts.limits,
            metrics: parts.metrics,
        }))
    }

    /// Goes on with other upstreams, ages and room; what is under way ends as it began. Blocks
    /// while it evicts.
    ///
    /// # Errors
    /// If an upstream cannot be used; then nothing has changed.
    pub fn reconfigure(
        &self,
        upstreams: &[config::Upstream],
        cache: &config::Cache,
    ) -> Result<(), BuildError> {
        self.0.upstreams.replace(upstreams)?;
        self.0.ages.store(Arc::new(cache.clone()));
        self.0.store.resize(cache);
        Ok(())
    }

    /// Runs what must not end with whoever asked for it; None if the process ends first.
    pub async fn see_through<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.0.tasks.spawn(work).await.ok().flatten()
    }

    /// Ends the downloads under way, which leave nothing.
    pub async fn stop(&self) {
        self.0.tasks.stop().await;
    }

    /// Refuses what upstream has said a moment ago not to have.
    fn absent_before(
        &self,
        subject: &Subject,
        name: &CanonicalName,
        absent: Error,
    ) -> Result<(), Error> {
        if !self.0.absences.contains(subject, name) {
            return Ok(());
        }
        let labels = [name.upstream.as_str(), subject.kind(), Outcome::Negative.as_str()];
        self.0.metrics.cache.requests.with_label_values(&labels).inc();
        Err(absent)
    }
}

impl Inner {
    fn upstream(&self, name: &CanonicalName) -> Result<Arc<Upstream>, Error> {
        self.upstreams.get(&name.upstream).ok_or(Error::NameUnknown)
    }
}
