//! Content on its way in: written and hashed as it comes, visible only once verified and published.
//!
//! The steps are types. [`Staged`] takes bytes; [`Staged::verify`] turns it into [`Verified`] if
//! the digest is right; [`Verified::publish`] makes it a [`Blob`]. Whatever is dropped on the way
//! leaves no file and no promised room.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::FallocateFlags;

use super::facts::{ContentSender, Stamp};
use super::index::RoomOwner;
use super::order::EvictionClass;
use super::room::Room;
use super::{Blob, Error, Reader, StageError, StoreInner, premises};
use crate::clock::Timestamp;
use crate::oci::{Digest, Hasher};

/// Content being written.
#[derive(Debug)]
pub struct Staged {
    digest: Digest,
    file: StagedFile,
    /// Missing while a job writes, and after one that failed.
    writing: Option<Writing>,
    written: u64,
}

/// What the writing moves on.
#[derive(Debug)]
struct Writing {
    hasher: Hasher,
    room: Room,
}

/// The bytes do not hash to what they were fetched as.
#[derive(Debug, thiserror::Error)]
#[error("the content hashes to {actual}, not to {expected}")]
pub struct Mismatch {
    pub expected: Digest,
    pub actual: Digest,
}

/// Content whose digest is right; the only thing that can be published.
#[derive(Debug)]
pub struct Verified {
    digest: Digest,
    file: StagedFile,
    room: Room,
    size: u64,
}

/// A file in the staging folder; goes when it is dropped.
#[derive(Debug)]
struct StagedFile {
    handle: Arc<File>,
    name: StagingName,
}

impl Staged {
    /// Promises room and makes the file; blocks. The disk is asked for its blocks now if they are
    /// free, so that a full disk is met before any header is sent.
    pub(super) fn create(
        shared: &Arc<StoreInner>,
        digest: &Digest,
        size: Option<u64>,
        owner: RoomOwner,
    ) -> Result<Self, StageError> {
        let (mut room, is_free) = Room::promise(shared, owner, size.unwrap_or(0))?;
        // Evicts only where the disk can make no more files.
        room.hold_up_to(0)?;
        let name = StagingName {
            path: shared.layout.staged(digest, shared.next_serial()),
            shared: Arc::clone(shared),
        };
        let mut handle = name.create_file();
        if handle.as_ref().is_err_and(Error::is_full) && shared.make_way_for_files()? {
            handle = name.create_file();
        }
        let file = StagedFile { handle: Arc::new(handle?), name };
        if let Some(size) = size.filter(|size| is_free && *size > 0)
            && file.allocate(size)?
        {
            room.note_given();
        }
        let writing = Writing { hasher: Hasher::new(digest.algorithm()), room };
        Ok(Self { digest: digest.clone(), file, writing: Some(writing), written: 0 })
    }

    /// Reads the file while it grows. The caller sees to it that nothing beyond the watermark is
    /// read.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.file.handle), Arc::clone(&self.file.name.shared))
    }

    /// Bytes so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Makes room for `chunks` and appends them; calls `written` with the new length as soon as
    /// readers may have them, then hashes.
    ///
    /// # Errors
    /// If the disk fails or is full. The staged content is then of no more use.
    pub async fn append(
        &mut self,
        chunks: Vec<Bytes>,
        written: impl FnOnce(u64) + Send + 'static,
    ) -> Result<(), StageError> {
        let length: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        // The job owns it meanwhile. A write that failed, or whose future was dropped, never gave it
        // back.
        let Some(mut writing) = self.writing.take() else { return Err(Error::Closed.into()) };
        let (file, path, mut offset) =
            (Arc::clone(&self.file.handle), self.file.name.path.clone(), self.written);
        let job = self.file.name.shared.pool.run(move || {
            writing.room.hold_up_to(offset + length)?;
            for chunk in &chunks {
                let wrote = file.write_all_at(chunk, offset).map_err(Error::file("write", &path));
                wrote.map_err(full_is_no_room)?;
                offset += chunk.len() as u64;
            }
            // Before hashing: readers need not wait for it. The hold-back is what keeps unverified
            // content from being complete (DESIGN §14.7).
            written(offset);
            for chunk in &chunks {
                writing.hasher.update(chunk);
            }
            Ok::<_, StageError>(writing)
        });
        let written = job.await;
        if written.is_err() {
            self.file.name.shared.note_room(self.written + length, &written);
        }
        self.writing = Some(written?);
        self.written += length;
        Ok(())
    }

    /// The state of the hash over everything written.
    pub fn hasher(&self) -> Option<Hasher> {
        self.writing.as_ref().map(|writing| writing.hasher.clone())
    }

    /// Ends the writing.
    ///
    /// # Errors
    /// [`Mismatch`] if the content is not what the digest names.
    pub fn verify(mut self) -> Result<Verified, Mismatch> {
        let Some(Writing { hasher, room }) = self.writing.take() else {
            let actual = Digest::of(self.digest.algorithm(), b"");
            return Err(Mismatch { expected: self.digest, actual });
        };
        let actual = hasher.finish();
        if actual == self.digest {
            return Ok(Verified { digest: self.digest, file: self.file, room, size: self.written });
        }
        Err(Mismatch { expected: self.digest, actual })
    }

    /// Ends the writing of what has no name yet: it is `digest`.
    ///
    /// # Errors
    /// [`Mismatch`] if the content is not that, or was hashed by another algorithm.
    pub fn verify_as(self, digest: &Digest) -> Result<Verified, Mismatch> {
        Self { digest: digest.clone(), ..self }.verify()
    }
}

impl Verified {
    /// Makes the content durable, then visible: fdatasync, rename, fsync of the folder, record.
    ///
    /// # Errors
    /// If the disk fails; nothing is then visible.
    pub async fn publish(
        self,
        class: EvictionClass,
        now: Timestamp,
        sender: ContentSender,
    ) -> Result<Blob, Error> {
        let (shared, digest) = (Arc::clone(&self.file.name.shared), self.digest.clone());
        let records = Arc::clone(&shared);
        let publish = move || {
            let blob = self.publish_blocking(class, now);
            // Whatever the disk says: what they have sent, they have.
            let noted = records.records.add_sender(&digest, &sender);
            blob.and_then(|blob| noted.map(|()| blob))
        };
        shared.pool.run(publish).await
    }

    fn publish_blocking(self, class: EvictionClass, now: Timestamp) -> Result<Blob, Error> {
        let Self { digest, file: StagedFile { handle, name }, room, size } = self;
        let shared = Arc::clone(&name.shared);
        // Data before the name: after a power cut a name must never lead to holes.
        handle.sync_data().map_err(Error::file("sync", &name.path))?;
        let folder = shared.layout.shelf(&digest);
        super::create_folder(&folder)?;
        for folder in shared.layout.folders_of(&digest) {
            premises::check_folder(&folder).map_err(Error::file("use", &folder))?;
        }
        let stamp = Stamp::of(&handle).map_err(Error::file("stat", &name.path))?;
        let blob = Blob::new(digest.clone(), stamp, Arc::clone(&handle), Arc::clone(&shared));
        let used = {
            // Publishing and deleting one name exclude each other, so that a deleter cannot unlink
            // a newer file.
            let _names = super::lock(&shared.names);
            if shared.index().contains(&digest) {
                // Another upstream's flight was faster with the same content. The staged file goes,
                // and so does the promised room. Where the records of the other one are lost, it is
                // still to be hashed, but who has sent it can be written down.
                shared.records.put_unchecked(&digest, class, super::tick(now))?;
                return Ok(blob);
            }
            name.rename(&shared.layout.blob(&digest))?;
            let mut index = shared.index();
            room.give_back(&mut index);
            let used = index.next_tick(super::tick(now));
            index.insert(&digest, size, class, used);
            index.set_open(&digest, Arc::downgrade(blob.open()));
            used
        };
        shared.report();
        // The rename itself has to survive a power cut as well.
        File::open(&folder)
            .and_then(|opened| opened.sync_all())
            .map_err(Error::file("sync", &folder))?;
        shared.records.put_stamp(&digest, stamp, class, used)?;
        Ok(blob)
    }
}

impl StagedFile {
    /// Takes free blocks from the disk now; whether it could. File systems that cannot
    /// (`EOPNOTSUPP`) allocate as it is written. `KEEP_SIZE`: the length of the file stays what is
    /// written.
    fn allocate(&self, size: u64) -> Result<bool, StageError> {
        match rustix::fs::fallocate(&*self.handle, FallocateFlags::KEEP_SIZE, 0, size) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
            Err(error) => {
                Err(full_is_no_room(Error::file("allocate", &self.name.path)(error.into())))
            }
        }
    }
}

/// The name of a file in the staging folder, while it has it.
#[derive(Debug)]
struct StagingName {
    path: PathBuf,
    shared: Arc<StoreInner>,
}

impl StagingName {
    fn create_file(&self) -> Result<File, Error> {
        let staging = self.shared.layout.staging();
        premises::check_folder(&staging).map_err(Error::file("use", &staging))?;
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(0o600);
        options.open(&self.path).map_err(Error::file("create", &self.path))
    }

    fn rename(mut self, to: &Path) -> Result<(), Error> {
        std::fs::rename(&self.path, to).map_err(Error::file("publish", &self.path))?;
        self.path = PathBuf::new();
        Ok(())
    }
}

impl Drop for StagingName {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        // Unlinking a large file takes milliseconds; start-up sweeps what a stop in between leaves.
        let path = std::mem::take(&mut self.path);
        drop(
            self.shared
                .pool
                .run(move || std::fs::remove_file(&path).map_err(Error::file("remove", &path))),
        );
    }
}

fn full_is_no_room(error: Error) -> StageError {
    if error.is_full() { StageError::NoRoom } else { StageError::Failed(error) }
}
