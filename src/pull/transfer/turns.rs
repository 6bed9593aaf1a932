//! Places for transfers from upstream: a number of them in all (`limits.fills`), and a number for
//! each upstream (`limits.fills_per_upstream`), so that a slow upstream leaves places to the
//! others. A place belongs to bytes that come, not to the question for them (SHARE-1).

use tokio::time::Instant;

use crate::limits::Limits;
use crate::oci::CanonicalName;
use crate::pull::error::Error;
use crate::pull::shares::{
    Asker, LOOK_INTERVAL, Precedence, Reserve, Share, Shares, SharesByUpstream,
};

/// All places.
#[derive(Debug)]
pub(crate) struct Turns {
    all: Shares,
    by_upstream: SharesByUpstream,
}

/// A place among the transfers; dropping it makes room for the next.
#[derive(Debug)]
pub(crate) struct TransferPlace {
    of_upstream: Share,
    of_all: Share,
}

impl Turns {
    pub(crate) fn new(limits: &Limits) -> Self {
        let by_upstream = SharesByUpstream::new(limits.fills_per_upstream, Reserve::None);
        Self { all: Shares::new(limits.fills, Reserve::None), by_upstream }
    }

    /// Waits for a place: first among those of this upstream, so that waiting for a busy upstream
    /// takes no place from the others.
    ///
    /// # Errors
    /// `Overloaded` if there is none until then, or too many wait.
    pub(in crate::pull) async fn place(
        &self,
        name: &CanonicalName,
        asker: Asker,
        precedence: Precedence,
        until: Instant,
    ) -> Result<TransferPlace, Error> {
        let get = async |shares: &Shares| {
            shares.get(asker, name, precedence, until).await.ok_or(Error::Overloaded)
        };
        let of_upstream = get(&self.by_upstream.of(&name.upstream)).await?;
        Ok(TransferPlace { of_upstream, of_all: get(&self.all).await? })
    }
}

impl TransferPlace {
    /// Resolves once the place should be given back to others, with whether it was `unneeded`; see
    /// [`Share::yielded`].
    pub(super) async fn yielded(&mut self, mut unneeded: impl FnMut() -> bool) -> bool {
        loop {
            let is_unneeded = unneeded();
            if self.of_upstream.begin_yield(is_unneeded) || self.of_all.begin_yield(is_unneeded) {
                return is_unneeded;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}
