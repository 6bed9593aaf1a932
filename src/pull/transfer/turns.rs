//! A place for a transfer from upstream, and when it is given back: a place belongs to bytes that
//! come (SHARE-1). There is a number of them in all (`limits.fills`), and a number for each upstream
//! (`limits.fills_per_upstream`), so that a slow upstream leaves places to the others.

use std::time::Duration;

use tokio::time::Instant;

use crate::limits::Limits;
use crate::oci::CanonicalName;
use crate::pull::error::Error;
use crate::pull::interest::Interest;
use crate::pull::shares::{Precedence, Reserve, Share, ShareBounds, Shares};

/// All places.
#[derive(Debug)]
pub(crate) struct Turns {
    places: Shares,
    slow_transfer: Duration,
}

/// A place among the transfers; dropping it makes room for the next.
#[derive(Debug)]
pub(crate) struct TransferPlace {
    share: Share,
    rate: MinimumRate,
}

impl Turns {
    pub(crate) fn new(limits: &Limits) -> Self {
        let (all, each) = (Some(limits.fills), limits.fills_per_upstream);
        let places = Shares::new(ShareBounds { all, each, reserve: Reserve::None });
        Self { places, slow_transfer: limits.slow_transfer }
    }

    /// Waits for a place, of the upstream's and of all at once: nobody holds the one while waiting
    /// for the other.
    ///
    /// # Errors
    /// `Overloaded` if there is none until then, or too many wait.
    pub(in crate::pull) async fn place(
        &self,
        name: &CanonicalName,
        interest: &Interest,
        precedence: Precedence,
        until: Instant,
    ) -> Result<TransferPlace, Error> {
        let share = self.places.get(name, interest, precedence, until).await?;
        Ok(TransferPlace { share, rate: MinimumRate::new(self.slow_transfer) })
    }
}

impl TransferPlace {
    /// Resolves once the place should be given back to others, with what it waits as then; see
    /// [`Share::yielded`]. The transfer has brought so many `bytes`.
    pub(super) async fn yielded(&mut self, bytes: impl Fn() -> u64) -> Precedence {
        let Self { share, rate } = self;
        let is_slow = share.yielded(|| rate.is_missed(Instant::now(), bytes())).await;
        if is_slow { Precedence::Yielded } else { Precedence::Wanted }
    }
}

/// Bytes a second that a transfer has to bring, if others wait for its place.
const RATE_MIN: u64 = 1 << 10;

/// Whether a transfer brings too little to keep its place (SHARE-1).
#[derive(Debug)]
struct MinimumRate {
    window: Duration,
    /// When the window began, and how many bytes there were then.
    begun: Option<(Instant, u64)>,
    was_missed: bool,
}

impl MinimumRate {
    fn new(window: Duration) -> Self {
        Self { window, begun: None, was_missed: false }
    }

    /// Whether there was too little in the last whole window, with so many `bytes` now.
    fn is_missed(&mut self, now: Instant, bytes: u64) -> bool {
        let (at, before) = *self.begun.get_or_insert((now, bytes));
        let time = now.duration_since(at);
        if time >= self.window {
            let due = u128::from(RATE_MIN) * time.as_millis() / 1000;
            self.was_missed = u128::from(bytes.saturating_sub(before)) < due;
            self.begun = Some((now, bytes));
        }
        self.was_missed
    }
}
