//! Who is left alone: the breakers of one upstream, for reading, for writing, and for each further
//! host that it has named and that does not answer (DESIGN §14.4).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use url::Url;

use super::breaker::{Admission, Breaker, Consequence};
use super::gate::origin_of;
use crate::clock::{Clock, Moment};
use crate::metrics::Metrics;
use crate::oci::UpstreamName;
use crate::upstream::cause::Cause;
use crate::upstream::error::{Direction, Fault, Unanswered};

/// Further hosts with a breaker. Only those that do not answer need one; beyond this number they
/// are asked every time.
const HOSTS_MAX: usize = 64;

/// What one breaker is for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) enum BreakerKey {
    /// The registry itself.
    Registry(Direction),
    /// Storage behind a redirect, or a token service, by the root of its origin.
    Host(Url),
}

impl BreakerKey {
    /// That of the host which `url` is at.
    pub(super) fn host(url: &Url) -> Self {
        let mut root = url.clone();
        root.set_path("/");
        root.set_query(None);
        root.set_fragment(None);
        Self::Host(root)
    }

    /// The label of metrics. Hosts share one: what they are called is not for us to say.
    fn label(&self) -> &'static str {
        match self {
            Self::Registry(direction) => direction.as_str(),
            Self::Host(_) => HOSTS_LABEL,
        }
    }

    /// What it is called in logs.
    fn name(&self) -> String {
        match self {
            Self::Registry(direction) => direction.as_str().to_owned(),
            Self::Host(root) => origin_of(root),
        }
    }
}

const HOSTS_LABEL: &str = "hosts";

/// The breakers of one upstream. Its operations and its token requests share them.
#[derive(Debug)]
pub(super) struct Reachability {
    upstream: UpstreamName,
    clock: Clock,
    metrics: Arc<Metrics>,
    /// Those that are not closed and without any failure.
    breakers: Mutex<HashMap<BreakerKey, Breaker>>,
}

impl Reachability {
    pub(super) fn new(upstream: UpstreamName, clock: Clock, metrics: Arc<Metrics>) -> Self {
        let reachability = Self { upstream, clock, metrics, breakers: Mutex::default() };
        for label in [Direction::Read.as_str(), Direction::Write.as_str(), HOSTS_LABEL] {
            reachability.show(0, label);
        }
        reachability
    }

    pub(super) fn admit(&self, key: &BreakerKey) -> Admission {
        let now = self.clock.moment();
        self.breakers().get_mut(key).map_or(Admission::Granted, |breaker| breaker.admit(now))
    }

    /// The registry answered. That proves as much for reading as for writing.
    pub(super) fn registry_answered(&self) {
        self.answered(&BreakerKey::Registry(Direction::Read));
        self.answered(&BreakerKey::Registry(Direction::Write));
    }

    pub(super) fn answered(&self, key: &BreakerKey) {
        let mut breakers = self.breakers();
        let was_open = breakers.remove(key).is_some_and(|mut breaker| breaker.answered());
        if was_open {
            self.show_open(&breakers, key);
            tracing::info!(upstream = %self.upstream, gate = key.name(),
                "it answers again, and is asked as before");
        }
    }

    pub(super) fn unanswered(&self, key: &BreakerKey, how: Unanswered, why: &Fault) -> Consequence {
        let now = self.clock.moment();
        let mut breakers = self.breakers();
        if !breakers.contains_key(key) && !has_room(&mut breakers, key, now) {
            return Consequence::Nothing;
        }
        let breaker = breakers.entry(key.clone()).or_insert(Breaker::CLOSED);
        let consequence = breaker.unanswered(how, now);
        self.tell(&breakers, key, consequence, why);
        consequence
    }

    pub(super) fn ping_unanswered(&self, key: &BreakerKey, why: &Fault) {
        let mut breakers = self.breakers();
        let Some(breaker) = breakers.get_mut(key) else { return };
        let consequence = breaker.ping_unanswered(self.clock.moment());
        self.tell(&breakers, key, consequence, why);
    }

    pub(super) fn ping_given_up(&self, key: &BreakerKey) {
        let now = self.clock.moment();
        self.breakers().get_mut(key).into_iter().for_each(|breaker| breaker.ping_given_up(now));
    }

    /// One line for an outage, however many requests meet it.
    fn tell(&self, breakers: &Breakers, key: &BreakerKey, consequence: Consequence, why: &Fault) {
        if consequence == Consequence::LeftAlone {
            self.show_open(breakers, key);
            tracing::warn!(upstream = %self.upstream, gate = key.name(), reason = %why.reason,
                cause = why.cause.map(Cause::clause),
                "it does not answer, and is left alone; cached content is served");
        }
    }

    fn show_open(&self, breakers: &Breakers, key: &BreakerKey) {
        let same_label = breakers.iter().filter(|(other, _)| other.label() == key.label());
        self.show(same_label.filter(|(_, breaker)| breaker.is_open()).count(), key.label());
    }

    fn show(&self, open: usize, label: &str) {
        let gauge = &self.metrics.upstream.breaker_open;
        let gauge = gauge.with_label_values(&[self.upstream.as_str(), label]);
        gauge.set(i64::try_from(open).unwrap_or(i64::MAX));
    }

    fn breakers(&self) -> MutexGuard<'_, Breakers> {
        self.breakers.lock().expect("nothing panics while it holds the breakers")
    }
}

type Breakers = HashMap<BreakerKey, Breaker>;

/// Whether a breaker for `key` may be added. Hosts that would be asked anyway make room.
fn has_room(breakers: &mut Breakers, key: &BreakerKey, now: Moment) -> bool {
    let is_host = |key: &BreakerKey| matches!(key, BreakerKey::Host(_));
    let hosts = |breakers: &Breakers| breakers.keys().filter(|key| is_host(key)).count();
    if is_host(key) && hosts(breakers) >= HOSTS_MAX {
        breakers.retain(|key, breaker| !is_host(key) || breaker.is_shut(now));
    }
    !is_host(key) || hosts(breakers) < HOSTS_MAX
}
