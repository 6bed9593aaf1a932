//! The service and what it holds. Its operations stand in the files beside this one, one for each
//! story.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::answers::ManifestAnswer;
use super::asker::Asker;
use super::error::{Error, Missing};
use super::facts::lists::GivenLists;
use super::facts::membership::{Membership, MembershipInputs};
use super::facts::negative::NegativeCache;
use super::facts::provisional::ProvisionalTags;
use super::facts::sizes::DescribedSizes;
use super::facts::subject::Subject;
use super::facts::writes::{RecentWrites, WriteEpoch};
use super::interest::{Behalf, Interest};
use super::parts::{CacheSettings, Parts};
use super::single_flight::SingleFlight;
use super::source::Sources;
use super::tasks::Tasks;
use super::transfer::flight::Flights;
use super::transfer::turns::Turns;
use crate::clock::Clock;
use crate::config;
use crate::expiring::ExpiringCache;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::oci::{CanonicalName, Digest, Reference, Tag, UpstreamName};
use crate::store::BlobStore;
use crate::upstream::{BuildError, ManifestHead, NextUpstreams, SealStatus};

/// Why a blob was not kept to its end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unstorable {
    /// Writing it has failed, and not for want of room.
    Failed,
    /// It has so many bytes at least, and they found no room.
    Outgrown(u64),
}

/// How long a blob is passed through after writing it to the disk has failed (DESIGN §14.10).
pub(super) const UNSTORABLE_LIFE: Duration = Duration::from_mins(1);
/// How long it is remembered how large a blob is at least that found no room. It costs nothing: the
/// blob is kept as soon as that much finds room.
pub(super) const OUTGROWN_LIFE: Duration = Duration::from_hours(1);
/// How many such blobs are remembered.
const UNSTORABLE_MAX: u64 = 10_000;

/// Whoever asks for a tag after a write shares no question that was sent before it (UPL-8).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TagHeadKey {
    pub(super) name: CanonicalName,
    pub(super) tag: Tag,
    pub(super) epoch: WriteEpoch,
}

/// As [`TagHeadKey`], for the GET of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ManifestGetKey {
    pub(super) name: CanonicalName,
    pub(super) reference: Reference,
    pub(super) epoch: WriteEpoch,
}

/// The service, as it is used on behalf of somebody; clones share it.
#[derive(Clone, Debug)]
pub struct PullThrough(pub(super) Arc<PullCore>, pub(super) Behalf);

#[derive(Debug)]
pub(super) struct PullCore {
    pub(super) store: BlobStore,
    pub(super) sources: Sources,
    pub(super) clock: Clock,
    pub(super) limits: Limits,
    pub(super) metrics: Arc<Metrics>,
    pub(super) settings: CacheSettings,
    pub(super) membership: Membership,
    pub(super) negative: Arc<NegativeCache>,
    pub(super) writes: Arc<RecentWrites>,
    pub(super) provisional: ProvisionalTags,
    pub(super) sizes: DescribedSizes,
    pub(super) lists: GivenLists,
    pub(super) flights: Flights,
    pub(super) turns: Turns,
    /// Blobs that the disk did not take a moment ago; they are passed through without trying again.
    pub(super) unstorable: ExpiringCache<Digest, Unstorable>,
    pub(super) tag_heads: SingleFlight<TagHeadKey, Result<ManifestHead, Error>>,
    pub(super) tag_moves: SingleFlight<TagHeadKey, Result<ManifestAnswer, Error>>,
    pub(super) manifest_gets: SingleFlight<ManifestGetKey, Result<ManifestAnswer, Error>>,
    pub(super) tasks: Tasks,
}

impl PullThrough {
    /// A service that knows nothing yet but what the store's records say.
    pub fn new(parts: Parts, cache: &config::Cache) -> Self {
        let tasks = Tasks::default();
        let sources = Sources::new(parts.upstreams, &parts.limits);
        let writes = Arc::new(RecentWrites::new(parts.clock.clone()));
        let negative = Arc::new(NegativeCache::new(Arc::clone(&writes), parts.clock.clone()));
        let flights = Flights::default();
        let settings = CacheSettings::new(ArcSwap::from_pointee(cache.clone()));
        let membership = Membership::new(MembershipInputs {
            store: parts.store.clone(),
            sources: sources.clone(),
            flights: flights.clone(),
            negative: Arc::clone(&negative),
            writes: Arc::clone(&writes),
            clock: parts.clock.clone(),
            limits: parts.limits.clone(),
            settings: Arc::clone(&settings),
            tasks: tasks.clone(),
        });
        let core = Arc::new(PullCore {
            sources,
            settings,
            membership,
            negative,
            writes,
            provisional: ProvisionalTags::new(),
            sizes: DescribedSizes::new(),
            lists: GivenLists::new(),
            flights,
            turns: Turns::new(&parts.limits),
            unstorable: ExpiringCache::new(UNSTORABLE_MAX, parts.clock.clone()),
            tag_heads: SingleFlight::new(tasks.clone()),
            tag_moves: SingleFlight::new(tasks.clone()),
            manifest_gets: SingleFlight::new(tasks.clone()),
            tasks,
            store: parts.store,
            clock: parts.clock,
            limits: parts.limits,
            metrics: parts.metrics,
        });
        core.store.set_reach(core.sources.in_reach());
        Self(core, Behalf::One(Asker::default()))
    }

    /// Builds changed upstreams; nothing uses them yet.
    ///
    /// # Errors
    /// If an upstream cannot be used.
    pub fn prepare(&self, upstreams: &[config::Upstream]) -> Result<NextUpstreams, BuildError> {
        self.0.sources.upstreams().prepare(upstreams)
    }

    /// The service as `asker` uses it: others are served before somebody who takes a lot (SHARE-1).
    #[must_use]
    pub fn asked_by(&self, asker: Asker) -> Self {
        Self(Arc::clone(&self.0), Behalf::One(asker))
    }

    /// The same for all who wait for a piece of work of which something is asked.
    pub(super) fn for_all(&self, interest: Interest) -> Self {
        Self(Arc::clone(&self.0), Behalf::All(interest))
    }

    /// What is known of members, and asked for the same.
    pub(super) fn membership(&self) -> Membership {
        self.0.membership.on_behalf(self.1.clone())
    }

    /// Takes over changed upstreams and times to live; blocks if one is sealed now. Transfers that are under way go on.
    pub fn reconfigure(&self, upstreams: NextUpstreams, cache: &config::Cache) {
        self.0.settings.store(Arc::new(cache.clone()));
        self.0.sources.upstreams().replace(upstreams);
        self.0.store.set_reach(self.0.sources.in_reach());
    }

    /// Whether nothing may be asked of the upstream of `name` (SEAL-1).
    pub fn is_sealed(&self, name: &CanonicalName) -> bool {
        self.0.sources.is_sealed(name)
    }

    /// How the seal of each upstream stands.
    pub fn seals(&self) -> Vec<SealStatus> {
        self.0.sources.upstreams().seals()
    }

    /// Opens a sealed upstream for a while, or seals it before that is over.
    pub fn open_for(&self, upstream: &UpstreamName, time: Option<Duration>) {
        self.0.sources.upstreams().open_for(upstream, time);
    }

    /// Takes over changed room; blocks while it evicts.
    pub fn resize(&self, cache: &config::Cache) {
        self.0.store.resize(cache);
    }

    /// Runs `work` to its end, even if the request that waits for it is dropped. None if the
    /// process ends first.
    pub async fn run_to_completion<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        self.0.tasks.spawn(work).await.ok().flatten()
    }

    /// Drops the downloads under way and waits until they are gone; they leave no file.
    pub async fn stop(&self) {
        self.0.tasks.stop().await;
    }

    /// Fails if upstream said a moment ago that there is no such thing (PROTOCOL §3.12).
    pub(super) fn check_negative_cache(
        &self,
        subject: &Subject,
        name: &CanonicalName,
        what: Missing,
    ) -> Result<(), Error> {
        if self.0.negative.contains(subject, name) {
            Err(Error::Absent { what, remembered: true })
        } else {
            Ok(())
        }
    }
}

/// Bytes are shared by digest, but not because an upstream says that it has them: that costs a liar
/// nothing, and would give its readers what was fetched with the credential of another (DESIGN
/// §14.1).
impl PullCore {
    /// Whether what is stored may be served for `name`, whose upstream has confirmed that it has it.
    pub(super) async fn may_use(&self, name: &CanonicalName, digest: &Digest) -> bool {
        let senders = self.store.records().senders(digest).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "the records failed; nobody is known to have sent this");
            None
        });
        self.sources.may_share(senders.as_deref(), &name.upstream)
    }

    /// As [`PullCore::may_use`], of what was published a moment ago.
    pub(super) fn may_use_now(&self, name: &CanonicalName, digest: &Digest) -> bool {
        let senders = self.store.records().known_senders(digest);
        self.sources.may_share(senders.as_deref(), &name.upstream)
    }
}
