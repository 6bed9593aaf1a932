//! Start-up: reading the index while requests are served already.

use std::collections::HashMap;
use std::fs::DirEntry;
use std::io::ErrorKind;
use std::path::Path;

use super::layout::ALGORITHMS;
use super::order::{EvictionClass, Usage};
use super::{Error, StageError, StoreInner, premises};
use crate::oci::{Algorithm, Digest};

/// Enters every file of the tree into the index, with the uses that the records have: shelf by
/// shelf, so that neither memory nor whoever wants the records meanwhile pays for all at once.
pub(super) fn load(shared: &StoreInner) {
    for algorithm in ALGORITHMS {
        for shelf in 0..=u8::MAX {
            // What cannot be listed is neither counted nor forgotten; all else is.
            shared.tolerate(load_shelf(shared, algorithm, &format!("{shelf:02x}")));
        }
    }
    // Before anything goes.
    shared.tolerate(shared.judge_reach());
    shared.index().set_loaded();
    shared.tolerate(shared.records.tidy(shared.clock.now()));
    // The configuration may have a lower limit than when the content was stored.
    match shared.meet_limit() {
        Ok(()) => {}
        Err(StageError::NoRoom) => tracing::warn!(
            "the cache's file system is fuller than min_free allows; new content will not be stored"
        ),
        Err(StageError::Failed(error)) => shared.tolerate(Err(error)),
    }
    shared.report();
}

fn load_shelf(shared: &StoreInner, algorithm: Algorithm, shelf: &str) -> Result<(), Error> {
    let files = entries_if_any(&shared.layout.algorithm(algorithm).join(shelf))?;
    let recorded = shared.records.blobs(&format!("{}:{shelf}", algorithm.name()));
    let recorded = recorded.unwrap_or_else(|error| {
        shared.tolerate(Err(error));
        Vec::new()
    });
    let mut recorded: HashMap<Digest, (EvictionClass, Usage)> =
        recorded.into_iter().map(|blob| (blob.1.digest.clone(), blob)).collect();
    for file in files {
        enter(shared, algorithm, &file, &mut recorded);
    }
    // What is recorded but no longer there, nor published meanwhile.
    let missing: Vec<Digest> =
        recorded.into_keys().filter(|digest| !shared.index().contains(digest)).collect();
    if missing.is_empty() { Ok(()) } else { shared.records.drop_stamps(&missing) }
}

fn enter(
    shared: &StoreInner,
    algorithm: Algorithm,
    file: &DirEntry,
    recorded: &mut HashMap<Digest, (EvictionClass, Usage)>,
) {
    let name = file.file_name();
    let digest =
        name.to_str().and_then(|hex| Digest::parse(&format!("{}:{hex}", algorithm.name())).ok());
    let (Some(digest), Ok(metadata)) = (digest, file.metadata()) else { return };
    if metadata.is_file() {
        let unknown = || (EvictionClass::Blob, Usage { digest: digest.clone(), used: 0, uses: 1 });
        let (class, usage) = recorded.remove(&digest).unwrap_or_else(unknown);
        shared.index().insert_found(metadata.len(), class, &usage);
    }
}

/// What is in a folder that need not be there.
fn entries_if_any(folder: &Path) -> Result<Vec<DirEntry>, Error> {
    match premises::check_folder(folder) {
        Ok(()) => entries(folder),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::file("list", folder)(error)),
    }
}

fn entries(folder: &Path) -> Result<Vec<DirEntry>, Error> {
    let listed = std::fs::read_dir(folder).and_then(Iterator::collect);
    listed.map_err(Error::file("list", folder))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use tokio::time::Instant;

    use super::*;
    use crate::store::database::Database;
    use crate::store::facts::Stamp;
    use crate::store::index::Use;
    use crate::store::{BlobStore, Found, create_folder};

    /// Blobs, with their records: a few, or as many as `BLOBS` says, and then the figures are
    /// worth something. `BLOBS=1000000 cargo test --release --lib beside_serving -- --nocapture`
    #[test]
    fn the_index_is_read_beside_serving() {
        let many = std::env::var("BLOBS").ok().and_then(|text| text.parse().ok());
        let folder = tempfile::tempdir().expect("a temporary directory");
        let digests = fill(folder.path(), many.unwrap_or(3000));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let before = resident();
        let store = BlobStore::unloaded_in_test(folder.path());
        let began = Instant::now();
        let loading = std::thread::spawn({
            let shared = std::sync::Arc::clone(&store.0);
            move || load(&shared)
        });
        let mut slowest = std::time::Duration::ZERO;
        for digest in digests.iter().step_by(digests.len() / 50).rev() {
            let asked = Instant::now();
            let found = runtime.block_on(store.open(digest, Use::Whole)).expect("it can be opened");
            assert!(matches!(found, Some(Found::Memory(_))), "{found:?}");
            slowest = slowest.max(asked.elapsed());
        }
        loading.join().expect("it does not panic");
        let index = store.0.index();
        assert_eq!((index.len(), index.is_loaded()), (digests.len(), true));
        let _ = writeln!(
            std::io::stderr(),
            "{} blobs: read in {:.1} s, the slowest of 50 hits meanwhile {:.1} ms, {} bytes a blob",
            digests.len(),
            began.elapsed().as_secs_f64(),
            slowest.as_secs_f64() * 1e3,
            resident().saturating_sub(before) / digests.len(),
        );
    }

    fn fill(folder: &Path, blobs: usize) -> Vec<Digest> {
        let store = BlobStore::in_test(folder);
        let digests: Vec<Digest> =
            (0..blobs).map(|n| Digest::of(Algorithm::Sha256, &n.to_le_bytes())).collect();
        let stamps: Vec<Stamp> = digests
            .iter()
            .enumerate()
            .map(|(n, digest)| {
                create_folder(&store.0.layout.shelf(digest)).expect("the directory is ours");
                let path = store.0.layout.blob(digest);
                std::fs::write(&path, n.to_le_bytes()).expect("the directory is ours");
                Stamp::of(&File::open(path).expect("it is there")).expect("a stamp")
            })
            .collect();
        let database = Database::open(&store.0.layout.database()).expect("tables");
        database.connection().execute_batch("BEGIN").expect("begun");
        for (digest, stamp) in digests.iter().zip(stamps) {
            database.put_stamp(digest, stamp, EvictionClass::Blob, 1).expect("written");
        }
        database.connection().execute_batch("COMMIT").expect("written");
        digests
    }

    /// Bytes of memory that this process has.
    fn resident() -> usize {
        let figures = std::fs::read_to_string("/proc/self/statm").expect("linux");
        let pages = figures.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok());
        pages.expect("a number") * 4096
    }
}
