//! Which licences are in use: for the operator, never for a decision.

use moka::sync::Cache;

use super::caller::Caller;
use crate::clock::Timestamp;
use crate::identity::Identity;
use crate::licence::LicenceId;
use crate::oci::CanonicalName;

/// Licences that are remembered; beyond that the least used ones are forgotten.
const LICENCES_MAX: u64 = 10_000;

/// The last pull of each licence since the start.
#[derive(Debug)]
pub(crate) struct Ledger(Cache<LicenceId, LastPull>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastPull {
    pub at: Timestamp,
    pub image: CanonicalName,
    pub expires: Option<Timestamp>,
}

impl Default for Ledger {
    fn default() -> Self {
        Self(Cache::new(LICENCES_MAX))
    }
}

impl Ledger {
    pub(crate) fn note(&self, caller: &Caller, pull: LastPull) {
        if let Identity::Licence(id) = &caller.identity {
            self.0.insert(id.clone(), pull);
        }
    }

    /// By id.
    pub(crate) fn entries(&self) -> Vec<(LicenceId, LastPull)> {
        let mut entries: Vec<_> =
            self.0.iter().map(|(id, pull)| (id.as_ref().clone(), pull)).collect();
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        entries
    }
}
