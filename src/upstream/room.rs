//! Memory for lists of tags: most pages are small, but registries that do not page, such as gcr.io,
//! send many megabytes at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::{ErrorKind, Fault, Symptom};
use crate::limits::Limits;

/// How large pages may be, and how many large ones there may be at once, of all upstreams together.
#[derive(Clone, Debug)]
pub(super) struct PageRoom {
    /// Bytes of a page that takes no place.
    pub(super) small: usize,
    /// Bytes of the largest page of tags.
    pub(super) large: usize,
    places: Arc<Semaphore>,
    /// How long a place is waited for.
    patience: Duration,
}

impl PageRoom {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            small: limits.page,
            large: limits.large_page,
            places: Arc::new(Semaphore::new(limits.large_pages)),
            patience: limits.large_page_wait,
        }
    }

    /// # Errors
    /// `Crowded` if none is free in time.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, Fault> {
        let place = Arc::clone(&self.places).acquire_owned();
        // The semaphore is never closed.
        let place = tokio::time::timeout(self.patience, place).await.ok().and_then(Result::ok);
        place.ok_or_else(|| {
            let reason = "too many large lists at once";
            Fault::new(ErrorKind::Crowded, Symptom::Local, reason)
        })
    }
}
