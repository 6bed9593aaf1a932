//! The records' tables in `SQLite`. Every call blocks; only the I/O pool makes them.

use std::collections::HashSet;
use std::fs::{File, Permissions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::facts::{Member, Senders, Stamp, TagRecord};
use super::order::{EvictionClass, Tick, Usage};
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, MediaType, Tag};

/// Tables of another version are dropped: what they held can be asked upstream again.
const SCHEMA_VERSION: i64 = 4;

/// Each adds what the version before lacks, so that nobody's records are lost over it; in one
/// transaction, so that a crash leaves one version or the other.
const MIGRATIONS: [(i64, &str); 3] = [
    (1, "BEGIN; ALTER TABLE members ADD COLUMN doubted INTEGER; PRAGMA user_version = 2; COMMIT"),
    (
        2,
        "BEGIN; ALTER TABLE members ADD COLUMN seen INTEGER NOT NULL DEFAULT 0;
         ALTER TABLE blobs ADD COLUMN uses INTEGER NOT NULL DEFAULT 1;
         PRAGMA user_version = 3; COMMIT",
    ),
    // Nobody is known to have sent what was stored before: that an upstream counts as having it may
    // be its own word alone.
    (
        3,
        "BEGIN; ALTER TABLE blobs ADD COLUMN senders TEXT NOT NULL DEFAULT '';
         PRAGMA user_version = 4; COMMIT",
    ),
];

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS blobs (
        digest TEXT PRIMARY KEY, size INTEGER NOT NULL, mtime INTEGER NOT NULL,
        manifest INTEGER NOT NULL, used INTEGER NOT NULL, uses INTEGER NOT NULL DEFAULT 1,
        senders TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS tags (
        name TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL, checked INTEGER NOT NULL,
        PRIMARY KEY (name, tag)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS members (
        name TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT, doubted INTEGER,
        seen INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY (name, digest)) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS repositories (
        name TEXT PRIMARY KEY, confirmed INTEGER NOT NULL) WITHOUT ROWID;
";

/// Pages of the log, 512 KiB, after which it is written back. It counts against the cache.
const LOG_PAGES: i64 = 128;

pub(super) type Result<T> = rusqlite::Result<T>;

#[derive(Debug)]
pub(super) struct Database(Connection);

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
        let mode = self.0.pragma_query_value(None, "auto_vacuum", |row| row.get::<_, i64>(0));
        if mode.is_ok_and(|mode| mode == 2) {
            return;
        }
        let rewritten = self
            .0
            .execute_batch("PRAGMA auto_vacuum = INCREMENTAL; VACUUM")
            .and_then(|()| self.write_log_back());
        if let Err(error) = rewritten {
            tracing::warn!(%error, "the records cannot be made to shrink yet");
        }
    }

    /// The file is shorter only once its log is written back.
    pub(super) fn write_log_back(&self) -> Result<()> {
        self.0.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.0
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

    fn existing(connection: Connection) -> Result<Self> {
        if version(&connection)? == SCHEMA_VERSION {
            Ok(Self(connection))
        } else {
            Err(rusqlite::Error::InvalidQuery)
        }
    }

    fn prepare(connection: Connection) -> Result<Self> {
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", LOG_PAGES * 4096)?;
        for (from, migration) in MIGRATIONS {
            if version(&connection)? == from {
                connection.execute_batch(migration)?;
            }
        }
        if version(&connection)? != SCHEMA_VERSION {
            connection.execute_batch(
                "DROP TABLE IF EXISTS blobs; DROP TABLE IF EXISTS tags;
                 DROP TABLE IF EXISTS members; DROP TABLE IF EXISTS repositories;",
            )?;
            connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        connection.execute_batch(TABLES)?;
        Ok(Self(connection))
    }

    /// Drops everything that is recorded about these repositories.
    pub(super) fn forget(&mut self, names: &HashSet<CanonicalName>) -> Result<()> {
        let transaction = self.0.transaction()?;
        for table in ["members", "tags", "repositories"] {
            let delete = format!("DELETE FROM {table} WHERE name = ?1");
            let mut delete = transaction.prepare_cached(&delete)?;
            for name in names {
                delete.execute([name.to_string()])?;
            }
        }
        transaction.commit()
    }

    /// Drops everything that is recorded about repositories.
    pub(super) fn forget_everybody(&mut self) -> Result<()> {
        self.0.execute_batch(
            "BEGIN; DELETE FROM members; DELETE FROM tags; DELETE FROM repositories; COMMIT",
        )
    }

    pub(super) fn stamp(&self, digest: &Digest) -> Result<Option<(Stamp, EvictionClass)>> {
        self.one(
            "SELECT size, mtime, manifest FROM blobs WHERE digest = ?1",
            [digest.as_str()],
            |row| Ok((Stamp { size: row.get(0)?, mtime: row.get(1)? }, class_of(row.get(2)?))),
        )
    }

    pub(super) fn put_stamp(
        &self,
        digest: &Digest,
        stamp: Stamp,
        class: EvictionClass,
        used: Tick,
    ) -> Result<()> {
        let manifest = class == EvictionClass::Manifest;
        self.run(
            "INSERT INTO blobs (digest, size, mtime, manifest, used) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET size = excluded.size, mtime = excluded.mtime,
                manifest = excluded.manifest, used = excluded.used, uses = 1",
            params![digest.as_str(), stamp.size, stamp.mtime, manifest, used],
        )
    }

    /// Who has sent what is stored; nobody, if that is not recorded.
    pub(super) fn senders(&self, digest: &Digest) -> Result<Option<Senders>> {
        self.one("SELECT senders FROM blobs WHERE digest = ?1", [digest.as_str()], |row| {
            Ok(Senders::parse(row.get_ref(0)?.as_str()?))
        })
    }

    /// Goes with the stamp of the file, which there has to be.
    pub(super) fn put_senders(&self, digest: &Digest, senders: &Senders) -> Result<()> {
        self.run(
            "UPDATE blobs SET senders = ?2 WHERE digest = ?1",
            params![digest.as_str(), senders.to_text()],
        )
    }

    pub(super) fn drop_stamps(&mut self, digests: &[Digest]) -> Result<()> {
        let transaction = self.0.transaction()?;
        for digest in digests {
            transaction
                .prepare_cached("DELETE FROM blobs WHERE digest = ?1")?
                .execute([digest.as_str()])?;
        }
        transaction.commit()
    }

    pub(super) fn put_recency(&mut self, uses: &[Usage]) -> Result<()> {
        let transaction = self.0.transaction()?;
        for Usage { digest, used, uses } in uses {
            let mut update = transaction
                .prepare_cached("UPDATE blobs SET used = ?2, uses = ?3 WHERE digest = ?1")?;
            update.execute(params![digest.as_str(), used, uses])?;
        }
        transaction.commit()
    }

    /// What is recorded of stamped files whose digest begins so.
    pub(super) fn blobs(&self, beginning: &str) -> Result<Vec<(EvictionClass, Usage)>> {
        let mut statement = self.0.prepare_cached(
            "SELECT digest, manifest, used, uses FROM blobs WHERE digest BETWEEN ?1 AND ?1 || 'g'",
        )?;
        let mut rows = statement.query([beginning])?;
        let mut blobs = Vec::new();
        while let Some(row) = rows.next()? {
            if let Ok(digest) = Digest::parse(row.get_ref(0)?.as_str()?) {
                let usage = Usage { digest, used: row.get(2)?, uses: row.get(3)? };
                blobs.push((class_of(row.get(1)?), usage));
            }
        }
        Ok(blobs)
    }

    pub(super) fn tag(&self, name: &CanonicalName, tag: &Tag) -> Result<Option<TagRecord>> {
        let row = self.one(
            "SELECT digest, checked FROM tags WHERE name = ?1 AND tag = ?2",
            params![name.to_string(), tag.as_str()],
            |row| Ok((row.get::<_, String>(0)?, row.get::<_, u64>(1)?)),
        )?;
        Ok(row.and_then(|(digest, checked)| {
            Some(TagRecord { digest: Digest::parse(&digest).ok()?, checked: from_millis(checked) })
        }))
    }

    pub(super) fn put_tag(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        record: &TagRecord,
    ) -> Result<()> {
        self.run(
            "INSERT OR REPLACE INTO tags (name, tag, digest, checked) VALUES (?1, ?2, ?3, ?4)",
            params![
                name.to_string(),
                tag.as_str(),
                record.digest.as_str(),
                to_millis(record.checked)
            ],
        )
    }

    pub(super) fn drop_tag(&self, name: &CanonicalName, tag: &Tag) -> Result<()> {
        self.run(
            "DELETE FROM tags WHERE name = ?1 AND tag = ?2",
            params![name.to_string(), tag.as_str()],
        )
    }

    pub(super) fn drop_tags_of(&self, name: &CanonicalName, digest: &Digest) -> Result<()> {
        self.run(
            "DELETE FROM tags WHERE name = ?1 AND digest = ?2",
            params![name.to_string(), digest.as_str()],
        )
    }

    pub(super) fn member(&self, name: &CanonicalName, digest: &Digest) -> Result<Option<Member>> {
        let select =
            "SELECT media_type, doubted, seen FROM members WHERE name = ?1 AND digest = ?2";
        self.one(select, params![name.to_string(), digest.as_str()], |row| {
            Ok(Member {
                media_type: row.get::<_, Option<String>>(0)?.as_deref().and_then(MediaType::parse),
                doubted: row.get::<_, Option<u64>>(1)?.map(from_millis),
                seen: from_millis(row.get(2)?),
            })
        })
    }

    /// Manifests of the repository that are not in doubt, those that were seen last first.
    pub(super) fn manifests(
        &self,
        name: &CanonicalName,
        max: usize,
    ) -> Result<Vec<(Digest, MediaType)>> {
        let mut select = self.0.prepare_cached(
            "SELECT digest, media_type FROM members
             WHERE name = ?1 AND media_type IS NOT NULL AND doubted IS NULL
             ORDER BY seen DESC LIMIT ?2",
        )?;
        let rows = select.query_map(params![name.to_string(), max], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        let known = |(digest, media_type): (String, String)| {
            Some((Digest::parse(&digest).ok()?, MediaType::parse(&media_type)?))
        };
        Ok(rows.collect::<Result<Vec<_>>>()?.into_iter().filter_map(known).collect())
    }

    /// Some manifest of the repository that is not in doubt, to re-confirm the repository by.
    pub(super) fn any_manifest(&self, name: &CanonicalName) -> Result<Option<Digest>> {
        let select = "SELECT digest FROM members
             WHERE name = ?1 AND media_type IS NOT NULL AND doubted IS NULL LIMIT 1";
        let digest = self.one(select, [name.to_string()], |row| row.get::<_, String>(0))?;
        Ok(digest.and_then(|digest| Digest::parse(&digest).ok()))
    }

    /// Adds a member, or confirms it; a media type that is known already stays if none is given.
    pub(super) fn put_member(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        member: &Member,
    ) -> Result<()> {
        self.run(
            "INSERT INTO members (name, digest, media_type, doubted, seen)
             VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT DO UPDATE SET media_type = coalesce(excluded.media_type, media_type),
                doubted = excluded.doubted, seen = excluded.seen",
            params![
                name.to_string(),
                digest.as_str(),
                member.media_type.as_ref().map(MediaType::as_str),
                member.doubted.map(to_millis),
                to_millis(member.seen)
            ],
        )
    }

    pub(super) fn drop_member(&self, name: &CanonicalName, digest: &Digest) -> Result<()> {
        self.run(
            "DELETE FROM members WHERE name = ?1 AND digest = ?2",
            params![name.to_string(), digest.as_str()],
        )
    }

    /// Puts every member in doubt that is not, as of when the repository was last confirmed.
    pub(super) fn doubt_members(&self, name: &CanonicalName) -> Result<()> {
        self.run(
            "UPDATE members SET doubted =
                coalesce((SELECT confirmed FROM repositories WHERE name = ?1), 0)
             WHERE name = ?1 AND doubted IS NULL",
            [name.to_string()],
        )
    }

    pub(super) fn confirmed(&self, name: &CanonicalName) -> Result<Option<Timestamp>> {
        let select = "SELECT confirmed FROM repositories WHERE name = ?1";
        Ok(self.one(select, [name.to_string()], |row| row.get::<_, u64>(0))?.map(from_millis))
    }

    pub(super) fn put_confirmed(&self, name: &CanonicalName, at: Timestamp) -> Result<()> {
        self.run(
            "INSERT OR REPLACE INTO repositories (name, confirmed) VALUES (?1, ?2)",
            params![name.to_string(), to_millis(at)],
        )
    }

    fn one<T>(
        &self,
        select: &str,
        params: impl rusqlite::Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.0.prepare_cached(select)?.query_row(params, read).optional()
    }

    fn run(&self, statement: &str, params: impl rusqlite::Params) -> Result<()> {
        self.0.prepare_cached(statement)?.execute(params).map(|_| ())
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

fn version(connection: &Connection) -> Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn class_of(manifest: bool) -> EvictionClass {
    if manifest { EvictionClass::Manifest } else { EvictionClass::Blob }
}

pub(super) fn to_millis(at: Timestamp) -> u64 {
    u64::try_from(at.unix().as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn from_millis(millis: u64) -> Timestamp {
    Timestamp::from_unix(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, Repository, UpstreamName};

    #[test]
    fn records_of_the_version_before_are_kept() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("records.sqlite");
        let digest = Digest::of(Algorithm::Sha256, b"a blob");
        let name = CanonicalName {
            upstream: UpstreamName::parse("acme.test").expect("valid"),
            repository: Repository::parse("a/b").expect("valid"),
        };
        let before = Connection::open(&path).expect("a new file");
        let first = TABLES
            .replace(" doubted INTEGER,", "")
            .replace("seen INTEGER NOT NULL DEFAULT 0,", "")
            .replace(", uses INTEGER NOT NULL DEFAULT 1,", "")
            .replace("senders TEXT NOT NULL DEFAULT '')", ")");
        before.execute_batch(&first).expect("version 1");
        before.pragma_update(None, "user_version", 1).expect("version 1");
        let blobs =
            "INSERT INTO blobs (digest, size, mtime, manifest, used) VALUES (?1, 1, 1, 0, 1)";
        before.execute(blobs, [digest.as_str()]).expect("a blob");
        // As a HEAD alone leaves it, which a liar answers too.
        before
            .execute(
                "INSERT INTO members (name, digest) VALUES (?1, ?2)",
                [name.to_string(), digest.to_string()],
            )
            .expect("a member");
        drop(before);
        for _ in 0..2 {
            let database = Database::open(&path).expect("it is taken over");
            let member = database.member(&name, &digest).expect("a query");
            let seen = from_millis(0);
            assert_eq!(member, Some(Member { media_type: None, doubted: None, seen }));
            let senders = database.senders(&digest).expect("a query");
            assert_eq!(senders, Some(Senders::default()), "having it is not having sent it");
        }
    }
}
