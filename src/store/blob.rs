//! An open, verified blob, and the slices that go to the wire.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};

use super::facts::Stamp;
use super::mapping::{Mapping, SLICE};
use super::reader::{READ_MAX, Reader};
use super::{Error, StoreInner};
use crate::oci::Digest;

/// A verified blob, open for reading. An open blob survives its eviction.
#[derive(Clone, Debug)]
pub struct Blob(Arc<OpenBlob>);

/// One open file for all readers of a digest.
#[derive(Debug)]
pub(super) struct OpenBlob {
    digest: Digest,
    /// What the file looked like when it was last known to be right.
    stamp: Stamp,
    file: Arc<File>,
    /// Made by the first reader of a warm body.
    mapping: OnceLock<Result<Mapping, io::ErrorKind>>,
    /// Set when the name is gone; its bytes then count as pending until the last reader is.
    unlinked: AtomicBool,
    shared: Arc<StoreInner>,
}

impl Blob {
    pub(super) fn new(
        digest: Digest,
        stamp: Stamp,
        file: Arc<File>,
        shared: Arc<StoreInner>,
    ) -> Self {
        Self(Arc::new(OpenBlob {
            digest,
            stamp,
            file,
            mapping: OnceLock::new(),
            unlinked: AtomicBool::new(false),
            shared,
        }))
    }

    pub(super) fn from_open(open: Arc<OpenBlob>) -> Self {
        Self(open)
    }

    pub(super) fn open(&self) -> &Arc<OpenBlob> {
        &self.0
    }

    pub fn digest(&self) -> &Digest {
        &self.0.digest
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.0.stamp.size
    }

    /// The next piece of `span` for a plain connection, if it is in memory already.
    ///
    /// `None` means that [`Blob::load`] has to fetch it from the disk first.
    pub fn resident(&self, span: &Range<u64>) -> Option<Slice> {
        let range = self.0.slice(span)?;
        let mapping = self.0.mapped().ok()?;
        mapping.is_resident(&range).then(|| Slice::of(&self.0, range, span))
    }

    /// The next piece of `span` for a plain connection, after the I/O pool has made it resident.
    ///
    /// # Errors
    /// If the disk fails or the file is shorter than it was; the blob is then discarded.
    pub fn load(
        &self,
        span: &Range<u64>,
    ) -> impl Future<Output = Result<Slice, Error>> + Send + use<> {
        let this = self.clone();
        let (range, span) = (self.0.slice(span).unwrap_or(0..0), span.clone());
        self.0.shared.pool.run(move || {
            let path = this.0.shared.layout.blob(&this.0.digest);
            let loaded =
                this.0.mapped().and_then(|mapping| mapping.populate(&range)).or_else(|error| {
                    // Kernels before 5.14 do not know the advice; a plain read warms the page cache
                    // as well.
                    if error.kind() == io::ErrorKind::InvalidInput {
                        this.0.read_through(&range)
                    } else {
                        Err(error)
                    }
                });
            if let Err(error) = loaded {
                this.0.shared.discard(&this.0.digest, "unreadable");
                return Err(Error::file("read", &path)(error));
            }
            Ok(Slice::of(&this.0, range, &span))
        })
    }
}

impl Blob {
    /// The next piece of `span`, copied, if it is in memory already: for connections that encrypt
    /// what they send, since user code must not read the mapping (DESIGN §14.11). At most 256 KiB.
    ///
    /// `None` means that [`Blob::read`] has to fetch it from the disk first.
    pub fn read_resident(&self, span: &Range<u64>) -> Option<Bytes> {
        self.0.reader().read_resident(span.start, read_len(span))
    }

    /// The next piece of `span`, copied, as the I/O pool reads it. At most 256 KiB.
    ///
    /// # Errors
    /// If the disk fails or the file is shorter than it was; the blob is then discarded.
    pub fn read(
        &self,
        span: &Range<u64>,
    ) -> impl Future<Output = Result<Bytes, Error>> + Send + use<> {
        let (this, reader) = (self.clone(), self.0.reader());
        let (offset, len) = (span.start, read_len(span));
        self.0.shared.pool.run(move || {
            let read = reader.read_exact(offset, len);
            read.inspect_err(|_| this.0.shared.discard(&this.0.digest, "unreadable"))
        })
    }
}

impl Blob {
    /// Looks whether the file is still as it was when it was known to be right, before the last of
    /// an answer leaves: what somebody has written into it meanwhile may have been sent.
    ///
    /// # Errors
    /// If it is not. The next request hashes it.
    pub fn check_unchanged(&self) -> Result<(), Error> {
        if self.0.is_unchanged() {
            return Ok(());
        }
        let changed = io::Error::other("it was changed while it was sent");
        Err(Error::file("read", &self.0.shared.layout.blob(&self.0.digest))(changed))
    }
}

fn read_len(span: &Range<u64>) -> usize {
    usize::try_from(span.end - span.start).unwrap_or(READ_MAX).min(READ_MAX)
}

/// A piece of a stored blob that is in the page cache; keeps its mapping alive.
#[derive(Clone, Debug)]
pub struct Slice {
    blob: Arc<OpenBlob>,
    range: Range<usize>,
    /// Whether an answer ends with it.
    is_last: bool,
}

impl Slice {
    fn of(blob: &Arc<OpenBlob>, range: Range<usize>, span: &Range<u64>) -> Self {
        let is_last = range.end as u64 >= span.end;
        Self { blob: Arc::clone(blob), range, is_last }
    }

    /// The mapped bytes, to be handed to the kernel and not to be read here.
    pub fn bytes(&self) -> &[u8] {
        // A slice is only made after its mapping; an empty one ends the body short, which the
        // client notices.
        self.blob.mapped().map_or(&[], |mapping| &mapping.bytes()[self.range.clone()])
    }

    /// Where `bytes` begin in this slice, if they are a part of it: of the same memory, not merely
    /// equal.
    pub fn position(&self, bytes: &[u8]) -> Option<usize> {
        let own = self.bytes();
        let start = bytes.as_ptr().addr().checked_sub(own.as_ptr().addr())?;
        (start + bytes.len() <= own.len()).then_some(start)
    }

    /// Sends up to `len` bytes from `position` on from the page cache to a socket, without a copy
    /// of ours. May send less.
    ///
    /// # Errors
    /// Those of `sendfile(2)`, `WouldBlock` among them; `UnexpectedEof` if somebody has cut the
    /// file short, and `InvalidData` instead of the end of an answer if somebody has changed it.
    pub fn send(&self, socket: BorrowedFd<'_>, position: usize, len: usize) -> io::Result<usize> {
        let mut offset = (self.range.start + position) as u64;
        let len = len.min(self.range.len() - position);
        if self.is_last && position + len == self.range.len() && !self.blob.is_unchanged() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // What it reads is in memory, but a network file system may ask its server all the same. There
        // is no way to send from the page cache that does not.
        match rustix::fs::sendfile(socket, &self.blob.file, Some(&mut offset), len)? {
            0 if len > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            sent => Ok(sent),
        }
    }
}

impl OpenBlob {
    /// The first [`SLICE`] bytes of `span`, aligned so that later slices start on a boundary.
    fn slice(&self, span: &Range<u64>) -> Option<Range<usize>> {
        let start = usize::try_from(span.start).ok()?;
        let end = usize::try_from(span.end.min(self.stamp.size)).ok()?;
        let boundary = (start / SLICE + 1).checked_mul(SLICE)?;
        Some(start..end.min(boundary)).filter(|slice| slice.start < slice.end)
    }

    /// Whether the file looks as it did when it was last known to be right.
    ///
    /// On the runtime's thread, at each hit: a microsecond, and no wait for a file server, since only
    /// what this machine knows is asked. That is fresh enough: the server is asked when the file is
    /// read, by the I/O pool where bytes are copied, and by `sendfile` itself where they are not.
    pub(super) fn is_unchanged(&self) -> bool {
        Stamp::known_of(&self.file).is_ok_and(|stamp| stamp == self.stamp)
    }

    fn reader(&self) -> Reader {
        Reader::new(Arc::clone(&self.file), Arc::clone(&self.shared))
    }

    fn mapped(&self) -> io::Result<&Mapping> {
        let mapped = self.mapping.get_or_init(|| {
            let len = usize::try_from(self.stamp.size).map_err(|_| io::ErrorKind::Unsupported)?;
            Mapping::new(&self.file, len).map_err(|error| error.kind())
        });
        mapped.as_ref().map_err(|kind| io::Error::from(*kind))
    }

    fn read_through(&self, slice: &Range<usize>) -> io::Result<()> {
        let mut scratch = vec![0; slice.len()];
        self.file.read_exact_at(&mut scratch, slice.start as u64)
    }

    /// The whole content; for small bodies only.
    pub(super) fn read_all(&self) -> io::Result<Bytes> {
        let len = usize::try_from(self.stamp.size).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let mut content = BytesMut::zeroed(len);
        self.file.read_exact_at(&mut content, 0)?;
        Ok(content.freeze())
    }
}

impl Drop for OpenBlob {
    fn drop(&mut self) {
        if *self.unlinked.get_mut() {
            self.shared.pending.fetch_sub(self.stamp.size, Ordering::Relaxed);
        }
    }
}

impl OpenBlob {
    /// The name is gone while this is open: its bytes are pending from now on. Takes no lock, nor
    /// does the drop that may follow, because the index is locked meanwhile.
    pub(super) fn mark_unlinked(&self) {
        if !self.unlinked.swap(true, Ordering::AcqRel) {
            self.shared.pending.fetch_add(self.stamp.size, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::oci::Algorithm;
    use crate::store::{BlobStore, EvictionClass};

    /// Eviction looks at the open file under the index's lock, so it may be the last to let go of
    /// it.
    #[test]
    fn the_last_reader_may_leave_while_the_index_is_locked() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = BlobStore::in_test(directory.path());
        let file = Arc::new(tempfile::tempfile().expect("a temporary file"));
        let digest = Digest::of(Algorithm::Sha256, b"evicted");
        let stamp = Stamp { size: 10, mtime: 0 };
        let reader = Blob::new(digest.clone(), stamp, file, Arc::clone(&store.0));
        store.0.index().insert(&digest, 10, EvictionClass::Blob, 0);
        store.0.index().set_open(&digest, Arc::downgrade(reader.open()));
        let pending = move || store.0.pending.load(Ordering::Relaxed);
        let (done, ended) = mpsc::channel();
        std::thread::spawn(move || {
            let shared = Arc::clone(&reader.0.shared);
            let mut index = shared.index();
            assert!(index.remove(&digest));
            let before = pending();
            drop(reader);
            done.send((before, pending())).expect("the test waits");
        });
        let sums = ended
            .recv_timeout(Duration::from_secs(20))
            .expect("nobody waits for a lock that it holds itself");
        assert_eq!(sums, (10, 0));
    }
}
