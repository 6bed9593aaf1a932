//! Reading a file that is still being written or checked.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

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
        self.shared.pool.run(move || {
            let mut piece = BytesMut::zeroed(len);
            file.read_exact_at(&mut piece, offset).map_err(Error::file("read from", &staging))?;
            Ok(piece.freeze())
        })
    }
}
