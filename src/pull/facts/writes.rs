//! When things were last written or deleted through us, or refused by their upstream.
//!
//! An answer that was on its way during a write says what was true before it. It must not be
//! recorded, and whoever asks after the write must not share it (UPL-8). A refusal counts as a
//! write: an answer from before it must not bring back what it has taken (DESIGN §14.1).

use std::time::Duration;

use super::subject::{Subject, weigh};
use crate::clock::{Clock, Timestamp};
use crate::expiring::ExpiringCache;
use crate::oci::CanonicalName;

/// How long a write is remembered. Longer than any question to an upstream takes
/// (`limits.flight_head` is 60 s), so that no answer is older than a write that has been forgotten.
const WRITE_MEMORY: Duration = Duration::from_mins(2);

/// Bytes of writes that are remembered: what is forgotten too early could be undone by an answer
/// that is older.
const WRITES_BYTES: u64 = 32 << 20;

#[derive(Debug)]
pub(crate) struct RecentWrites {
    written_at: ExpiringCache<(Subject, CanonicalName), Timestamp>,
    clock: Clock,
}

/// The span between two writes of a thing, named by the write that began it. It is part of the key
/// of shared questions, so that nobody joins a question that is older than the last write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WriteEpoch(Option<Timestamp>);

impl RecentWrites {
    pub(crate) fn new(clock: Clock) -> Self {
        let written_at = ExpiringCache::weighing(WRITES_BYTES, weigh, clock.clone());
        Self { written_at, clock }
    }

    /// Notes that it has been written or deleted through us just now, or refused.
    pub(crate) fn note(&self, subject: Subject, name: &CanonicalName) {
        self.written_at.insert((subject, name.clone()), self.clock.now(), WRITE_MEMORY);
    }

    /// Whether a question about it may have been sent before its last write.
    pub(crate) fn is_recent(&self, subject: &Subject, name: &CanonicalName) -> bool {
        self.written_at(subject, name).is_some()
    }

    /// The epoch of a question that is asked now.
    pub(crate) fn epoch(&self, subject: &Subject, name: &CanonicalName) -> WriteEpoch {
        WriteEpoch(self.written_at(subject, name))
    }

    /// Whether the answer to a question that was sent at `sent_at` may be older than the last
    /// write. Equal times count as older, because the clock does not say which came first.
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
