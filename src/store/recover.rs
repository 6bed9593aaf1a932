//! Start-up: taking the directory, sweeping the staging folder, and reading the index while
//! requests are served already.

use std::collections::HashMap;
use std::fs::{DirEntry, File, TryLockError};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::layout::{ALGORITHMS, Layout};
use super::order::{EvictionClass, Tick};
use super::{Error, StageError, StoreInner, create_folder};
use crate::oci::{Algorithm, Digest};

/// Makes the folders and locks the directory for this process.
pub(super) fn take(layout: &Layout) -> Result<File, Error> {
    create_folder(layout.root())?;
    create_folder(&layout.staging())?;
    for algorithm in ALGORITHMS {
        create_folder(&layout.algorithm(algorithm))?;
    }
    // The content may be private; an older or looser folder is made ours alone.
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(layout.root(), private)
        .map_err(Error::file("protect", layout.root()))?;
    let path = layout.lock();
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.map_err(Error::file("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: layout.root().to_path_buf() }),
        Err(TryLockError::Error(error)) => Err(Error::file("lock", &path)(error)),
    }
}

/// Removes what an earlier process was writing; none of it was ever visible.
pub(super) fn sweep(layout: &Layout) -> Result<(), Error> {
    let staging = layout.staging();
    for entry in entries(&staging)? {
        let path = entry.path();
        let folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed =
            if folder { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        removed.map_err(Error::file("remove", &path))?;
    }
    Ok(())
}

/// Enters every file of the tree into the index, with the recency that the records have.
pub(super) fn load(shared: &StoreInner) -> Result<(), Error> {
    let mut recorded: HashMap<Digest, (EvictionClass, Tick)> = HashMap::new();
    let read = shared.records.each_blob(|digest, class, used| {
        recorded.insert(digest, (class, used));
    });
    shared.tolerate(read);
    for algorithm in ALGORITHMS {
        for shelf in entries(&shared.layout.algorithm(algorithm))? {
            if !shelf.path().is_dir() {
                // Not made by us: left alone, and not counted.
                continue;
            }
            for file in entries(&shelf.path())? {
                enter(shared, algorithm, &file, &mut recorded);
            }
        }
    }
    shared.index().set_loaded();
    // What is recorded but no longer there.
    let missing: Vec<Digest> =
        recorded.into_keys().filter(|digest| !shared.index().contains(digest)).collect();
    shared.tolerate(shared.records.drop_stamps(&missing));
    shared.tolerate(shared.records.prune());
    // The configuration may have a lower limit than when the content was stored.
    match shared.meet_limit() {
        Ok(()) => {}
        Err(StageError::NoRoom) => tracing::warn!(
            "the cache's file system is fuller than min_free allows; new content will not be stored"
        ),
        Err(StageError::Failed(error)) => shared.tolerate(Err(error)),
    }
    shared.report();
    Ok(())
}

fn enter(
    shared: &StoreInner,
    algorithm: Algorithm,
    file: &DirEntry,
    recorded: &mut HashMap<Digest, (EvictionClass, Tick)>,
) {
    let name = file.file_name();
    let digest =
        name.to_str().and_then(|hex| Digest::parse(&format!("{}:{hex}", algorithm.name())).ok());
    let (Some(digest), Ok(metadata)) = (digest, file.metadata()) else { return };
    if metadata.is_file() {
        let (class, used) = recorded.remove(&digest).unwrap_or((EvictionClass::Blob, 0));
        shared.index().insert(&digest, metadata.len(), class, used);
    }
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>, Error> {
    let listed = std::fs::read_dir(folder).and_then(Iterator::collect);
    listed.map_err(Error::file("list", folder))
}
