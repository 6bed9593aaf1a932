//! Reading a file that is still being written or checked.

use std::fs::File;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use rustix::buffer::spare_capacity;

use super::{Error, Shared};

/// Positioned reads of a file that has no verified name yet. Renaming and unlinking do not disturb it.
///
/// How far the content goes, and whether any of it may be believed, is for the owner of the writing to say.
#[derive(Clone, Debug)]
pub struct Reader {
    file: Arc<File>,
    shared: Arc<Shared>,
}

impl Reader {
    pub(super) fn new(file: Arc<File>, shared: Arc<Shared>) -> Self {
        Self { file, shared }
    }

    /// Reads exactly `len` bytes at `offset`.
    ///
    /// # Errors
    /// If the disk fails or the file is shorter.
    pub fn read_at(&self, offset: u64, len: usize) -> impl Future<Output = Result<Bytes, Error>> + Send + use<> {
        let (file, staging) = (Arc::clone(&self.file), self.shared.layout.staging());
        self.shared.pool.run(move || read_exactly(&file, offset, len).map_err(Error::file("read from", &staging)))
    }
}

/// Reads into memory that nobody has cleared first: on the way of every cold byte that costs.
fn read_exactly(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut piece = Vec::with_capacity(len);
    while piece.len() < len {
        let at = offset + piece.len() as u64;
        if rustix::io::pread(file, spare_capacity(&mut piece), at)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    // The allocation may be larger than was asked for, and then so was the read.
    piece.truncate(len);
    Ok(piece.into())
}
