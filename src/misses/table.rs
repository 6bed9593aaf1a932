//! The journal in memory, and what has to make way when it is full. Pure.
//!
//! Names are what clients make up, so one of them could fill it. What goes is of whoever has most of
//! it, and of that what was wanted least: nobody pushes out what others have missed.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};

use super::miss::{MissKey, MissRecord, MissedBy};
use crate::clock::Timestamp;

#[derive(Debug)]
pub(super) struct MissTable {
    max: usize,
    rows: HashMap<MissKey, MissRecord>,
    /// How many of them each has.
    shares: HashMap<u64, usize>,
    /// Rows that had to make way.
    lost: u64,
    /// What has changed since it was written down last, gone rows too.
    changed: HashSet<MissKey>,
    has_lost_more: bool,
    /// How often something was noted.
    noted: u64,
}

/// What is to be written down.
#[derive(Debug, Default)]
pub(super) struct MissChanges {
    /// Without a record: it is gone.
    pub(super) rows: Vec<(MissKey, Option<MissRecord>)>,
    /// How many were lost in all, if that has changed.
    pub(super) lost: Option<u64>,
}

impl MissTable {
    pub(super) fn new(max: usize) -> Self {
        let (rows, shares, changed) = (HashMap::new(), HashMap::new(), HashSet::new());
        Self { max, rows, shares, lost: 0, changed, has_lost_more: false, noted: 0 }
    }

    /// Notes that it was wanted; whether nobody had wanted it before.
    pub(super) fn note(&mut self, key: MissKey, by: MissedBy, now: Timestamp) -> bool {
        self.noted += 1;
        self.changed.insert(key.clone());
        match self.rows.entry(key) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.count += 1;
                known.last = now;
                if !known.kinds.contains(by.kind) {
                    known.kinds.insert(by.kind.to_owned());
                }
                false
            }
            Entry::Vacant(new) => {
                let kinds = BTreeSet::from([by.kind.to_owned()]);
                let (first, last, owner) = (now, now, by.owner);
                new.insert(MissRecord { first, last, count: 1, kinds, owner });
                *self.shares.entry(owner).or_default() += 1;
                self.make_way();
                true
            }
        }
    }

    /// Enters what was written down before.
    pub(super) fn enter(&mut self, key: MissKey, record: Option<MissRecord>) {
        self.remove(&key);
        if let Some(record) = record {
            *self.shares.entry(record.owner).or_default() += 1;
            self.rows.insert(key, record);
            self.make_way();
        }
        self.changed.clear();
    }

    pub(super) fn set_lost(&mut self, lost: u64) {
        (self.lost, self.has_lost_more) = (lost, false);
    }

    fn make_way(&mut self) {
        while self.rows.len() > self.max {
            let most = self.shares.iter().max_by_key(|(owner, rows)| (**rows, **owner));
            let Some(owner) = most.map(|(owner, _)| *owner) else { return };
            let of_owner = self.rows.iter().filter(|(_, record)| record.owner == owner);
            let least = of_owner.min_by_key(|(key, record)| (record.count, record.last, *key));
            let Some(key) = least.map(|(key, _)| key.clone()) else { return };
            self.remove(&key);
            self.lost += 1;
            self.has_lost_more = true;
        }
    }

    fn remove(&mut self, key: &MissKey) {
        let Some(record) = self.rows.remove(key) else { return };
        self.changed.insert(key.clone());
        if let Entry::Occupied(mut share) = self.shares.entry(record.owner) {
            *share.get_mut() -= 1;
            if *share.get() == 0 {
                share.remove();
            }
        }
    }

    /// Forgets what was not wanted after `time`, and that some were lost.
    pub(super) fn clear(&mut self, time: Timestamp) {
        let old = self.rows.iter().filter(|(_, record)| record.last <= time);
        let old: Vec<_> = old.map(|(key, _)| key.clone()).collect();
        for key in &old {
            self.remove(key);
        }
        (self.lost, self.has_lost_more) = (0, true);
    }

    /// How many rows there are, and how many were lost.
    pub(super) fn counts(&self) -> (usize, u64) {
        (self.rows.len(), self.lost)
    }

    pub(super) fn noted(&self) -> u64 {
        self.noted
    }

    /// Every row, in order, and how many were lost.
    pub(super) fn list(&self) -> (Vec<(MissKey, MissRecord)>, u64) {
        let rows = self.rows.iter().map(|(key, record)| (key.clone(), record.clone()));
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by(|(one, _), (other, _)| one.cmp(other));
        (rows, self.lost)
    }

    pub(super) fn take_changes(&mut self) -> MissChanges {
        let changed = std::mem::take(&mut self.changed);
        let rows = changed.into_iter().map(|key| {
            let record = self.rows.get(&key).cloned();
            (key, record)
        });
        let rows = rows.collect();
        let lost = std::mem::take(&mut self.has_lost_more).then_some(self.lost);
        MissChanges { rows, lost }
    }

    /// These could not be written down.
    pub(super) fn put_back(&mut self, changes: MissChanges) {
        self.changed.extend(changes.rows.into_iter().map(|(key, _)| key));
        self.has_lost_more |= changes.lost.is_some();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::misses::MissedThing;
    use crate::oci::{CanonicalName, Tag};

    fn key(tag: &str) -> MissKey {
        let name = CanonicalName::parse("docker.io/a/b").expect("a name");
        MissKey { name, thing: MissedThing::Tag(Tag::parse(tag).expect("a tag")) }
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(Duration::from_secs(seconds))
    }

    fn tags(table: &MissTable) -> Vec<String> {
        let tag = |(key, _): &(MissKey, MissRecord)| match &key.thing {
            MissedThing::Tag(tag) => tag.to_string(),
            MissedThing::Manifest(digest) | MissedThing::Blob(digest) => panic!("{digest}"),
        };
        table.list().0.iter().map(tag).collect()
    }

    #[test]
    fn nobody_pushes_out_what_others_have_missed() {
        let mut table = MissTable::new(10);
        let (few, many) = (MissedBy::new("user", &1), MissedBy::new("licence", &2));
        for n in 0..3 {
            assert!(table.note(key(&format!("few{n}")), few, at(0)));
        }
        for n in 0..1000 {
            table.note(key(&format!("many{n:04}")), many, at(1 + n));
        }
        let kept = tags(&table);
        assert_eq!(kept[..3], ["few0", "few1", "few2"]);
        assert_eq!((kept.len(), &*kept[9], table.list().1), (10, "many0999", 993));
        // Nor does one who comes later get nothing.
        assert!(table.note(key("late"), MissedBy::new("user", &3), at(0)));
        assert!(tags(&table).contains(&"late".to_owned()));
    }

    #[test]
    fn what_is_wanted_again_stays() {
        let mut table = MissTable::new(3);
        let by = MissedBy::new("anonymous", &1);
        for time in 0..2 {
            assert_eq!(table.note(key("often"), by, at(time)), time == 0);
        }
        for n in 0..10 {
            table.note(key(&format!("once{n}")), by, at(5 + n));
        }
        assert_eq!(tags(&table), ["often", "once8", "once9"]);
        let record = &table.list().0[0].1;
        assert_eq!((record.count, record.first, record.last), (2, at(0), at(1)));
    }

    #[test]
    fn what_was_wanted_since_is_not_forgotten() {
        let mut table = MissTable::new(3);
        let by = MissedBy::new("anonymous", &1);
        table.note(key("a"), by, at(1));
        table.note(key("b"), by, at(5));
        drop(table.take_changes());
        table.clear(at(4));
        assert_eq!(tags(&table), ["b"]);
        let changes = table.take_changes();
        assert_eq!((changes.rows, changes.lost), (vec![(key("a"), None)], Some(0)));
        assert!(table.take_changes().rows.is_empty());
    }
}
