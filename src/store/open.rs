//! Opening stored content, and hashing again what does not look as it was recorded.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::facts::Stamp;
use super::index::Use;
use super::order::EvictionClass;
use super::premises::OpenedFile;
use super::staged::Mismatch;
use super::{Blob, BlobStore, Error, Reader, StoreInner, lock, premises, tick};
use crate::oci::{Digest, Hasher};
use crate::shortage::is_shortage;

/// Bytes that are hashed before the I/O pool is given to others.
const HASH_STEP: u64 = 16 << 20;
/// Bytes that are read at once to be hashed.
const HASH_READ: usize = 1 << 20;

/// Stored content.
#[derive(Debug)]
pub enum Found {
    /// A small body, from memory.
    Memory(Bytes),
    File(Blob),
    /// Not what was recorded; to be hashed before it is believed.
    Unchecked(Suspect),
}

impl Found {
    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Memory(body) => body.len() as u64,
            Self::File(blob) => blob.size(),
            Self::Unchecked(suspect) => suspect.size(),
        }
    }
}

impl BlobStore {
    /// Opens `digest` and notes the use. What is in use already costs no disk access.
    ///
    /// # Errors
    /// If the disk fails. Absence is `None`.
    pub async fn open(&self, digest: &Digest, how: Use) -> Result<Option<Found>, Error> {
        let now = tick(self.0.clock.now());
        let (touched, loaded) = {
            let mut index = self.0.index();
            (index.touch(digest, now, how), index.is_loaded())
        };
        match touched {
            None if loaded => return Ok(None),
            // The start-up scan may not have come to it yet; the disk knows.
            None => {}
            Some(open) => {
                if let Some(body) = self.0.small.get(digest) {
                    return Ok(Some(Found::Memory(body)));
                }
                // Somebody may have changed it since: the name says no more than the open file.
                if let Some(open) = open.upgrade().filter(|open| open.is_unchanged()) {
                    return Ok(Some(Found::File(Blob::from_open(open))));
                }
            }
        }
        let (shared, digest) = (Arc::clone(&self.0), digest.clone());
        self.0.pool.run(move || shared.open_file(&digest)).await
    }
}

impl StoreInner {
    fn open_file(self: &Arc<Self>, digest: &Digest) -> Result<Option<Found>, Error> {
        let recorded = self.records.stamp(digest).unwrap_or_else(|error| {
            tracing::warn!(%error, %digest, "cannot read the record of a blob; hashing it");
            self.pool.count(&error);
            None
        });
        let class = recorded.map_or(EvictionClass::Blob, |(_, class)| class);
        let Some(opened) = self.open_name(digest, class)? else { return Ok(None) };
        let OpenedFile { file, stamp, is_ours } = opened;
        let suspect = Suspect {
            digest: digest.clone(),
            file: Arc::new(file),
            stamp,
            class,
            shared: Arc::clone(self),
        };
        if is_ours && recorded.is_some_and(|(recorded, _)| recorded == stamp) {
            return suspect.trusted().map(Some);
        }
        // Small enough to be hashed while its reader waits; larger content is hashed by a fill,
        // with the reader following.
        if stamp.size > self.check_inline {
            return Ok(Some(Found::Unchecked(suspect)));
        }
        let mut hasher = Hasher::new(digest.algorithm());
        suspect.hash(&mut hasher, 0, stamp.size)?;
        Ok(suspect.accept(hasher)?.ok())
    }

    /// Opens the file and sees to it that the index has it, in one step as deleting sees it.
    fn open_name(
        &self,
        digest: &Digest,
        class: EvictionClass,
    ) -> Result<Option<OpenedFile>, Error> {
        let path = self.layout.blob(digest);
        let _names = lock(&self.names);
        match self.open_place(digest, &path) {
            Ok(opened) => {
                let mut index = self.index();
                if index.is_loaded() && !index.contains(digest) {
                    // Taken out of the index by an eviction, which unlinks the file next. Looked at
                    // in the step that would enter it: its room is promised to others.
                    return Ok(None);
                }
                let used = index.next_tick(tick(self.clock.now()));
                index.insert(digest, opened.stamp.size, class, used);
                Ok(Some(opened))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Somebody removed the file; forget it, so that the next request fetches it again.
                self.index().remove(digest);
                Ok(None)
            }
            Err(error) => {
                // What cannot be opened must not keep a new copy out; a lack of descriptors or
                // memory says nothing about it.
                if !is_shortage(&error) {
                    self.index().remove(digest);
                }
                Err(Error::file("open", &path)(error))
            }
        }
    }
}

impl StoreInner {
    /// Opens what lies in the place of a blob, over no link.
    fn open_place(&self, digest: &Digest, path: &Path) -> io::Result<OpenedFile> {
        for folder in self.layout.folders_of(digest) {
            premises::check_folder(&folder)?;
        }
        OpenedFile::open(path)
    }
}

/// A stored file that is not what was recorded.
#[derive(Debug)]
pub struct Suspect {
    digest: Digest,
    file: Arc<File>,
    stamp: Stamp,
    class: EvictionClass,
    shared: Arc<StoreInner>,
}

impl Suspect {
    /// Bytes.
    pub fn size(&self) -> u64 {
        self.stamp.size
    }

    /// Reads the file while it is hashed. The caller sees to it that the hold-back is kept.
    pub fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.file), Arc::clone(&self.shared))
    }

    /// Hashes the file, telling `progress` how far it is. Right content is recorded and from then
    /// on trusted; wrong content is removed and counted (DESIGN §14.9).
    ///
    /// # Errors
    /// If the disk fails; the content is then removed as well.
    pub async fn check(self, progress: impl Fn(u64) + Send) -> Result<Result<(), Mismatch>, Error> {
        let shared = Arc::clone(&self.shared);
        let size = self.size();
        let mut state = Hasher::new(self.digest.algorithm());
        let (mut this, mut offset) = (self, 0_u64);
        while offset < size {
            let end = size.min(offset + HASH_STEP);
            let step = shared.pool.run(move || {
                this.hash(&mut state, offset, end)?;
                Ok((this, state))
            });
            (this, state) = step.await?;
            offset = end;
            progress(offset);
        }
        let verdict = shared.pool.run(move || this.accept(state)).await?;
        Ok(verdict.map(|_| ()))
    }

    /// Hashes a part of the file. What cannot be read is removed, so that the next request fetches
    /// it.
    fn hash(&self, hasher: &mut Hasher, from: u64, to: u64) -> Result<(), Error> {
        self.read(hasher, from, to).map_err(|error| {
            self.shared.discard(&self.digest, "unreadable");
            Error::file("read", &self.shared.layout.blob(&self.digest))(error)
        })
    }

    fn read(&self, hasher: &mut Hasher, from: u64, to: u64) -> io::Result<()> {
        let mut buffer = vec![0; HASH_READ];
        let mut offset = from;
        while offset < to {
            let want = usize::try_from(to - offset).map_or(HASH_READ, |left| left.min(HASH_READ));
            self.file.read_exact_at(&mut buffer[..want], offset)?;
            hasher.update(&buffer[..want]);
            offset += want as u64;
        }
        Ok(())
    }

    fn accept(self, hasher: Hasher) -> Result<Result<Found, Mismatch>, Error> {
        let actual = hasher.finish();
        if actual != self.digest {
            self.shared.discard(&self.digest, "wrong content");
            return Ok(Err(Mismatch { expected: self.digest, actual }));
        }
        let used = tick(self.shared.clock.now());
        self.shared.tolerate(self.shared.records.put_stamp(
            &self.digest,
            self.stamp,
            self.class,
            used,
        ));
        self.trusted().map(Ok)
    }

    /// The content, believed to be what the digest names.
    fn trusted(self) -> Result<Found, Error> {
        let Self { digest, file, stamp, shared, .. } = self;
        let blob = Blob::new(digest, stamp, file, Arc::clone(&shared));
        if blob.size() <= shared.small_body {
            let body = blob.open().read_all().map_err(|error| {
                shared.discard(blob.digest(), "unreadable");
                Error::file("read", &shared.layout.blob(blob.digest()))(error)
            })?;
            shared.small.insert(blob.digest().clone(), body.clone());
            return Ok(Found::Memory(body));
        }
        let entered = shared.index().set_open(blob.digest(), Arc::downgrade(blob.open()));
        if !entered {
            // Evicted meanwhile: its bytes come free with the last reader.
            blob.open().mark_unlinked();
        }
        Ok(Found::File(blob))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    /// Between being taken out of the index by an eviction and being unlinked.
    #[test]
    fn what_is_being_evicted_is_not_entered_again() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let digest = Digest::of(Algorithm::Sha256, b"evicted");
        let store = BlobStore::in_test(directory.path());
        std::fs::create_dir_all(store.0.layout.shelf(&digest)).expect("the directory is ours");
        std::fs::write(store.0.layout.blob(&digest), b"evicted").expect("the directory is ours");
        store.0.index().insert(&digest, 7, EvictionClass::Blob, 0);
        assert!(store.0.open_file(&digest).expect("it can be opened").is_some());
        assert!(store.0.index().remove(&digest));
        let found = store.0.open_file(&digest).expect("it is still there");
        assert!(found.is_none(), "its room is promised to others");
        assert_eq!((store.holds(&digest), store.0.index().used()), (false, 0));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_removed_and_no_more_believed_to_be_there() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let digest = Digest::of(Algorithm::Sha256, b"something else");
        let store = BlobStore::in_test(directory.path());
        let path = store.0.layout.blob(&digest);
        for left in [0, 1 << 20] {
            std::fs::create_dir_all(store.0.layout.shelf(&digest)).expect("the directory is ours");
            let file = File::create(&path).expect("the directory is ours");
            file.set_len(5 << 20).expect("a sparse file");
            store.0.index().insert(&digest, 5 << 20, EvictionClass::Blob, 0);
            let found = store.open(&digest, Use::Whole).await.expect("it can be opened");
            let Some(Found::Unchecked(suspect)) = found else { panic!("unchecked, not {found:?}") };
            file.set_len(left).expect("the file is ours");
            suspect.check(|_| ()).await.expect_err("it is shorter than it was");
            assert!(!path.exists() && !store.holds(&digest), "the next request fetches it");
        }
    }
}
