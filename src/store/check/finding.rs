//! What a check finds, in words.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::time::Duration;

use crate::oci::Digest;

/// Something in the cache directory that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Below the cache directory.
    pub path: PathBuf,
    /// What belongs there, if it is the place of a blob.
    pub digest: Option<Digest>,
    pub defect: Defect,
    pub remedy: Remedy,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Defect {
    /// The file does not hash to its name.
    WrongContent { size: u64, actual: Digest },
    /// It cannot be opened, read or listed; why.
    Unreadable(String),
    /// Something else lies in the place of a file or a folder; what.
    InTheWay(&'static str),
    /// A third user could change the file.
    ForeignOwner(u32),
    /// There is a record, and no file.
    NoFile,
    /// There is a file, and no record.
    NoRecord,
    /// The content is right, and the record is of another size or time.
    OtherRecord,
    /// Nothing that roadstead would have put there; why. It is never served, and never removed.
    NotOurs(&'static str),
}

/// What has been done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// That was not asked for, or is not ours to do.
    None,
    Done(&'static str),
    /// It could not be done; why.
    Failed(String),
}

impl Finding {
    /// Whether nothing was wrong with what is kept: a stranger's file beside it.
    pub fn is_not_ours(&self) -> bool {
        matches!(self.defect, Defect::NotOurs(_))
    }

    pub fn is_repaired(&self) -> bool {
        matches!(self.remedy, Remedy::Done(_))
    }
}

impl Defect {
    /// One word, for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::WrongContent { .. } => "wrong_content",
            Self::Unreadable(_) => "unreadable",
            Self::InTheWay(_) => "in_the_way",
            Self::ForeignOwner(_) => "foreign_owner",
            Self::NoFile => "no_file",
            Self::NoRecord => "no_record",
            Self::OtherRecord => "other_record",
            Self::NotOurs(_) => "not_ours",
        }
    }
}

impl Display for Defect {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongContent { size, actual } => {
                write!(f, "wrong content: its {size} bytes hash to {actual}")
            }
            Self::Unreadable(why) => write!(f, "unreadable: {why}"),
            Self::InTheWay(what) => write!(f, "in the way: {what} lies in a place of the store"),
            Self::ForeignOwner(owner) => write!(f, "it belongs to user {owner}, who can change it"),
            Self::NoFile => f.write_str("there is a record of it, and no file"),
            Self::NoRecord => f.write_str("the content is right, and there is no record of it"),
            Self::OtherRecord => {
                f.write_str("the content is right, and its record is of another size or time")
            }
            Self::NotOurs(why) => write!(f, "not ours: {why}"),
        }
    }
}

/// What was looked at so far, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckTotals {
    /// Plain files in the places of blobs.
    pub files: u64,
    /// Their lengths: what counts against `max_size`, and what `du --apparent-size` adds up.
    pub bytes: u64,
    /// What the disk has given for them: what `du` adds up.
    pub allocated: u64,
    /// Bytes that were read and hashed.
    pub hashed: u64,
    /// Findings, but for what is not ours.
    pub wrong: u64,
    /// Of these.
    pub repaired: u64,
    pub not_ours: u64,
    pub taken: Duration,
}

impl CheckTotals {
    /// What is still wrong.
    pub fn left(&self) -> u64 {
        self.wrong - self.repaired
    }

    pub(super) fn count(&mut self, finding: &Finding) {
        if finding.is_not_ours() {
            self.not_ours += 1;
        } else {
            self.wrong += 1;
            self.repaired += u64::from(finding.is_repaired());
        }
    }
}
