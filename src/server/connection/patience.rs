//! How long bytes wait for a client. Waiting adds up, and each KiB that the client takes makes up
//! for a second of it: one that takes at least 1 KiB/s is served for as long as that lasts, and one
//! that takes a byte now and then, to hold what we keep for it, is as one that takes nothing.

use std::time::Duration;

use tokio::time::Instant;

/// What one byte makes up for, at 1 KiB/s.
const NANOSECONDS_OF_A_BYTE: u64 = 1_000_000_000 / 1024;

/// The waiting for one client: of its connection, or of one answer on it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Waiting {
    /// Since when bytes wait; none while the client has everything.
    since: Option<Instant>,
    /// What has added up before.
    before: Duration,
}

impl Waiting {
    /// Bytes wait, from now on if none did.
    pub(super) fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// The client has taken `count` bytes. If more are there, `begin` says so.
    pub(super) fn take(&mut self, count: usize) {
        let now_waited = self.since.take().map_or(Duration::ZERO, |since| since.elapsed());
        let made_up = Duration::from_nanos((count as u64).saturating_mul(NANOSECONDS_OF_A_BYTE));
        self.before = (self.before + now_waited).saturating_sub(made_up);
    }

    /// When it will have added up to `patience`; none while nothing waits.
    pub(super) fn ends(&self, patience: Duration) -> Option<Instant> {
        self.since.map(|since| since + patience.saturating_sub(self.before))
    }
}
