//! The tables, and what earlier versions of them lack.

use rusqlite::Connection;

use super::database::Result;

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

pub(super) const TABLES: &str = "
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

/// Makes the tables, or brings those of an earlier version up to this one.
pub(super) fn prepare(connection: &Connection) -> Result<()> {
    for (from, migration) in MIGRATIONS {
        if version(connection)? == from {
            connection.execute_batch(migration)?;
        }
    }
    if version(connection)? != SCHEMA_VERSION {
        connection.execute_batch(
            "DROP TABLE IF EXISTS blobs; DROP TABLE IF EXISTS tags;
             DROP TABLE IF EXISTS members; DROP TABLE IF EXISTS repositories;",
        )?;
        connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    connection.execute_batch(TABLES)
}

/// Whether there are tables of this version.
pub(super) fn is_current(connection: &Connection) -> Result<bool> {
    Ok(version(connection)? == SCHEMA_VERSION)
}

fn version(connection: &Connection) -> Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}
