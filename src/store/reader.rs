//! Reading a file that is still being written or hashed.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use rustix::io::{ReadWriteFlags, preadv2};

use super::{Error, StoreInner, lock};

/// The most that is read at once (DESIGN §14.12).
pub const READ_MAX: usize = 256 * 1024;

/// Shorter reads get memory of just their length: a client that takes little has little held for it.
const POOLED_MIN: usize = READ_MAX / 2;

/// Idle buffers that are kept for the next reads.
const IDLE_BUFFERS_MAX: usize = 32;

/// Positioned reads of a file that has no verified name yet. Renaming and unlinking do not disturb
/// it.
///
/// How far the content goes, and whether any of it may be believed, is for the owner of the writing
/// to say.
#[derive(Clone, Debug)]
pub struct Reader {
    file: Arc<File>,
    shared: Arc<StoreInner>,
}

impl Reader {
    pub(super) fn new(file: Arc<File>, shared: Arc<StoreInner>) -> Self {
        Self { file, shared }
    }

    /// Reads exactly `len` bytes at `offset`, but not more than [`READ_MAX`].
    ///
    /// # Errors
    /// If the disk fails or the file is shorter.
    pub fn read_at(
        &self,
        offset: u64,
        len: usize,
    ) -> impl Future<Output = Result<Bytes, Error>> + Send + use<> {
        let this = self.clone();
        self.shared.pool.run(move || this.read_exact(offset, len))
    }

    /// As [`Reader::read_at`]; blocks.
    pub(super) fn read_exact(&self, offset: u64, len: usize) -> Result<Bytes, Error> {
        let mut buffer = self.shared.buffers.take(len);
        let read = self.file.read_exact_at(&mut buffer.memory[..buffer.len], offset);
        read.map_err(Error::file("read from", &self.shared.layout.staging()))?;
        Ok(Bytes::from_owner(buffer))
    }
}

impl Reader {
    /// Those of the `len` bytes at `offset` that are in memory, from the first one on, but not more
    /// than [`READ_MAX`]. Never waits for the disk.
    ///
    /// `None` means that [`Reader::read_at`] has to be asked.
    pub(super) fn read_resident(&self, offset: u64, len: usize) -> Option<Bytes> {
        let mut buffer = self.shared.buffers.take(len);
        let target = IoSliceMut::new(&mut buffer.memory[..buffer.len]);
        let read = preadv2(&self.file, &mut [target], offset, ReadWriteFlags::NOWAIT);
        buffer.len = read.ok().filter(|read| *read > 0)?;
        Some(Bytes::from_owner(buffer))
    }
}

/// Read buffers that are used again. Readers that follow a flight take and leave hundreds of them a
/// second, on different threads. An allocator either maps and clears each one anew, or keeps many
/// times what is in use.
#[derive(Debug, Default)]
pub(super) struct BufferPool(Mutex<Vec<Box<[u8]>>>);

impl BufferPool {
    fn take(self: &Arc<Self>, len: usize) -> PooledBuffer {
        let len = len.min(READ_MAX);
        let idle = if len < POOLED_MIN { None } else { lock(&self.0).pop() };
        let size = if len < POOLED_MIN { len } else { READ_MAX };
        let memory = idle.unwrap_or_else(|| vec![0; size].into());
        PooledBuffer { memory, len, home: Arc::clone(self) }
    }
}

/// A buffer in use; goes back when the last of its bytes has been sent.
#[derive(Debug)]
struct PooledBuffer {
    memory: Box<[u8]>,
    len: usize,
    home: Arc<BufferPool>,
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let mut idle = lock(&self.home.0);
        if self.memory.len() == READ_MAX && idle.len() < IDLE_BUFFERS_MAX {
            idle.push(std::mem::take(&mut self.memory));
        }
    }
}
