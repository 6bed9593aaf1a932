//! What upstream has said does not exist. It is believed for a short time, so that clients that ask
//! again and again cost no upstream requests (PROTOCOL §3.12).

use std::sync::Arc;

use super::FACTS_BYTES;
use super::subject::{Subject, weigh};
use super::writes::RecentWrites;
use crate::clock::{Clock, Timestamp};
use crate::expiring::ExpiringCache;
use crate::limits::Limits;
use crate::oci::CanonicalName;

#[derive(Debug)]
pub(crate) struct NegativeCache {
    /// When upstream said so. The time is for the type's sake: `RecentWrites` has the same one, and
    /// each further type of such a cache is some 80 KB of code.
    absent: ExpiringCache<(Subject, CanonicalName), Timestamp>,
    writes: Arc<RecentWrites>,
    clock: Clock,
}

impl NegativeCache {
    pub(crate) fn new(writes: Arc<RecentWrites>, clock: Clock) -> Self {
        let absent = ExpiringCache::weighing(FACTS_BYTES, weigh, clock.clone());
        Self { absent, writes, clock }
    }

    /// Remembers that there is no such thing, unless it was written a moment ago: the answer may be
    /// older than the write.
    pub(crate) fn remember(&self, subject: Subject, name: &CanonicalName, limits: &Limits) {
        if self.writes.is_recent(&subject, name) {
            return;
        }
        self.absent.insert((subject, name.clone()), self.clock.now(), limits.negative);
    }

    /// Whether upstream said a moment ago that there is no such thing.
    pub(crate) fn contains(&self, subject: &Subject, name: &CanonicalName) -> bool {
        self.absent.contains(&(subject.clone(), name.clone()))
    }

    /// Forgets an absence, because the thing has been written through us.
    pub(crate) fn forget(&self, subject: &Subject, name: &CanonicalName) {
        self.absent.remove(&(subject.clone(), name.clone()));
    }
}
