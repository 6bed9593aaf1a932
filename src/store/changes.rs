//! Which repositories the records say something new of, for whoever follows that.

use std::collections::HashSet;
use std::sync::Mutex;

use tokio::sync::Notify;

use super::lock;
use crate::oci::CanonicalName;

/// Beyond these it is told that anything may have changed.
const NAMES_MAX: usize = 10_000;

/// What has changed since somebody looked.
#[derive(Debug, Default)]
pub struct Changed {
    pub names: HashSet<CanonicalName>,
    /// There were too many, or the records were opened again.
    pub anything: bool,
}

#[derive(Debug, Default)]
pub(super) struct Changes {
    since: Mutex<Changed>,
    news: Notify,
}

impl Changes {
    pub(super) fn note(&self, name: &CanonicalName) {
        let mut since = lock(&self.since);
        if since.names.len() < NAMES_MAX {
            since.names.insert(name.clone());
        } else {
            since.anything = true;
        }
        self.news.notify_one();
    }

    pub(super) fn note_all(&self) {
        lock(&self.since).anything = true;
        self.news.notify_one();
    }

    /// Waits for something new; of one who follows.
    pub(super) async fn next(&self) -> Changed {
        self.news.notified().await;
        std::mem::take(&mut *lock(&self.since))
    }
}
