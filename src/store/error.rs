//! Errors of the disk and the database.

use std::io;
use std::path::{Path, PathBuf};

use crate::shortage::is_shortage;

/// A failed operation on a file or the database.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {operation} {path}: {source}")]
    File { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {operation} the records: {source}")]
    Database { operation: &'static str, source: rusqlite::Error },
    #[error("the cache directory {path} is in use by another roadstead")]
    Locked { path: PathBuf },
    #[error(
        "{path} belongs to user {owner}, who could change what is served from it; give the cache \
         directory to the user that roadstead runs as (chown -R), or run it as that user"
    )]
    Foreign { path: PathBuf, owner: u32 },
    #[error(
        "{path} is a link, and no link is followed in the cache directory, so that nothing would be \
         kept; set `cache.path` to the folder that content is to lie in, or remove the link"
    )]
    Link { path: PathBuf },
    #[error("there is no cache in {path}")]
    NoCache { path: PathBuf },
    #[error("{path} belongs to user {owner}: run this as that user")]
    OfAnother { path: PathBuf, owner: u32 },
    /// The I/O pool is gone: the process is ending.
    #[error("the store is shut down")]
    Closed,
}

impl Error {
    /// Makes the adapter for `map_err` of one operation on one path.
    pub(super) fn file(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { operation, path: path.to_path_buf(), source }
    }

    /// Whether the process or the machine is short of something, which says nothing about the file.
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::File { source, .. } if is_shortage(source))
    }

    /// The operation, as a metric label.
    pub fn operation(&self) -> &'static str {
        match self {
            Self::File { operation, .. } | Self::Database { operation, .. } => operation,
            Self::Locked { .. } => "lock",
            Self::Foreign { .. }
            | Self::Link { .. }
            | Self::NoCache { .. }
            | Self::OfAnother { .. } => "open",
            Self::Closed => "close",
        }
    }

    /// Whether the file system has no room (or no right) left for more.
    pub(super) fn is_full(&self) -> bool {
        match self {
            Self::File { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            Self::Database { .. }
            | Self::Locked { .. }
            | Self::Foreign { .. }
            | Self::Link { .. }
            | Self::NoCache { .. }
            | Self::OfAnother { .. }
            | Self::Closed => false,
        }
    }

    /// Whether this file, or the file system that it lies on, is what is wrong, and not the rights
    /// of this user. An immutable file is the former (`EPERM`).
    pub(super) fn is_of_the_file(&self) -> bool {
        matches!(self, Self::File { source, .. } if source.raw_os_error() != Some(libc::EACCES))
    }
}

/// Why content could not be staged.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// Neither free space nor eviction can hold it; serve it without storing.
    #[error("there is no room in the cache")]
    NoRoom,
    #[error(transparent)]
    Failed(#[from] Error),
}
