//! When things were last written through us. An answer to a question that was sent before a write
//! says what was true then, and must neither be recorded nor be shared with those who ask after the
//! write (UPL-8).

use std::time::Duration;

use super::FACTS_MAX;
use super::subject::Subject;
use crate::clock::{Clock, Timestamp};
use crate::expiring::ExpiringCache;
use crate::oci::CanonicalName;

/// Longer than any question to an upstream takes: after that, no answer is older than the write.
const RECENT: Duration = Duration::from_mins(2);

#[derive(Debug)]
pub(crate) struct RecentWrites {
    written_at: ExpiringCache<(Subject, CanonicalName), Timestamp>,
    clock: Clock,
}

/// The time between two writes of a thing. It is part of the key of single-flight questions, so that
/// nobody joins a question that is older than the last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WriteEpoch(Option<Timestamp>);

impl RecentWrites {
    pub(crate) fn new(clock: Clock) -> Self {
        Self { written_at: ExpiringCache::new(FACTS_MAX, clock.clone()), clock }
    }

    /// It has been written, or deleted, through us just now.
    pub(crate) fn note(&self, subject: Subject, name: &CanonicalName) {
        self.written_at.insert((subject, name.clone()), self.clock.now(), RECENT);
    }

    /// Whether a question about it may have been sent before its last write.
    pub(crate) fn is_recent(&self, subject: &Subject, name: &CanonicalName) -> bool {
        self.written_at(subject, name).is_some()
    }

    pub(crate) fn epoch(&self, subject: &Subject, name: &CanonicalName) -> WriteEpoch {
        WriteEpoch(self.written_at(subject, name))
    }

    /// Whether the answer to a question that was sent at `sent_at` may be older than a write. Equal
    /// times count as older: the clock cannot tell them apart.
    pub(crate) fn outdates(
        &self,
        subject: &Subject,
        name: &CanonicalName,
        sent_at: Timestamp,
    ) -> bool {
        self.written_at(subject, name).is_some_and(|written| sent_at <= written)
    }

    fn written_at(&self, subject: &Subject, name: &CanonicalName) -> Option<Timestamp> {
        self.written_at.get(&(subject.clone(), name.clone()))
    }
}
