//! In which order content goes. Pure.
//!
//! What was asked for once goes before what was asked for again, however many of those pass: one
//! pull of everything that a registry has must not drive out what others use every day
//! (RELIABILITY D-9). What was asked for again goes by how often, so that two pulls of everything
//! do not outweigh many of a little. It is forgotten with time: each span without a use counts as
//! one use less.

use std::collections::BTreeSet;

use crate::oci::Digest;

/// What eviction takes first: blobs before manifests, which are small and hold images together
/// (DESIGN §14.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EvictionClass {
    Blob,
    Manifest,
}

/// The number of an entry; another may get it once the entry is gone.
pub(super) type Slot = u32;

/// A moment of use; later is larger.
pub(super) type Tick = u64;

/// How some content was used, as the records keep it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) digest: Digest,
    pub(super) used: Tick,
    pub(super) uses: u8,
}

/// Zero: was asked for once. Larger goes later.
type Rank = u64;

/// More uses than these say nothing more.
pub(super) const USES_MAX: u8 = 8;

/// A use counts for this long, in microseconds: what was popular goes within two days.
const SPAN: Tick = 6 * 3600 * 1_000_000;

/// Where an entry stands in the order.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueuePosition {
    pub(super) class: EvictionClass,
    pub(super) uses: u8,
    pub(super) used: Tick,
    pub(super) size: u64,
}

impl QueuePosition {
    fn rank(self) -> Rank {
        if self.uses < 2 { 0 } else { self.used / SPAN + Rank::from(self.uses) }
    }
}

/// Content of one class, the next to go first. Many may have the same tick: what the records say
/// nothing of has tick 0.
#[derive(Debug, Default)]
struct Queue {
    order: BTreeSet<(Rank, Tick, Slot)>,
    bytes: u64,
    /// Of what was asked for again.
    again: u64,
}

impl Queue {
    fn next_victim(&self, now: Tick) -> Option<Slot> {
        match self.first_again() {
            Some((rank, slot)) if rank <= now / SPAN => Some(slot),
            Some(_) | None => self.order.first().map(|(_, _, slot)| *slot),
        }
    }

    fn first_again(&self) -> Option<(Rank, Slot)> {
        self.order.range((1, 0, 0)..).next().map(|(rank, _, slot)| (*rank, *slot))
    }
}

#[derive(Debug, Default)]
pub(super) struct EvictionOrder {
    blobs: Queue,
    manifests: Queue,
}

impl EvictionOrder {
    pub(super) fn insert(&mut self, slot: Slot, at: QueuePosition) {
        let (queue, rank) = (self.queue_mut(at.class), at.rank());
        if queue.order.insert((rank, at.used, slot)) {
            queue.bytes += at.size;
            queue.again += if rank > 0 { at.size } else { 0 };
        }
    }

    pub(super) fn remove(&mut self, slot: Slot, at: QueuePosition) {
        let (queue, rank) = (self.queue_mut(at.class), at.rank());
        if queue.order.remove(&(rank, at.used, slot)) {
            queue.bytes -= at.size;
            queue.again -= if rank > 0 { at.size } else { 0 };
        }
    }

    /// The next to go at `now`: a manifest only once no blob is left, or while manifests take more
    /// than an eighth of `limit`, which is what those that may go share: one tenant's manifests of 4 MiB must not drive out everybody's
    /// layers.
    pub(super) fn next_victim(&self, limit: u64, now: Tick) -> Option<Slot> {
        let queues = if self.manifests.bytes > limit / 8 {
            [&self.manifests, &self.blobs]
        } else {
            [&self.blobs, &self.manifests]
        };
        queues.iter().find_map(|queue| queue.next_victim(now))
    }

    /// One of `class` that is to stand among those that were asked for once again: those that were
    /// asked for more often leave a fifth of `limit` to them, so that something new can get known.
    pub(super) fn next_demoted(&self, class: EvictionClass, limit: u64) -> Option<Slot> {
        let queue = self.queue(class);
        if queue.again <= limit / 5 * 4 { None } else { queue.first_again().map(|(_, slot)| slot) }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.blobs.order.len() + self.manifests.order.len()
    }

    fn queue(&self, class: EvictionClass) -> &Queue {
        match class {
            EvictionClass::Blob => &self.blobs,
            EvictionClass::Manifest => &self.manifests,
        }
    }

    fn queue_mut(&mut self, class: EvictionClass) -> &mut Queue {
        match class {
            EvictionClass::Blob => &mut self.blobs,
            EvictionClass::Manifest => &mut self.manifests,
        }
    }
}
