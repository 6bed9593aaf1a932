//! Opening the records' tables, as well as the disk allows.

use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::database::{Database, Result};
use super::schema;

/// Pages of the log, 512 KiB, after which it is written back. It counts against the cache.
const LOG_PAGES: i64 = 128;

impl Database {
    /// Opens or makes the tables, for their owner alone. WAL with `synchronous = NORMAL`: a power
    /// cut may lose the last commits, never the rest; what is lost is asked upstream again.
    pub(super) fn open(path: &Path) -> Result<Self> {
        make_private(path)?;
        let connection = Connection::open(path)?;
        // Before anything is written: later it takes a VACUUM.
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        connection.busy_timeout(Duration::from_secs(1))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        let database = Self::prepare(connection)?;
        database.become_shrinkable();
        Ok(database)
    }

    /// Rewrites tables of an earlier version once, so that they can give space back. Where there is
    /// no room for that, the next start tries again.
    fn become_shrinkable(&self) {
        let mode =
            self.connection().pragma_query_value(None, "auto_vacuum", |row| row.get::<_, i64>(0));
        if mode.is_ok_and(|mode| mode == 2) {
            return;
        }
        let rewritten = self
            .connection()
            .execute_batch("PRAGMA auto_vacuum = INCREMENTAL; VACUUM")
            .and_then(|()| self.write_log_back());
        if let Err(error) = rewritten {
            tracing::warn!(%error, "the records cannot be made to shrink yet");
        }
    }

    /// The file is shorter only once its log is written back.
    pub(super) fn write_log_back(&self) -> Result<()> {
        self.connection().query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    /// Opens tables that are there for what can be read of them, and asks nothing of a disk that is
    /// full or read-only: without shared memory, whose file it would have to make (the directory is
    /// locked for this process), or, where there is no log and none can be made, as they stand.
    pub(super) fn open_makeshift(path: &Path) -> Result<Self> {
        if !path.symlink_metadata().is_ok_and(|found| found.is_file()) {
            // It would be waited for, or be somebody else's.
            return Err(rusqlite::Error::InvalidPath(path.to_path_buf()));
        }
        let alone = open_uri(path, "vfs=unix-none", OpenFlags::SQLITE_OPEN_READ_WRITE).and_then(
            |connection| {
                connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
                Ok(connection)
            },
        );
        alone.and_then(Self::existing).or_else(|error| {
            let log = path.with_extension("sqlite-wal");
            if log.metadata().is_ok_and(|log| log.len() > 0) {
                // What the log takes back would be believed without it.
                return Err(error);
            }
            open_uri(path, "immutable=1", OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(Self::existing)
        })
    }

    /// Tables that are gone with the process.
    pub(super) fn in_memory() -> Result<Self> {
        Self::prepare(Connection::open_in_memory()?)
    }

    /// Also of an earlier version: an upgrade must not wait for a disk that takes nothing.
    fn existing(connection: Connection) -> Result<Self> {
        schema::read_as_found(&connection)?;
        Ok(Self::over(connection))
    }

    fn prepare(connection: Connection) -> Result<Self> {
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", LOG_PAGES * 4096)?;
        schema::prepare(&connection)?;
        Ok(Self::over(connection))
    }
}

/// The file, made for its owner alone where there is none. The log and the shared memory get their
/// rights from it.
fn make_private(path: &Path) -> Result<()> {
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = options.open(path).and_then(|file| Ok((file.metadata()?, file)));
    let cannot = |message: String| {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CANTOPEN);
        rusqlite::Error::SqliteFailure(code, Some(message))
    };
    let (metadata, file) = file.map_err(|error| cannot(error.to_string()))?;
    if !metadata.is_file() {
        return Err(cannot("it is no plain file".to_owned()));
    }
    if metadata.mode() & 0o077 != 0 {
        // Not ours to change, it is told with the directory's rights.
        drop(file.set_permissions(Permissions::from_mode(0o600)));
    }
    Ok(())
}

fn open_uri(path: &Path, parameter: &str, flags: OpenFlags) -> Result<Connection> {
    // Percent signs, question marks and hashes mean something in it.
    let encoded = path.as_os_str().as_encoded_bytes().iter().map(|byte| match byte {
        b'/' | b'.' | b'-' | b'_' => char::from(*byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(*byte).to_string(),
        byte => format!("%{byte:02X}"),
    });
    let uri = format!("file:{}?{parameter}", encoded.collect::<String>());
    Connection::open_with_flags(
        uri,
        flags | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, CanonicalName, Digest, MediaType, Repository, UpstreamName};
    use crate::store::database::from_millis;
    use crate::store::facts::{Member, Senders, Stamp};
    use crate::store::order::EvictionClass;

    /// What each version has added.
    const LATER: [(i64, &str); 3] = [
        (4, "ALTER TABLE blobs DROP COLUMN senders"),
        (3, "ALTER TABLE blobs DROP COLUMN uses; ALTER TABLE members DROP COLUMN seen"),
        (2, "ALTER TABLE members DROP COLUMN doubted"),
    ];

    const STAMP: Stamp = Stamp { size: 1, mtime: 2 };

    fn a_name() -> CanonicalName {
        CanonicalName {
            upstream: UpstreamName::parse("acme.test").expect("valid"),
            repository: Repository::parse("a/b").expect("valid"),
        }
    }

    fn a_digest() -> Digest {
        Digest::of(Algorithm::Sha256, b"a blob")
    }

    fn a_member() -> Member {
        Member { media_type: MediaType::parse("a/b"), doubted: None, seen: from_millis(0) }
    }

    /// Tables as that version has left them.
    fn write_version(path: &Path, version: i64) {
        let database = Database::open(path).expect("a new file");
        let blob = EvictionClass::Manifest;
        database.put_stamp(&a_digest(), STAMP, blob, 3).expect("a blob");
        // As a HEAD alone leaves it, which a liar answers too.
        database.put_member(&a_name(), &a_digest(), &a_member()).expect("a member");
        let connection = database.connection();
        for (_, later) in LATER.iter().filter(|(since, _)| *since > version) {
            connection.execute_batch(later).expect("columns");
        }
        connection.pragma_update(None, "user_version", version).expect("a version");
    }

    fn says_what_was_written(database: &Database, version: i64) {
        let (name, digest) = (a_name(), a_digest());
        let member = database.member(&name, &digest).expect("a query");
        assert_eq!(member, Some(a_member()), "version {version}");
        let manifest = database.any_manifest(&name).expect("a query");
        assert_eq!(manifest, Some(digest.clone()), "version {version}");
        assert_eq!(database.manifests(&name, 9).expect("a query").len(), 1, "version {version}");
        let stamp = database.stamp(&digest).expect("a query");
        assert_eq!(stamp, Some((STAMP, EvictionClass::Manifest)), "version {version}");
        let blobs = database.blobs("sha256:").expect("a query");
        let uses: Vec<_> = blobs.iter().map(|(_, usage)| (usage.used, usage.uses)).collect();
        assert_eq!(uses, [(3, 1)], "version {version}");
        let senders = database.senders(&digest).expect("a query");
        assert_eq!(senders, Some(Senders::default()), "having it is not having sent it");
    }

    #[test]
    fn records_of_earlier_versions_are_kept() {
        for version in 1..=4 {
            let folder = tempfile::tempdir().expect("a temporary directory");
            let path = folder.path().join("records.sqlite");
            write_version(&path, version);
            for _ in 0..2 {
                let database = Database::open(&path).expect("it is taken over");
                says_what_was_written(&database, version);
                let columns = Senders::parse("acme.test");
                database.put_senders(&a_digest(), &columns).expect("written");
                database.put_senders(&a_digest(), &Senders::default()).expect("written");
            }
        }
    }

    #[test]
    fn records_of_earlier_versions_are_read_where_nothing_can_be_written() {
        for version in 1..=4 {
            let folder = tempfile::tempdir().expect("a temporary directory");
            let path = folder.path().join("records.sqlite");
            write_version(&path, version);
            let before = std::fs::read(&path).expect("tables");
            let database = Database::open_makeshift(&path).expect("they can be read");
            says_what_was_written(&database, version);
            if version < 4 {
                let put = database.put_member(&a_name(), &a_digest(), &a_member());
                let error = put.expect_err("what could be written would be of no version");
                assert!(error.to_string().contains("view"), "{error}");
            }
            drop(database);
            assert!(std::fs::read(&path).expect("tables") == before, "version {version}");
        }
    }

    #[test]
    fn nothing_is_read_of_tables_that_nobody_knows() {
        for version in [0, 5] {
            let folder = tempfile::tempdir().expect("a temporary directory");
            let path = folder.path().join("records.sqlite");
            write_version(&path, version);
            Database::open_makeshift(&path).expect_err("of a later version, or of none");
        }
    }
}
