//! What is made of a file that was read, and what is done about it.
//!
//! A check goes on beside publishes and evictions. So whatever is found is looked at once more in
//! the step that would change something, with the names locked: it has to be the same file, and
//! still be counted. Else it is no finding.

use std::io;

use super::finding::{Defect, Finding, Remedy};
use super::reading::{CheckedFile, FileIdentity, Lying};
use crate::oci::Digest;
use crate::shortage::is_shortage;
use crate::store::order::EvictionClass;
use crate::store::{Error, StoreInner, lock, premises, tick};

/// How far the check of a place has come.
#[derive(Debug)]
pub(super) enum Progress {
    Place(Digest),
    Inside(Box<CheckedFile>),
    Done(Looked),
}

/// What came of a look at one place.
#[derive(Debug, Default)]
pub(super) struct Looked {
    pub(super) finding: Option<Finding>,
    /// The length of the file there, and what the disk has given for it.
    pub(super) file: Option<(u64, u64)>,
}

impl Progress {
    /// Reads on by one piece, and judges at the end; how many bytes were read. Blocks.
    pub(super) fn go_on(self, shared: &StoreInner, buffer: &mut [u8], repair: bool) -> (Self, u64) {
        let done = |finding| (Self::Done(Looked { finding, file: None }), 0);
        let mut reading = match self {
            Self::Place(digest) => match shared.open_to_check(&digest) {
                Lying::Nothing => return done(shared.judge_nothing(&digest, repair)),
                Lying::Wrong(defect, seen) => {
                    return done(shared.judge_wrong(&digest, defect, seen, repair));
                }
                Lying::File(reading) => reading,
            },
            Self::Inside(reading) => reading,
            Self::Done(_) => return (self, 0),
        };
        let read = reading.read_on(buffer);
        let bytes = *read.as_ref().unwrap_or(&0);
        if read.is_ok() && !reading.is_at_the_end() {
            return (Self::Inside(reading), bytes);
        }
        let file = Some((reading.stamp.size, reading.allocated));
        let finding = shared.judge(&reading, read.err(), repair);
        (Self::Done(Looked { finding, file }), bytes)
    }
}

impl StoreInner {
    /// Judges a file that was read to its end, or could not be.
    fn judge(
        &self,
        reading: &CheckedFile,
        failed: Option<io::Error>,
        repair: bool,
    ) -> Option<Finding> {
        let digest = &reading.digest;
        if !reading.is_unchanged() {
            return None;
        }
        if let Some(error) = failed {
            let seen = (!is_shortage(&error)).then_some(reading.identity);
            return self.judge_wrong(digest, Defect::Unreadable(error.to_string()), seen, repair);
        }
        let actual = reading.actual();
        if actual != *digest {
            let defect = Defect::WrongContent { size: reading.stamp.size, actual };
            return self.judge_wrong(digest, defect, Some(reading.identity), repair);
        }
        if let Some(owner) = reading.foreign {
            return Some(self.judge_foreign(reading, owner, repair));
        }
        if reading.in_use { None } else { self.judge_record(reading, repair) }
    }

    /// Wrong content goes, so that the next request fetches it; what was not seen cannot.
    fn judge_wrong(
        &self,
        digest: &Digest,
        defect: Defect,
        seen: Option<FileIdentity>,
        repair: bool,
    ) -> Option<Finding> {
        let names = lock(&self.names);
        if seen.is_some_and(|seen| !self.is_still_there(digest, seen)) {
            return None;
        }
        let mut finding = self.finding(&self.layout.blob(digest), Some(digest.clone()), defect);
        if !repair {
            return Some(finding);
        }
        if seen.is_none() {
            finding.remedy = Remedy::Failed("it cannot be looked at".to_owned());
            return Some(finding);
        }
        // Nobody gets it any more, whether it can be removed or not.
        self.index().remove(digest);
        let removed = self.clear_place(digest, &finding.defect);
        drop(names);
        self.metrics.store.corrupt.inc();
        match removed {
            Ok(()) => {
                finding.remedy = Remedy::Done("removed; it is fetched again when it is asked for");
                self.after_unlinking(std::slice::from_ref(digest));
            }
            Err(error) => finding.remedy = self.failed(&error),
        }
        tracing::error!(%digest, defect = %finding.defect, remedy = ?finding.remedy,
            "a stored blob was found damaged");
        Some(finding)
    }

    /// A folder goes if it is empty; what lies in it is not ours.
    fn clear_place(&self, digest: &Digest, defect: &Defect) -> Result<(), Error> {
        let path = self.layout.blob(digest);
        if matches!(defect, Defect::InTheWay(_)) && path.is_dir() && !path.is_symlink() {
            return std::fs::remove_dir(&path).map_err(Error::file("remove", &path));
        }
        self.unlink_name(digest)
    }

    /// Nothing lies where something is recorded or counted.
    fn judge_nothing(&self, digest: &Digest, repair: bool) -> Option<Finding> {
        let names = lock(&self.names);
        let is_gone = match self.in_place(digest) {
            Ok(_) => false,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        let is_recorded = || matches!(self.records.stamp(digest), Ok(Some(_)));
        let (is_loaded, is_counted) = {
            let index = self.index();
            (index.is_loaded(), index.contains(digest))
        };
        // What an eviction has taken is out of the index before its file goes, and its record goes
        // last.
        if !is_gone || !(is_counted || !is_loaded && is_recorded()) {
            return None;
        }
        let defect = Defect::NoFile;
        let mut finding = self.finding(&self.layout.blob(digest), Some(digest.clone()), defect);
        if repair {
            self.index().remove(digest);
            self.small.invalidate(digest);
            drop(names);
            self.report();
            finding.remedy = match self.records.drop_stamps(std::slice::from_ref(digest)) {
                Ok(()) => Remedy::Done("its record is dropped"),
                Err(error) => self.failed(&error),
            };
        }
        Some(finding)
    }

    /// What root finds becomes root's; others have to be given it.
    fn judge_foreign(&self, reading: &CheckedFile, owner: u32, repair: bool) -> Finding {
        let digest = &reading.digest;
        let defect = Defect::ForeignOwner(owner);
        let mut finding = self.finding(&self.layout.blob(digest), Some(digest.clone()), defect);
        if repair {
            finding.remedy = match premises::adopt(&reading.file) {
                Ok(()) => Remedy::Done("it is root's now"),
                Err(error) => Remedy::Failed(format!("its owner cannot be changed: {error}")),
            };
        }
        finding
    }

    /// Right content is recorded as it was found: it was hashed just now.
    fn judge_record(&self, reading: &CheckedFile, repair: bool) -> Option<Finding> {
        let digest = &reading.digest;
        let recorded = match self.records.stamp(digest) {
            Ok(recorded) => recorded,
            Err(error) => {
                self.tolerate(Err(error));
                return None;
            }
        };
        let counted = self.index().find(digest);
        let defect = match recorded {
            None => Defect::NoRecord,
            Some((stamp, _)) if stamp != reading.stamp => Defect::OtherRecord,
            Some(_) if counted.is_some_and(|(size, _)| size != reading.stamp.size) => {
                Defect::OtherRecord
            }
            Some(_) => return None,
        };
        let _names = lock(&self.names);
        if !self.is_still_there(digest, reading.identity) {
            return None;
        }
        let mut finding = self.finding(&self.layout.blob(digest), Some(digest.clone()), defect);
        if repair {
            let class = recorded.map_or(EvictionClass::Blob, |(_, class)| class);
            finding.remedy = self.record_anew(reading, class);
        }
        Some(finding)
    }

    fn record_anew(&self, reading: &CheckedFile, class: EvictionClass) -> Remedy {
        let (digest, size) = (&reading.digest, reading.stamp.size);
        let used = {
            let mut index = self.index();
            let used = index.next_tick(tick(self.clock.now()));
            if index.find(digest).is_some_and(|(counted, _)| counted != size) {
                index.remove(digest);
                index.insert(digest, size, class, used);
            }
            used
        };
        match self.records.put_stamp(digest, reading.stamp, class, used) {
            Ok(()) => Remedy::Done("recorded as it was found"),
            Err(error) => self.failed(&error),
        }
    }

    /// Whether the very file still lies in its place and counts, as seen with the names locked: an
    /// eviction takes content out of the index before it unlinks it.
    fn is_still_there(&self, digest: &Digest, seen: FileIdentity) -> bool {
        let is_same = self.in_place(digest).is_ok_and(|found| FileIdentity::of(&found) == seen);
        let index = self.index();
        is_same && (!index.is_loaded() || index.contains(digest))
    }

    fn failed(&self, error: &Error) -> Remedy {
        self.pool.count(error);
        Remedy::Failed(error.to_string())
    }
}
