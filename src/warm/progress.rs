//! How far warming has come, for whoever looks on.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;

use super::report::{Amount, WarmedImage};
use crate::oci::CanonicalName;

/// Events that wait for whoever looks on.
const EVENTS_AHEAD: usize = 16;

/// What happens meanwhile.
#[derive(Clone, Debug)]
pub(crate) enum WarmEvent {
    /// Everything of an image has been tried.
    Finished(WarmedImage),
    /// Something is tried again, after a pause and for this reason.
    Waits { name: CanonicalName, pause: Duration, why: String },
}

/// Counted as it goes on.
#[derive(Debug)]
pub(crate) struct WarmProgress {
    images: AtomicUsize,
    images_planned: AtomicUsize,
    images_done: AtomicUsize,
    blobs: AtomicU64,
    blobs_done: AtomicU64,
    bytes: AtomicU64,
    bytes_done: AtomicU64,
    events: mpsc::Sender<WarmEvent>,
}

/// The same at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WarmTotals {
    pub(crate) images: usize,
    /// Of which it is known of what they consist; blobs and bytes are told when that is all.
    pub(crate) images_planned: usize,
    pub(crate) images_done: usize,
    pub(crate) blobs: u64,
    pub(crate) blobs_done: u64,
    pub(crate) bytes: u64,
    pub(crate) bytes_done: u64,
}

impl WarmProgress {
    /// With the events, which end with it.
    pub(crate) fn new() -> (Self, mpsc::Receiver<WarmEvent>) {
        let (events, received) = mpsc::channel(EVENTS_AHEAD);
        let progress = Self {
            images: AtomicUsize::new(0),
            images_planned: AtomicUsize::new(0),
            images_done: AtomicUsize::new(0),
            blobs: AtomicU64::new(0),
            blobs_done: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            bytes_done: AtomicU64::new(0),
            events,
        };
        (progress, received)
    }

    pub(crate) fn totals(&self) -> WarmTotals {
        let size = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        WarmTotals {
            images: size(&self.images),
            images_planned: size(&self.images_planned),
            images_done: size(&self.images_done),
            blobs: count(&self.blobs),
            blobs_done: count(&self.blobs_done),
            bytes: count(&self.bytes),
            bytes_done: count(&self.bytes_done),
        }
    }

    pub(super) fn begin(&self, images: usize) {
        self.images.store(images, Ordering::Relaxed);
    }

    pub(super) fn planned(&self) {
        self.images_planned.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn expect(&self, amount: Amount) {
        self.blobs.store(amount.blobs, Ordering::Relaxed);
        self.bytes.store(amount.bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes_came(&self, bytes: u64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn blob_came(&self) {
        self.blobs_done.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) async fn finished(&self, image: WarmedImage) {
        self.images_done.fetch_add(1, Ordering::Relaxed);
        // Nobody may look on.
        drop(self.events.send(WarmEvent::Finished(image)).await);
    }

    /// Left out where whoever looks on does not keep up.
    pub(super) fn waits(&self, name: &CanonicalName, pause: Duration, why: String) {
        drop(self.events.try_send(WarmEvent::Waits { name: name.clone(), pause, why }));
    }
}
