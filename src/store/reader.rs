//! Reading a file that is still being written or checked.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustix::io::{ReadWriteFlags, preadv2};

use super::{Error, Shared, lock};

/// The most that is read at once (DESIGN §14.12).
pub const PIECE: usize = 256 * 1024;

/// Idle buffers that are kept for the next reads.
const KEPT: usize = 32;

/// Positioned reads of a file that has no verified name yet. Renaming and unlinking do not disturb
/// it.
///
/// How far the content goes, and whether any of it may be believed, is for the owner of the writing
/// to say.
#[derive(Clone, Debug)]
pub struct Reader {
    file: Arc<File>,
    shared: Arc<Shared>,
}

impl Reader {
    pub(super) fn new(file: Arc<File>, shared: Arc<Shared>) -> Self {
        Self { file, shared }
    }

    /// Reads exactly `len` bytes at `offset`, but not more than [`PIECE`].
    ///
    /// # Errors
    /// If the disk fails or the file is shorter.
    pub fn read_at(
        &self,
        offset: u64,
        len: usize,
    ) -> impl Future<Output = Result<Bytes, Error>> + Send + use<> {
        let (file, shared) = (Arc::clone(&self.file), Arc::clone(&self.shared));
        self.shared.pool.run(move || {
            let mut piece = shared.buffers.take(len);
            let read = file.read_exact_at(&mut piece.memory[..piece.len], offset);
            read.map_err(Error::file("read from", &shared.layout.staging()))?;
            Ok(Bytes::from_owner(piece))
        })
    }
}

impl Reader {
    /// Those of the `len` bytes at `offset` that are in memory, from the first one on, but not more
    /// than [`PIECE`]. Never waits for the disk.
    ///
    /// `None` means that [`Reader::read_at`] has to be asked.
    pub(super) fn read_resident(&self, offset: u64, len: usize) -> Option<Bytes> {
        let mut piece = self.shared.buffers.take(len);
        let target = IoSliceMut::new(&mut piece.memory[..piece.len]);
        let read = preadv2(&self.file, &mut [target], offset, ReadWriteFlags::NOWAIT);
        piece.len = read.ok().filter(|read| *read > 0)?;
        Some(Bytes::from_owner(piece))
    }
}

/// Buffers that go round. Followers take and leave hundreds of pieces a second, on different
/// threads; every allocator either maps and clears each of them anew or holds on to many times what
/// is in use.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Box<[u8]>>>);

impl Buffers {
    fn take(self: &Arc<Self>, len: usize) -> Piece {
        let idle = lock(&self.0).pop();
        let memory = idle.unwrap_or_else(|| vec![0; PIECE].into());
        Piece { memory, len: len.min(PIECE), home: Arc::clone(self) }
    }
}

/// A buffer in use; goes back when the last of its bytes has been sent.
#[derive(Debug)]
struct Piece {
    memory: Box<[u8]>,
    len: usize,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut idle = lock(&self.home.0);
        if idle.len() < KEPT {
            idle.push(std::mem::take(&mut self.memory));
        }
    }
}
