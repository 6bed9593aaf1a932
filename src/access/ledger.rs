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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::oci::{Repository, UpstreamName};

    #[test]
    fn the_last_pull_of_each_licence_is_told_by_id() {
        let ledger = Ledger::default();
        let pull = |seconds| LastPull {
            at: Timestamp::from_unix(Duration::from_secs(seconds)),
            image: CanonicalName {
                upstream: UpstreamName::parse("registry.test").expect("a name"),
                repository: Repository::parse("acme/app").expect("a repository"),
            },
            expires: None,
        };
        let id = |id| LicenceId::parse(id).expect("an id");
        let nobody = Caller::anonymous([192, 0, 2, 1].into(), Vec::new());
        for (who, at) in [
            (Identity::Licence(id("b")), 1),
            (Identity::Licence(id("a")), 2),
            (Identity::User("ci".to_owned()), 3),
            (Identity::Licence(id("b")), 4),
        ] {
            ledger.note(&nobody.clone().known_as(who, Vec::new()), pull(at));
        }
        assert_eq!(ledger.entries(), [(id("a"), pull(2)), (id("b"), pull(4))]);
    }
}
