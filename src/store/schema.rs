//! The tables, and what earlier versions of them lack.

use rusqlite::Connection;

use super::database::Result;

/// Tables of a later version are dropped: what they held can be asked upstream again.
const SCHEMA_VERSION: i64 = 4;

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
    CREATE TABLE IF NOT EXISTS reads (
        digest TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS pins (
        target TEXT PRIMARY KEY, line TEXT NOT NULL, nth INTEGER NOT NULL) WITHOUT ROWID;
";

/// A column that earlier versions lack.
struct AddedColumn {
    /// The first version that has it.
    since: i64,
    table: &'static str,
    name: &'static str,
    kind: &'static str,
    /// What it says of rows from before.
    default: &'static str,
}

const fn added(since: i64, [table, name, kind, default]: [&'static str; 4]) -> AddedColumn {
    AddedColumn { since, table, name, kind, default }
}

const ADDED: [AddedColumn; 4] = [
    added(2, ["members", "doubted", "INTEGER", "NULL"]),
    added(3, ["members", "seen", "INTEGER NOT NULL", "0"]),
    added(3, ["blobs", "uses", "INTEGER NOT NULL", "1"]),
    // Nobody is known to have sent what was stored before: that an upstream counts as having it may
    // be its own word alone.
    added(4, ["blobs", "senders", "TEXT NOT NULL", "''"]),
];

/// Makes the tables, or adds what those of an earlier version lack, so that nobody's records are
/// lost over it; in one transaction, so that a crash leaves one version or the other.
pub(super) fn prepare(connection: &Connection) -> Result<()> {
    let found = version(connection)?;
    if is_earlier(found) {
        let add = |column: &AddedColumn| {
            let AddedColumn { table, name, kind, default, .. } = column;
            format!("ALTER TABLE {table} ADD COLUMN {name} {kind} DEFAULT {default};")
        };
        let columns: String = lacking(found).map(add).collect();
        connection.execute_batch(&format!(
            "BEGIN; {columns} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
        ))?;
    } else if found != SCHEMA_VERSION {
        connection.execute_batch(
            "DROP TABLE IF EXISTS blobs; DROP TABLE IF EXISTS tags;
             DROP TABLE IF EXISTS members; DROP TABLE IF EXISTS repositories;",
        )?;
        connection.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    }
    connection.execute_batch(TABLES)
}

/// Lets tables of an earlier version be read as if they were of this one, and changes nothing on
/// the disk: for this connection, views stand before those that lack something. Nothing can be
/// written to them.
///
/// # Errors
/// If there are no tables that can be read so.
pub(super) fn read_as_found(connection: &Connection) -> Result<()> {
    let found = version(connection)?;
    if found == SCHEMA_VERSION {
        return Ok(());
    }
    if !is_earlier(found) {
        return Err(rusqlite::Error::InvalidQuery);
    }
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    for table in ["blobs", "members"] {
        let of_table = lacking(found).filter(|column| column.table == table);
        let as_column =
            |AddedColumn { name, default, .. }: &AddedColumn| format!(", {default} AS {name}");
        let columns = of_table.map(as_column).collect::<Vec<_>>().concat();
        connection.execute_batch(&format!(
            "CREATE TEMP VIEW {table} AS SELECT *{columns} FROM main.{table}"
        ))?;
    }
    Ok(())
}

fn is_earlier(found: i64) -> bool {
    (1..SCHEMA_VERSION).contains(&found)
}

fn lacking(found: i64) -> impl Iterator<Item = &'static AddedColumn> {
    ADDED.iter().filter(move |column| column.since > found)
}

fn version(connection: &Connection) -> Result<i64> {
    connection.pragma_query_value(None, "user_version", |row| row.get(0))
}
