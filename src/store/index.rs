//! What is on disk, how recently and how often it was used, and how much room is promised. Pure:
//! the disk work is the caller's.
//!
//! Sums are kept apart: `used` (published), `held` (bytes that are here of what is being written)
//! and `promised` (all that it may come to). Promises are given within the limit, so that eviction
//! can keep them, and what is evicted for them goes only as their bytes come: an announcement costs
//! nobody anything (DESIGN §14.10). Beside the index there is `pending` (unlinked but still open):
//! bytes that are only waiting for their last reader come free by themselves, and evicting more
//! would not free them sooner.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::sync::Weak;

use super::blob::OpenBlob;
use super::entries::{Entries, IndexEntry};
use super::order::{EvictionClass, EvictionOrder, QueuePosition, Slot, Tick, USES_MAX, Usage};
use super::retention::Retention;
use crate::oci::Digest;

/// What a look at content is to the order in which content goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is wanted from its first byte on.
    Whole,
    /// More of what is being read, or a look without reading: no sign that somebody else wants it.
    Part,
}

/// What the file system says beside what the index counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Disk {
    /// Bytes that may still be written.
    pub(super) available: u64,
    /// Bytes that must stay free.
    pub(super) keep_free: u64,
    /// Bytes that come free by themselves: unlinked, but still open.
    pub(super) pending: u64,
    /// Files that have to go before more can be made.
    pub(super) files_short: usize,
    /// Bytes of the records, which count against the limit as well.
    pub(super) records: u64,
    /// Nothing can be written or removed.
    pub(super) read_only: bool,
}

/// For whom room is promised. What one owner has in flight may drive out half of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RoomOwner(u64);

impl RoomOwner {
    pub fn of(owner: &impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        owner.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// Room for one file that is being written.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) owner: RoomOwner,
    /// Bytes that it may come to.
    pub(super) bytes: u64,
    /// Of these, bytes that are here.
    pub(super) held: u64,
    /// Of these, bytes that the disk has given for it already.
    pub(super) given: u64,
    /// Bytes of others that go for it: those that found no free room when they were promised, or
    /// what has gone, if that is more.
    pub(super) evicting: u64,
    /// Bytes that have gone.
    pub(super) evicted: u64,
}

#[derive(Debug)]
pub(super) struct Index {
    limit: u64,
    entries: Entries,
    order: EvictionOrder,
    used: u64,
    held: u64,
    promised: u64,
    /// Promised, and given by the disk.
    given: u64,
    /// Promised, and to be made room for by eviction.
    evicting: HashMap<RoomOwner, u64>,
    last_tick: Tick,
    /// Whether the start-up scan has finished. Before that nothing is evicted: the index does not
    /// know yet what was used least recently.
    loaded: bool,
    /// Used since the last flush to the records.
    touched: HashSet<Slot>,
    /// What the disk would not let go of.
    stuck: HashSet<Slot>,
    retention: Retention,
    /// Bytes of what could not be fetched again.
    unfetchable: u64,
}

/// There is no room, and eviction cannot make it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

impl Index {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            entries: Entries::default(),
            order: EvictionOrder::default(),
            used: 0,
            held: 0,
            promised: 0,
            given: 0,
            evicting: HashMap::new(),
            last_tick: 0,
            loaded: false,
            touched: HashSet::new(),
            stuck: HashSet::new(),
            retention: Retention::default(),
            unfetchable: 0,
        }
    }

    /// Whether it stays whatever needs room.
    pub(super) fn is_retained(&self, digest: &Digest) -> bool {
        let entry = self.entries.find(digest).and_then(|slot| self.entries.get(slot));
        entry.is_some_and(|entry| entry.retained > 0)
    }

    /// Bytes of what is stored and stays.
    pub(super) fn retained(&self) -> u64 {
        self.retention.bytes
    }

    /// What of the limit is there for content that may go.
    fn shared_limit(&self) -> u64 {
        self.limit.saturating_sub(self.retention.bytes)
    }

    /// Bytes that can be had by eviction.
    fn evictable(&self) -> u64 {
        if self.loaded { self.used.saturating_sub(self.retention.bytes) } else { 0 }
    }

    /// Has `digest` stay, once more, whether it is stored or not.
    pub(super) fn retain(&mut self, digest: &Digest) {
        let found = self.entries.find(digest);
        let Some((slot, entry)) = found.and_then(|slot| Some((slot, self.entries.get_mut(slot)?)))
        else {
            return self.retention.want_absent(digest);
        };
        if !entry.stays() {
            self.order.remove(slot, position(entry));
            self.retention.bytes += entry.size;
        }
        entry.retained += 1;
    }

    /// Takes back one [`Index::retain`]; with the last one it stands among the others again, as it
    /// was used.
    pub(super) fn let_go(&mut self, digest: &Digest) {
        let found = self.entries.find(digest);
        let Some((slot, entry)) = found.and_then(|slot| Some((slot, self.entries.get_mut(slot)?)))
        else {
            return self.retention.let_absent_go(digest);
        };
        if entry.retained == 0 {
            return;
        }
        entry.retained -= 1;
        if !entry.stays() {
            self.retention.bytes -= entry.size;
            if !entry.stuck {
                self.order.insert(slot, position(entry));
            }
        }
    }

    /// Has `digest` stay because it could not be fetched again, or not for that any more.
    pub(super) fn set_unfetchable(&mut self, digest: &Digest, is_unfetchable: bool) {
        let Some(slot) = self.entries.find(digest) else { return };
        let Some(entry) = self.entries.get_mut(slot) else { return };
        if entry.unfetchable == is_unfetchable {
            return;
        }
        let stayed = entry.stays();
        entry.unfetchable = is_unfetchable;
        let size = entry.size;
        self.unfetchable =
            if is_unfetchable { self.unfetchable + size } else { self.unfetchable - size };
        match (stayed, entry.stays()) {
            (false, true) => {
                self.order.remove(slot, position(entry));
                self.retention.bytes += size;
            }
            (true, false) => {
                self.retention.bytes -= size;
                if !entry.stuck {
                    self.order.insert(slot, position(entry));
                }
            }
            (false, false) | (true, true) => {}
        }
    }

    /// Bytes of what could not be fetched again.
    pub(super) fn unfetchable(&self) -> u64 {
        self.unfetchable
    }

    /// Takes out so many bytes of what could not be fetched again and nobody else has stay, what was
    /// used least recently first.
    pub(super) fn last_resort(&mut self, bytes: u64) -> Vec<IndexEntry> {
        let (all, _) = self.entries.page(0, usize::MAX, |entry| {
            let may_go = entry.unfetchable && entry.retained == 0 && !entry.stuck;
            may_go.then(|| (entry.used, entry.digest()))
        });
        let mut all: Vec<_> = all.into_iter().flatten().collect();
        all.sort();
        let (mut freed, mut victims) = (0, Vec::new());
        for (_, digest) in all {
            if freed >= bytes {
                break;
            }
            self.set_unfetchable(&digest, false);
            if let Some(entry) = self.take_out(&digest) {
                freed += entry.size;
                victims.push(entry);
            }
        }
        victims
    }

    pub(super) fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    pub(super) fn used(&self) -> u64 {
        self.used
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_loaded(&self) -> bool {
        self.loaded
    }

    pub(super) fn set_loaded(&mut self) {
        self.loaded = true;
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.entries.find(digest).is_some()
    }

    /// Bytes and last use of what is stored.
    pub(super) fn find(&self, digest: &Digest) -> Option<(u64, Tick)> {
        let entry = self.entries.find(digest).and_then(|slot| self.entries.get(slot))?;
        Some((entry.size, entry.used))
    }

    /// Whether somebody has the file open, or is just publishing it.
    pub(super) fn is_open(&self, digest: &Digest) -> bool {
        let entry = self.entries.find(digest).and_then(|slot| self.entries.get(slot));
        entry.is_some_and(|entry| entry.open.strong_count() > 0)
    }

    /// A use at `now` (microseconds since the epoch) as the order has it: later than every use before,
    /// also of the same microsecond, and by a clock that was set back.
    pub(super) fn next_tick(&mut self, now: Tick) -> Tick {
        self.last_tick = now.max(self.last_tick + 1);
        self.last_tick
    }

    /// Notes a use at `now` (microseconds since the epoch); gives the open file, if a reader has
    /// one.
    pub(super) fn touch(&mut self, digest: &Digest, now: Tick, how: Use) -> Option<Weak<OpenBlob>> {
        let slot = self.entries.find(digest)?;
        let (tick, more) = (self.next_tick(now), u8::from(how == Use::Whole));
        self.stand(slot, tick, |uses| uses.saturating_add(more).min(USES_MAX));
        let entry = self.entries.get(slot)?;
        let (open, class) = (entry.open.clone(), entry.class);
        while let Some(demoted) = self.order.next_demoted(class, self.shared_limit()) {
            self.stand(demoted, tick, |_| 1);
        }
        Some(open)
    }

    /// Gives an entry its place in the order by another use.
    fn stand(&mut self, slot: Slot, tick: Tick, uses: impl FnOnce(u8) -> u8) {
        let Some(entry) = self.entries.get_mut(slot).filter(|entry| !entry.stuck) else { return };
        if entry.may_go() {
            self.order.remove(slot, position(entry));
            (entry.uses, entry.used) = (uses(entry.uses), tick);
            self.order.insert(slot, position(entry));
        } else {
            // It stands nowhere.
            (entry.uses, entry.used) = (uses(entry.uses), tick);
        }
        self.touched.insert(slot);
    }

    /// Enters content that is on disk; what is entered already stays as it is.
    pub(super) fn insert(&mut self, digest: &Digest, size: u64, class: EvictionClass, used: Tick) {
        if self.contains(digest) {
            return;
        }
        self.last_tick = self.last_tick.max(used);
        let entry = IndexEntry::new(digest, size, class, used);
        self.enter(entry);
    }

    /// Enters content that was found on disk, as it was used before.
    pub(super) fn insert_found(&mut self, size: u64, class: EvictionClass, usage: &Usage) {
        if self.contains(&usage.digest) {
            return;
        }
        self.last_tick = self.last_tick.max(usage.used);
        let mut entry = IndexEntry::new(&usage.digest, size, class, usage.used);
        entry.uses = usage.uses.clamp(1, USES_MAX);
        self.enter(entry);
    }

    fn enter(&mut self, mut entry: IndexEntry) {
        entry.retained = self.retention.enter(|| entry.digest(), entry.size);
        let (size, stuck, at, may_go) = (entry.size, entry.stuck, position(&entry), entry.may_go());
        let Some(slot) = self.entries.insert(entry) else { return };
        self.used += size;
        if stuck {
            self.stuck.insert(slot);
        }
        if may_go {
            self.order.insert(slot, at);
        }
    }

    /// Notes the open file of `digest`; whether there is such an entry.
    pub(super) fn set_open(&mut self, digest: &Digest, open: Weak<OpenBlob>) -> bool {
        let slot = self.entries.find(digest);
        let entry = slot.and_then(|slot| self.entries.get_mut(slot));
        entry.map(|entry| entry.open = open).is_some()
    }

    /// Takes `digest` out. Its bytes count as pending while a reader has them open.
    pub(super) fn remove(&mut self, digest: &Digest) -> bool {
        self.entries.find(digest).and_then(|slot| self.take(slot)).is_some()
    }

    /// Takes `digest` out, to be removed on demand, unless it is to stay.
    pub(super) fn take_out(&mut self, digest: &Digest) -> Option<IndexEntry> {
        let slot = self.entries.find(digest)?;
        let is_retained = self.entries.get(slot).is_some_and(|entry| entry.retained > 0);
        if is_retained { None } else { self.take(slot) }
    }

    /// Some of what is stored, with its size and last use, and where to go on.
    pub(super) fn page(&self, from: Slot, rows: usize) -> (Vec<(Digest, u64, Tick)>, Option<Slot>) {
        self.entries.page(from, rows, |entry| (entry.digest(), entry.size, entry.used))
    }

    fn take(&mut self, slot: Slot) -> Option<IndexEntry> {
        let entry = self.entries.remove(slot)?;
        self.order.remove(slot, position(&entry));
        if entry.unfetchable {
            self.unfetchable -= entry.size;
        }
        if entry.retained > 0 {
            self.retention.leave(entry.digest(), entry.size, entry.retained);
        } else if entry.unfetchable {
            self.retention.bytes -= entry.size;
        }
        self.touched.remove(&slot);
        self.stuck.remove(&slot);
        self.used -= entry.size;
        if let Some(open) = entry.open.upgrade() {
            open.mark_unlinked();
        }
        Some(entry)
    }

    /// Enters again what could not be removed: its bytes are still there, and as good as before.
    pub(super) fn put_back(&mut self, mut victim: IndexEntry) {
        (victim.stuck, victim.unfetchable) = (true, false);
        if !self.contains(&victim.digest()) {
            self.enter(victim);
        }
    }

    /// Takes out what the disk would not let go of, to be tried again.
    pub(super) fn take_stuck(&mut self) -> Vec<IndexEntry> {
        let stuck: Vec<Slot> = self.stuck.drain().collect();
        stuck.into_iter().filter_map(|slot| self.take(slot)).collect()
    }

    /// Bytes of the largest content that is stored (DESIGN §14.10).
    pub(super) fn largest(&self) -> u64 {
        self.limit / 2
    }

    /// Promises `more` bytes, without evicting anything for them yet; whether they find room as it
    /// is.
    ///
    /// # Errors
    /// [`NoRoom`] if nothing can be written, if that is more than half of the limit, if its owner's promises would drive out
    /// more than half, or if removing everything would not do.
    pub(super) fn promise(
        &mut self,
        promise: &mut Promise,
        more: u64,
        disk: Disk,
    ) -> Result<bool, NoRoom> {
        if disk.read_only || promise.bytes.saturating_add(more) > self.largest() {
            return Err(NoRoom);
        }
        let disk = if self.loaded { disk } else { Disk { pending: 0, ..disk } };
        let asked = self.promised - self.given + more;
        let staying = self.promised + more + disk.records;
        if staying > self.shared_limit() || disk.shortage(asked) > self.evictable() {
            return Err(NoRoom);
        }
        let free = self.limit.saturating_sub(self.used + self.promised + disk.records);
        let evicting = more.saturating_sub(free);
        let of_owner = self.evicting.get(&promise.owner).copied().unwrap_or(0) + evicting;
        if evicting > 0 && of_owner > self.largest() {
            return Err(NoRoom);
        }
        if evicting > 0 {
            self.evicting.insert(promise.owner, of_owner);
            promise.evicting += evicting;
        }
        self.promised += more;
        promise.bytes += more;
        Ok(self.used + self.promised + disk.records <= self.limit && disk.shortage(asked) == 0)
    }

    /// The disk has given all bytes of the promise.
    pub(super) fn note_given(&mut self, promise: &mut Promise) {
        self.given += promise.bytes - promise.given;
        promise.given = promise.bytes;
    }

    /// Holds `more` bytes of the promise, which are about to be written, and names what has to be
    /// removed for them, already taken out of the index.
    ///
    /// # Errors
    /// [`NoRoom`] if the disk has meanwhile been filled by others.
    pub(super) fn hold(
        &mut self,
        promise: &mut Promise,
        more: u64,
        disk: Disk,
    ) -> Result<Vec<IndexEntry>, NoRoom> {
        let asked = (promise.held + more).saturating_sub(promise.given);
        let disk = if asked == 0 { Disk { keep_free: 0, ..disk } } else { disk };
        // What stays may have become more since it was promised.
        let staying = self.held + more + disk.records;
        let is_too_much = self.retention.bytes > 0 && staying > self.shared_limit();
        if is_too_much || disk.shortage(asked) > self.evictable() {
            return Err(NoRoom);
        }
        self.given += asked;
        promise.given += asked;
        self.held += more;
        promise.held += more;
        let victims = self.evict(disk, asked);
        promise.evicted += victims.iter().map(|victim| victim.size).sum::<u64>();
        // A piece of what is promised as it comes may drive out what is far larger than it.
        let more = promise.evicted.saturating_sub(promise.evicting);
        if more > 0 {
            promise.evicting += more;
            *self.evicting.entry(promise.owner).or_default() += more;
        }
        Ok(victims)
    }

    /// Names what has to be removed until the limit and the disk's reserve are met.
    pub(super) fn excess(&mut self, disk: Disk) -> Vec<IndexEntry> {
        self.evict(disk, 0)
    }

    /// Before the scan is done nothing is evicted; the cap is met once it is.
    fn evict(&mut self, disk: Disk, more: u64) -> Vec<IndexEntry> {
        let mut victims = Vec::new();
        if !self.loaded || disk.read_only {
            return victims;
        }
        let ours = (self.used + self.held + disk.records).saturating_sub(self.limit);
        let short = ours.max(disk.shortage(more));
        let mut freed = 0;
        while (freed < short || victims.len() < disk.files_short)
            && let Some(victim) = self.order.next_victim(self.shared_limit(), self.last_tick)
            && let Some(entry) = self.take(victim)
        {
            freed += entry.size;
            victims.push(entry);
        }
        victims
    }

    /// Ends a promise.
    pub(super) fn release(&mut self, promise: &Promise) {
        self.promised -= promise.bytes;
        self.held -= promise.held;
        self.given -= promise.given;
        if let Entry::Occupied(mut of_owner) = self.evicting.entry(promise.owner) {
            *of_owner.get_mut() -= promise.evicting;
            if *of_owner.get() == 0 {
                of_owner.remove();
            }
        }
    }

    /// The uses since the last call, for the records.
    pub(super) fn take_touched(&mut self) -> Vec<Usage> {
        let touched: Vec<Slot> = self.touched.drain().collect();
        let entries = touched.into_iter().filter_map(|slot| self.entries.get(slot));
        let usage = |entry: &IndexEntry| Usage {
            digest: entry.digest(),
            used: entry.used,
            uses: entry.uses,
        };
        entries.map(usage).collect()
    }

    /// Bytes that content may take in all, by our own limit and by the disk's.
    pub(super) fn effective_limit(&self, disk: Disk) -> u64 {
        let free = disk.available.saturating_add(disk.pending).saturating_sub(disk.keep_free);
        self.limit.saturating_sub(disk.records).min((self.used + self.held).saturating_add(free))
    }
}

fn position(entry: &IndexEntry) -> QueuePosition {
    let IndexEntry { class, uses, used, size, .. } = *entry;
    QueuePosition { class, uses, used, size }
}

impl Disk {
    fn shortage(self, size: u64) -> u64 {
        size.saturating_add(self.keep_free)
            .saturating_sub(self.available.saturating_add(self.pending))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::Algorithm;

    const ROOMY: Disk = Disk {
        available: u64::MAX / 4,
        keep_free: 0,
        pending: 0,
        files_short: 0,
        records: 0,
        read_only: false,
    };

    fn digest(n: u64) -> Digest {
        Digest::of(Algorithm::Sha256, &n.to_le_bytes())
    }

    fn loaded(limit: u64) -> Index {
        let mut index = Index::new(limit);
        index.set_loaded();
        index
    }

    /// What goes for `size` bytes that are promised, held, and left again.
    fn evicted_for(index: &mut Index, size: u64, disk: Disk) -> Result<Vec<Digest>, NoRoom> {
        let mut promise = Promise::default();
        let went = index
            .promise(&mut promise, size, disk)
            .and_then(|_| index.hold(&mut promise, size, disk));
        index.release(&promise);
        Ok(went?.iter().map(IndexEntry::digest).collect())
    }

    fn store(index: &mut Index, n: u64, size: u64, class: EvictionClass, now: Tick) {
        evicted_for(index, size, ROOMY).expect("it can be stored");
        index.insert(&digest(n), size, class, now);
    }

    #[test]
    fn the_least_recently_used_goes_first_and_manifests_last() {
        let mut index = loaded(400);
        index.insert(&digest(1), 40, EvictionClass::Manifest, 1);
        index.insert(&digest(2), 150, EvictionClass::Blob, 2);
        index.insert(&digest(3), 150, EvictionClass::Blob, 3);
        index.touch(&digest(2), 10, Use::Part);
        assert_eq!(evicted_for(&mut index, 80, ROOMY), Ok(vec![digest(3)]));
        assert_eq!(evicted_for(&mut index, 200, ROOMY), Ok(vec![]));
        index.insert(&digest(4), 60, EvictionClass::Blob, 4);
        assert_eq!(evicted_for(&mut index, 160, ROOMY), Ok(vec![digest(4)]));
        index.insert(&digest(5), 60, EvictionClass::Manifest, 5);
        assert_eq!(evicted_for(&mut index, 160, ROOMY), Ok(vec![digest(1)]), "too many of them");
    }

    #[test]
    fn a_promise_evicts_nothing_until_its_bytes_come() {
        let mut index = loaded(100);
        for n in 0..10 {
            index.insert(&digest(n), 10, EvictionClass::Blob, n);
        }
        let of = |owner| Promise { owner: RoomOwner::of(&owner), ..Promise::default() };
        let mut promises = [of("a"), of("b")];
        for promise in &mut promises {
            assert_eq!(index.promise(promise, 50, ROOMY), Ok(false));
        }
        assert_eq!(index.promise(&mut Promise::default(), 1, ROOMY), Err(NoRoom));
        assert_eq!(index.len(), 10);
        let went = index.hold(&mut promises[0], 1, ROOMY).expect("it was promised");
        assert_eq!((went.len(), index.used), (1, 90));
        for promise in &mut promises {
            index.hold(promise, 50 - promise.held, ROOMY).expect("it was promised");
        }
        assert_eq!((index.len(), index.used, index.held), (0, 0, 100));
        for promise in &promises {
            index.release(promise);
        }
        assert_eq!((index.promised, index.held, index.given), (0, 0, 0));
    }

    #[test]
    fn what_one_owner_has_in_flight_drives_out_half_and_leaves_the_rest_to_others() {
        let mut index = loaded(100);
        for n in 0..8 {
            index.insert(&digest(n), 10, EvictionClass::Blob, n);
        }
        let of = |owner| Promise { owner: RoomOwner::of(&owner), ..Promise::default() };
        let mut promises = [of("a"), of("a"), of("a"), of("b")];
        assert_eq!(index.promise(&mut promises[0], 40, ROOMY), Ok(false), "20 of them are free");
        assert_eq!(index.promise(&mut promises[1], 30, ROOMY), Ok(false));
        assert_eq!(index.promise(&mut promises[2], 1, ROOMY), Err(NoRoom));
        assert_eq!(index.promise(&mut promises[3], 30, ROOMY), Ok(false));
        index.release(&std::mem::take(&mut promises[1]));
        assert_eq!(index.promise(&mut promises[2], 30, ROOMY), Ok(false), "one has ended");
        for promise in &promises {
            index.release(promise);
        }
        assert!(index.evicting.is_empty());
    }

    #[test]
    fn whoever_has_driven_out_more_than_half_may_have_what_is_free() {
        let mut index = loaded(100);
        index.insert(&digest(1), 60, EvictionClass::Blob, 1);
        let of = |owner| Promise { owner: RoomOwner::of(&owner), ..Promise::default() };
        let [mut first, mut second] = [of("a"), of("a")];
        assert_eq!(index.promise(&mut first, 45, ROOMY), Ok(false));
        assert_eq!(index.hold(&mut first, 45, ROOMY).map(|went| went.len()), Ok(1), "60 for 5");
        assert_eq!(index.promise(&mut second, 50, ROOMY), Ok(true), "55 are free");
        assert_eq!(index.promise(&mut of("a"), 6, ROOMY), Err(NoRoom), "one too many");
    }

    #[test]
    fn more_than_half_of_the_limit_is_never_stored() {
        let mut index = loaded(100);
        let mut promise = Promise::default();
        assert_eq!(index.promise(&mut promise, 51, ROOMY), Err(NoRoom));
        assert_eq!(index.promise(&mut promise, 50, ROOMY), Ok(true));
        assert_eq!(index.promise(&mut promise, 1, ROOMY), Err(NoRoom), "not in steps either");
    }

    #[test]
    fn a_disk_below_its_reserve_evicts_although_the_limit_would_hold() {
        let mut index = loaded(1000);
        index.insert(&digest(1), 100, EvictionClass::Blob, 1);
        let tight = Disk { available: 150, keep_free: 100, ..ROOMY };
        assert_eq!(evicted_for(&mut index, 60, tight), Ok(vec![digest(1)]));
        let full = Disk { available: 90, keep_free: 100, ..ROOMY };
        assert_eq!(evicted_for(&mut index, 60, full), Err(NoRoom));
    }

    #[test]
    fn promised_bytes_that_the_disk_has_not_given_yet_are_not_promised_again() {
        let mut index = loaded(1000);
        let disk = Disk { available: 100, ..ROOMY };
        let mut first = Promise::default();
        assert_eq!(index.promise(&mut first, 60, disk), Ok(true));
        assert_eq!(index.promise(&mut Promise::default(), 60, disk), Err(NoRoom));
        index.note_given(&mut first);
        let disk = Disk { available: 40, ..ROOMY };
        assert_eq!(index.promise(&mut Promise::default(), 41, disk), Err(NoRoom));
        assert_eq!(index.promise(&mut Promise::default(), 40, disk), Ok(true));
        let none = Disk { available: 0, keep_free: 10, ..ROOMY };
        assert!(index.hold(&mut first, 60, none).is_ok(), "the disk has given it");
    }

    #[test]
    fn before_the_scan_is_done_nothing_is_evicted() {
        let mut index = Index::new(100);
        index.insert(&digest(1), 90, EvictionClass::Blob, 1);
        assert_eq!(evicted_for(&mut index, 50, ROOMY), Ok(vec![]));
        assert!(index.contains(&digest(1)));
        let full = Disk { available: 40, ..ROOMY };
        assert_eq!(evicted_for(&mut index, 50, full), Err(NoRoom));
    }

    #[test]
    fn records_count_against_the_limit() {
        let mut index = loaded(100);
        index.insert(&digest(1), 50, EvictionClass::Blob, 1);
        let records = |records| Disk { records, ..ROOMY };
        assert_eq!(evicted_for(&mut index, 40, records(10)), Ok(vec![]));
        assert_eq!(evicted_for(&mut index, 40, records(11)), Ok(vec![digest(1)]));
        assert_eq!(evicted_for(&mut index, 40, records(61)), Err(NoRoom));
    }

    #[test]
    fn files_go_where_no_more_can_be_made() {
        let mut index = loaded(1000);
        for n in 0..10 {
            index.insert(&digest(n), 1, EvictionClass::Blob, n);
        }
        let none_left = Disk { files_short: 3, ..ROOMY };
        let went = evicted_for(&mut index, 1, none_left).expect("there is room");
        assert_eq!(went, [digest(0), digest(1), digest(2)]);
    }

    #[test]
    fn what_cannot_be_removed_counts_stays_and_is_no_victim_until_it_is_tried_again() {
        let mut index = loaded(100);
        for n in 0..10 {
            index.insert(&digest(n), 10, EvictionClass::Blob, n);
        }
        let mut promise = Promise::default();
        index.promise(&mut promise, 10, ROOMY).expect("it fits");
        for victim in index.hold(&mut promise, 10, ROOMY).expect("it was promised") {
            index.put_back(victim);
        }
        assert_eq!((index.used, index.contains(&digest(0))), (100, true));
        assert!(index.touch(&digest(0), 50, Use::Whole).is_some(), "and it is served");
        let others = index.excess(ROOMY);
        assert_eq!(others.iter().map(IndexEntry::digest).collect::<Vec<_>>(), [digest(1)]);
        let again = index.take_stuck();
        assert_eq!(again.iter().map(IndexEntry::digest).collect::<Vec<_>>(), [digest(0)]);
        assert_eq!(index.used, 80);
    }

    /// RELIABILITY D-9. The pattern of the second tenant is its hot set, over and over.
    #[test]
    fn a_hundred_times_the_cache_pulled_once_or_twice_leaves_others_four_fifths_of_their_hits() {
        for pulls in [1, 2, 3] {
            let mut index = loaded(1000);
            let (mut hits, mut asked) = (0, 0);
            for now in 0..10_000_u64 {
                let hot = now % 70;
                let known = index.touch(&digest(hot), now, Use::Whole).is_some();
                if !known {
                    store(&mut index, hot, 10, EvictionClass::Blob, now);
                }
                if now >= 700 {
                    (hits, asked) = (hits + u64::from(known), asked + 1);
                    store(&mut index, 1000 + now, 11, EvictionClass::Blob, now);
                    for _ in 1..pulls {
                        index.touch(&digest(1000 + now), now, Use::Whole);
                    }
                }
            }
            assert!(hits * 5 >= asked * 4, "{pulls} pulls of each: {hits} of {asked}");
        }
    }

    #[test]
    fn what_is_used_no_more_makes_room_for_what_is() {
        const DAY: Tick = 24 * 3600 * 1_000_000;
        let mut index = loaded(1000);
        let mut kept = [0; 3];
        for (day, blobs) in [(0, 0..80), (1, 100..180), (3, 100..180)] {
            let mut now = DAY * day;
            for n in std::iter::repeat_n(blobs, 20).flatten() {
                now += 1;
                if index.touch(&digest(n), now, Use::Whole).is_some() {
                    kept[usize::try_from(day).expect("small").min(2)] += 1;
                } else {
                    store(&mut index, n, 10, EvictionClass::Blob, now);
                }
            }
        }
        assert!(kept[0] >= 19 * 80 && kept[2] >= 19 * 80, "{kept:?}");
    }

    /// A search for a free moment would take minutes for these.
    #[test]
    fn many_that_were_never_used_are_entered_and_evicted_like_others() {
        let mut index = loaded(200_000);
        for n in 0..100_000 {
            index.insert(&digest(n), 1, EvictionClass::Blob, 0);
        }
        assert_eq!((index.used(), index.len(), index.order.len()), (100_000, 100_000, 100_000));
        let mut promises = [Promise::default(), Promise::default()];
        for promise in &mut promises {
            index.promise(promise, 50_005, ROOMY).expect("it fits");
            index.hold(promise, 50_005, ROOMY).expect("it was promised");
        }
        assert_eq!((index.used(), index.len()), (99_990, 99_990));
    }

    proptest! {
        #[test]
        fn the_limit_holds_and_the_sums_agree(
            steps in prop::collection::vec((0_u64..40, 1_u64..60, any::<bool>()), 1..200)
        ) {
            let mut index = loaded(100);
            for (now, (n, size, publish)) in steps.into_iter().enumerate() {
                if index.touch(&digest(n), now as u64, Use::Whole).is_some() {
                    continue;
                }
                if let Ok(victims) = evicted_for(&mut index, size, ROOMY) {
                    prop_assert!(victims.iter().all(|victim| !index.contains(victim)));
                    if publish {
                        index.insert(&digest(n), size, EvictionClass::Blob, now as u64);
                    }
                }
                prop_assert!(index.used <= 100);
                let sizes: u64 = (0..40).filter_map(|n| index.entries.find(&digest(n)))
                    .filter_map(|slot| index.entries.get(slot)).map(|entry| entry.size).sum();
                prop_assert_eq!(index.used, sizes);
                prop_assert_eq!(index.order.len(), index.entries.len());
            }
        }
    }
}
