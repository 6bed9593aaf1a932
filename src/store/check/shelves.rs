//! What lies in the folders of the store: places of blobs, and what is not ours.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::FileType;
use std::io::{self, ErrorKind};
use std::path::Path;

use super::finding::{Defect, Finding, Remedy};
use crate::oci::{Algorithm, Digest};
use crate::store::layout::{ALGORITHMS, is_staging_name};
use crate::store::{StoreInner, premises};

/// One folder of blobs.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    /// Places in which something lies.
    pub(super) filled: Vec<Digest>,
    /// Places in which nothing lies, although something is recorded.
    pub(super) empty: Vec<Digest>,
    pub(super) findings: Vec<Finding>,
}

impl StoreInner {
    /// What lies beside the folders of blobs.
    pub(super) fn look_around(&self) -> Vec<Finding> {
        let is_algorithm =
            |name: &OsStr| ALGORITHMS.iter().any(|algorithm| name == algorithm.name());
        let is_staged = |name: &OsStr| is_staging_name(name.as_encoded_bytes());
        let [blobs, _] = self.layout.content_folders();
        let mut findings = self.strangers(&blobs, is_algorithm);
        for algorithm in ALGORITHMS {
            findings.extend(self.strangers(&self.layout.algorithm(algorithm), is_shelf_name));
        }
        findings.extend(self.strangers(&self.layout.staging(), is_staged));
        findings
    }

    fn strangers(&self, folder: &Path, is_ours: impl Fn(&OsStr) -> bool) -> Vec<Finding> {
        match names_in(folder) {
            Ok(names) => {
                let strangers = names.into_iter().filter(|name| !is_ours(name));
                let why = "roadstead gives nothing such a name here";
                strangers.map(|name| self.not_ours(&folder.join(name), why)).collect()
            }
            Err(error) => vec![self.unusable_folder(folder, &error)],
        }
    }

    pub(super) fn look_at_shelf(&self, algorithm: Algorithm, nth: u8) -> Shelf {
        let prefix = format!("{nth:02x}");
        let folder = self.layout.algorithm(algorithm).join(&prefix);
        let mut found = Shelf::default();
        let names = match names_in(&folder) {
            Ok(names) => names,
            Err(error) => {
                found.findings.push(self.unusable_folder(&folder, &error));
                return found;
            }
        };
        for name in names {
            match digest_of(algorithm, &name) {
                Some(digest) if digest.hex().starts_with(&prefix) => found.filled.push(digest),
                Some(_) => found.findings.push(
                    self.not_ours(&folder.join(name), "by its name it belongs into another folder"),
                ),
                None => {
                    found.findings.push(self.not_ours(&folder.join(name), "its name is no digest"));
                }
            }
        }
        let there: HashSet<&Digest> = found.filled.iter().collect();
        let recorded = self.records.blobs(&format!("{}:{prefix}", algorithm.name()));
        let recorded = recorded.unwrap_or_else(|error| {
            self.tolerate(Err(error));
            Vec::new()
        });
        let digests = recorded.into_iter().map(|(_, usage)| usage.digest);
        found.empty = digests.filter(|digest| !there.contains(digest)).collect();
        found
    }

    fn not_ours(&self, path: &Path, why: &'static str) -> Finding {
        self.finding(path, None, Defect::NotOurs(why))
    }

    fn unusable_folder(&self, folder: &Path, error: &io::Error) -> Finding {
        let other = folder.symlink_metadata().ok().filter(|found| !found.is_dir());
        let defect = match other {
            Some(other) => Defect::InTheWay(kind_of(other.file_type())),
            None => Defect::Unreadable(error.to_string()),
        };
        self.finding(folder, None, defect)
    }

    pub(super) fn finding(&self, path: &Path, digest: Option<Digest>, defect: Defect) -> Finding {
        let below = path.strip_prefix(self.layout.root()).unwrap_or(path).to_path_buf();
        Finding { path: below, digest, defect, remedy: Remedy::None }
    }
}

fn digest_of(algorithm: Algorithm, name: &OsStr) -> Option<Digest> {
    Digest::parse(&format!("{}:{}", algorithm.name(), name.to_str()?)).ok()
}

fn is_shelf_name(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.len() == 2 && name.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// In their order; of a folder that need not be there.
fn names_in(folder: &Path) -> io::Result<Vec<OsString>> {
    let listed = premises::check_folder(folder).and_then(|()| {
        let entries = std::fs::read_dir(folder)?;
        entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>()
    });
    match listed {
        Ok(mut names) => {
            names.sort_unstable();
            Ok(names)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

pub(super) fn kind_of(kind: FileType) -> &'static str {
    if kind.is_symlink() {
        "a link"
    } else if kind.is_dir() {
        "a folder"
    } else if kind.is_file() {
        "a plain file"
    } else {
        "a pipe, a socket or a device"
    }
}
