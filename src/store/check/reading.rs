//! One file, read and hashed piece by piece.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};

use super::finding::Defect;
use super::shelves::kind_of;
use crate::oci::{Digest, Hasher};
use crate::store::facts::Stamp;
use crate::store::{StoreInner, premises};

/// Which file it is: another one may lie under its name by and by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    pub(super) fn of(found: &Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }
}

/// What lies in the place of a blob.
#[derive(Debug)]
pub(super) enum Lying {
    Nothing,
    /// What cannot be read as content.
    Wrong(Defect, Option<FileIdentity>),
    File(Box<CheckedFile>),
}

/// A file that is being hashed.
#[derive(Debug)]
pub(super) struct CheckedFile {
    pub(super) digest: Digest,
    pub(super) file: File,
    pub(super) identity: FileIdentity,
    pub(super) stamp: Stamp,
    /// Bytes that the disk has given for it.
    pub(super) allocated: u64,
    /// A third user that it belongs to.
    pub(super) foreign: Option<u32>,
    /// Its readers have it open, or it is just being published: what is recorded of it may be on
    /// its way.
    pub(super) in_use: bool,
    was_cached: bool,
    hasher: Hasher,
    offset: u64,
}

impl StoreInner {
    /// Opens what lies in the place of `digest`, over no link; changes nothing.
    pub(super) fn open_to_check(&self, digest: &Digest) -> Lying {
        // Before anything else: who has published it and let go of it has recorded it.
        let in_use = self.index().is_open(digest);
        let found = match self.in_place(digest) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Lying::Nothing,
            Err(error) => return Lying::Wrong(Defect::Unreadable(error.to_string()), None),
        };
        let identity = FileIdentity::of(&found);
        if !found.is_file() {
            return Lying::Wrong(Defect::InTheWay(kind_of(found.file_type())), Some(identity));
        }
        match premises::open_plain(&self.layout.blob(digest)) {
            Ok((file, found)) => {
                Lying::File(Box::new(CheckedFile::new(digest.clone(), file, &found, in_use)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Lying::Nothing,
            Err(error) if crate::shortage::is_shortage(&error) => {
                Lying::Wrong(Defect::Unreadable(error.to_string()), None)
            }
            Err(error) => Lying::Wrong(Defect::Unreadable(error.to_string()), Some(identity)),
        }
    }

    /// What lies in the place of `digest`, over no link.
    pub(super) fn in_place(&self, digest: &Digest) -> io::Result<Metadata> {
        for folder in self.layout.folders_of(digest) {
            premises::check_folder(&folder)?;
        }
        self.layout.blob(digest).symlink_metadata()
    }
}

impl CheckedFile {
    fn new(digest: Digest, file: File, found: &Metadata, in_use: bool) -> Self {
        let stamp = Stamp::from(found);
        Self {
            hasher: Hasher::new(digest.algorithm()),
            digest,
            identity: FileIdentity::of(found),
            allocated: found.blocks() * 512,
            foreign: premises::is_foreign(found).then(|| found.uid()),
            in_use,
            // Asked before anything is read, which reads ahead.
            was_cached: [0, stamp.size.saturating_sub(1)].iter().any(|at| is_cached(&file, *at)),
            stamp,
            file,
            offset: 0,
        }
    }

    /// Hashes the next piece; its bytes.
    pub(super) fn read_on(&mut self, buffer: &mut [u8]) -> io::Result<u64> {
        let left = self.stamp.size - self.offset;
        let want = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
        self.file.read_exact_at(&mut buffer[..want], self.offset)?;
        self.hasher.update(&buffer[..want]);
        self.offset += want as u64;
        if !self.was_cached {
            self.forget_pages();
        }
        Ok(want as u64)
    }

    /// What nobody had in memory before leaves it again: a check of everything must not drive out
    /// what clients ask for.
    fn forget_pages(&self) {
        // From the beginning on: pages are kept in clusters, and one that reaches beyond the range
        // stays whole. At the end also what was read ahead.
        let len = NonZeroU64::new(self.offset).filter(|_| !self.is_at_the_end());
        // Not every file system heeds it.
        let _ = fadvise(&self.file, 0, len, Advice::DontNeed);
    }

    pub(super) fn is_at_the_end(&self) -> bool {
        self.offset == self.stamp.size
    }

    /// Whether it still looks as it did when it was opened.
    pub(super) fn is_unchanged(&self) -> bool {
        Stamp::of(&self.file).is_ok_and(|stamp| stamp == self.stamp)
    }

    /// What the content is, as far as it was read.
    pub(super) fn actual(&self) -> Digest {
        self.hasher.clone().finish()
    }
}

/// Whether the byte is in memory already.
pub(super) fn is_cached(file: &File, at: u64) -> bool {
    let mut byte = [0];
    let target = IoSliceMut::new(&mut byte);
    preadv2(file, &mut [target], at, ReadWriteFlags::NOWAIT).is_ok_and(|read| read > 0)
}
