//! A file of lines that outlives a kill: they are appended without waiting for the disk, and now and
//! then what they come to is written anew. What a power cut takes of it is lost.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::io::IoPool;
use super::premises;
use super::{BlobStore, Error};
use crate::files;

/// Bytes that are read; it is written anew long before it has as many.
const READ_MAX: u64 = 64 << 20;

/// One such file, written by one task at a time.
#[derive(Clone, Debug)]
pub struct JournalFile {
    path: PathBuf,
    pool: Arc<IoPool>,
}

impl BlobStore {
    /// Of what clients have missed.
    pub fn miss_journal(&self) -> JournalFile {
        JournalFile { path: self.0.layout.misses(), pool: Arc::clone(&self.0.pool) }
    }
}

impl JournalFile {
    /// What is there; nothing, if there is no such file. Blocks.
    ///
    /// # Errors
    /// Those of the system.
    pub fn read(&self) -> Result<String, Error> {
        files::remove_half_written(&self.path);
        let mut bytes = Vec::new();
        let read = premises::open_plain(&self.path)
            .and_then(|(file, _)| file.take(READ_MAX).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
            Err(error) => Err(Error::file("read", &self.path)(error)),
            Ok(_) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// Adds whole lines.
    ///
    /// # Errors
    /// Those of the system. Some of the lines may be there then.
    pub async fn append(&self, lines: String) -> Result<(), Error> {
        let path = self.path.clone();
        let append = move || {
            let mut options = File::options();
            let options = options.append(true).create(true).mode(0o600);
            let file = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&path);
            let written = file.and_then(|mut file| file.write_all(lines.as_bytes()));
            written.map_err(Error::file("write", &path))
        };
        self.pool.run(append).await
    }

    /// Puts these lines in the place of all others, whole or not at all.
    ///
    /// # Errors
    /// Those of the system.
    pub async fn replace(&self, lines: String) -> Result<(), Error> {
        let path = self.path.clone();
        let replace = move || {
            let replaced = files::replace_private(&path, lines.as_bytes());
            replaced.map_err(Error::file("write", &path))
        };
        self.pool.run(replace).await
    }
}
