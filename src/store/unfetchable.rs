//! What could not be fetched again, because only sealed upstreams have sent it: it stays, whatever
//! needs room, unless the file system itself is at its end (SEAL-8).
//!
//! Who has sent what stands in the records. It is gone through when the index is loaded, when an
//! upstream is sealed or opened by its configuration, and now and then, for what has come meanwhile.

use std::collections::HashSet;

use rusqlite::params;

use super::database::{Database, Result as Rows};
use super::facts::Senders;
use super::{BlobStore, Error, StoreInner, lock};
use crate::oci::{Digest, UpstreamName};

/// Rows that are read at once.
const PAGE: usize = 1000;

/// Upstreams by whether anything can be fetched from them. An open window changes nothing: it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SendersInReach {
    pub sealed: HashSet<UpstreamName>,
    pub open: HashSet<UpstreamName>,
}

impl SendersInReach {
    /// Whether what these have sent could not be fetched again. Nobody misses what only upstreams
    /// have sent that are not configured any more.
    fn lacks(&self, senders: &Senders) -> bool {
        let is_any_of = |names: &HashSet<UpstreamName>| {
            senders.upstreams.iter().any(|sender| names.contains(sender))
        };
        let is_unknown = senders.upstreams.is_empty();
        !is_any_of(&self.open) && (is_any_of(&self.sealed) || is_unknown) && !self.sealed.is_empty()
    }
}

impl BlobStore {
    /// From now on, what only sealed upstreams have sent stays; blocks.
    pub fn set_reach(&self, reach: SendersInReach) {
        let shared = &self.0;
        let has_changed = {
            let mut known = lock(&shared.reach);
            std::mem::replace(&mut *known, reach) != *known
        };
        if has_changed && shared.index().is_loaded() {
            shared.tolerate(shared.judge_reach());
            shared.report();
        }
    }
}

impl StoreInner {
    /// Marks everything that is stored by whether it could be fetched again.
    pub(super) fn judge_reach(&self) -> Result<(), Error> {
        let reach = lock(&self.reach).clone();
        if reach.sealed.is_empty() && self.index().unfetchable() == 0 {
            return Ok(());
        }
        let mut last = String::new();
        loop {
            let page = self.records.page(|database| database.senders_after(&last))?;
            let Some((end, _)) = page.last() else { return Ok(()) };
            end.as_str().clone_into(&mut last);
            let mut index = self.index();
            for (digest, senders) in &page {
                index.set_unfetchable(digest, reach.lacks(senders));
            }
        }
    }

    /// Removes what cannot be fetched again, least used first, if less than half of `min_free` is
    /// free, all else has gone, and other files than ours must be what takes the disk.
    pub(super) fn relieve_disk(&self) -> Result<(), Error> {
        let disk = self.disk()?;
        let needed = disk.keep_free / 2;
        let free = disk.available.saturating_add(disk.pending);
        if free >= needed || self.index().unfetchable() == 0 {
            return Ok(());
        }
        // First what can be fetched again.
        drop(self.meet_limit());
        let free = self.disk()?.available.saturating_add(disk.pending);
        let victims = self.index().last_resort(needed.saturating_sub(free));
        if victims.is_empty() {
            return Ok(());
        }
        let removed = self.evict(victims, "emergency");
        tracing::error!(
            files = removed.files,
            bytes = removed.bytes,
            "the disk is nearly full: content of sealed upstreams was removed, which cannot be \
             fetched again"
        );
        self.report();
        Ok(())
    }
}

impl Database {
    /// Who has sent what, from behind this digest on.
    fn senders_after(&self, last: &str) -> Rows<Vec<(Digest, Senders)>> {
        let select = "SELECT digest, senders FROM blobs WHERE digest > ?1 ORDER BY digest LIMIT ?2";
        let mut select = self.connection().prepare_cached(select)?;
        let rows = select.query_map(params![last, PAGE], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        let read = |(digest, senders): (String, String)| {
            Some((Digest::parse(&digest).ok()?, Senders::parse(&senders)))
        };
        Ok(rows.collect::<Rows<Vec<_>>>()?.into_iter().filter_map(read).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;
    use crate::store::ContentSender;
    use crate::store::entries::IndexEntry;
    use crate::store::index::{Disk, Index, NoRoom, Promise, Use};
    use crate::store::order::EvictionClass;

    const ROOMY: Disk = Disk {
        available: u64::MAX / 4,
        keep_free: 0,
        pending: 0,
        files_short: 0,
        records: 0,
        read_only: false,
    };

    fn name(name: &str) -> UpstreamName {
        UpstreamName::parse(name).expect("a name")
    }

    #[test]
    fn what_an_open_upstream_has_sent_too_can_be_fetched_again() {
        let of = |names: &[&str]| {
            let mut senders = Senders::default();
            for sender in names {
                senders.add(&ContentSender { upstream: name(sender), is_public: false });
            }
            senders
        };
        let reach = |sealed: &[&str]| SendersInReach {
            sealed: sealed.iter().map(|sealed| name(sealed)).collect(),
            open: HashSet::from([name("open.test")]),
        };
        for (senders, lacks) in [
            (&["sealed.test"][..], true),
            (&["sealed.test", "open.test"], false),
            (&["open.test"], false),
            (&["sealed.test", "gone.test"], true),
            (&["gone.test"], false),
            (&[], true),
        ] {
            assert_eq!(reach(&["sealed.test"]).lacks(&of(senders)), lacks, "{senders:?}");
            assert!(!reach(&[]).lacks(&of(senders)), "{senders:?}");
        }
    }

    #[test]
    fn what_cannot_be_fetched_again_goes_last_and_only_in_need() {
        let digest = |n: u64| Digest::of(Algorithm::Sha256, &n.to_le_bytes());
        let mut index = Index::new(100);
        index.set_loaded();
        for n in 0..10 {
            index.insert(&digest(n), 10, EvictionClass::Blob, n);
        }
        for n in 0..8 {
            index.set_unfetchable(&digest(n), true);
            index.set_unfetchable(&digest(n), true);
        }
        index.touch(&digest(0), 50, Use::Whole);
        let mut promise = Promise::default();
        assert_eq!(index.promise(&mut promise, 30, ROOMY), Err(NoRoom));
        index.promise(&mut promise, 20, ROOMY).expect("these may go");
        let went = index.hold(&mut promise, 20, ROOMY).expect("room");
        assert_eq!(went.iter().map(IndexEntry::digest).collect::<Vec<_>>(), [8, 9].map(digest));
        index.release(&promise);
        assert!(index.excess(Disk { keep_free: 10, available: 0, ..ROOMY }).is_empty());
        // What is pinned does not go even then.
        index.retain(&digest(1));
        let went = index.last_resort(15);
        assert_eq!(went.iter().map(IndexEntry::digest).collect::<Vec<_>>(), [2, 3].map(digest));
        assert_eq!((index.unfetchable(), index.retained(), index.used()), (60, 60, 60));
        index.let_go(&digest(1));
        assert_eq!(index.retained(), 60, "it is still not to be had");
        // An operator may remove it, and a seal that is off leaves it among the others.
        assert!(index.take_out(&digest(4)).is_some());
        index.set_unfetchable(&digest(5), false);
        assert_eq!((index.unfetchable(), index.retained(), index.used()), (40, 40, 50));
        index.insert(&digest(20), 50, EvictionClass::Blob, 90);
        let mut promise = Promise::default();
        index.promise(&mut promise, 10, ROOMY).expect("what may go makes room");
        let went = index.hold(&mut promise, 10, ROOMY).expect("room");
        assert_eq!(went.iter().map(IndexEntry::digest).collect::<Vec<_>>(), [digest(5)]);
    }
}
