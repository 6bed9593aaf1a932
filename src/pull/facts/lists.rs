//! Lists that upstream has given, as it gave them: they stand in when it fails. Kept in memory
//! only, because a list that is lost costs nobody a pull.

use moka::sync::Cache;

use super::subject::Subject;
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, PageQuery};
use crate::upstream::Page;

/// Bytes of lists that are kept.
const LISTS_MAX: u64 = 16 << 20;
/// Bytes that a list costs beside its own.
const OVERHEAD: usize = 500;

/// One page of one list.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PageKey {
    pub(crate) name: CanonicalName,
    pub(crate) subject: Subject,
    pub(crate) page: PageQuery,
}

/// A page, and when it was asked for.
#[derive(Clone, Debug)]
pub(crate) struct GivenPage {
    pub(crate) page: Page,
    pub(crate) asked: Timestamp,
}

#[derive(Debug)]
pub(crate) struct GivenLists(Cache<PageKey, GivenPage>);

impl GivenLists {
    pub(crate) fn new() -> Self {
        let weigh = |_: &PageKey, given: &GivenPage| {
            u32::try_from(given.page.bytes.len() + OVERHEAD).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().max_capacity(LISTS_MAX).weigher(weigh);
        Self(cache.support_invalidation_closures().build())
    }

    pub(crate) fn get(&self, key: &PageKey) -> Option<GivenPage> {
        self.0.get(key)
    }

    pub(crate) fn keep(&self, key: PageKey, given: GivenPage) {
        self.0.insert(key, given);
    }

    /// Forgets every page of the list: upstream refuses it, or says that it is gone.
    pub(crate) fn drop_list(&self, key: &PageKey) {
        let PageKey { name, subject, .. } = key.clone();
        // Cannot fail: the cache was built with support for it.
        let _ =
            self.0.invalidate_entries_if(move |key, _| key.name == name && key.subject == subject);
    }
}
