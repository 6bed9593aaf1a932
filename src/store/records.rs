//! Small durable facts: which digest a tag had, what a repository is proven to hold, when that was
//! last confirmed.
//!
//! The tables stand behind caches of a bounded number of rows, so that nothing in use waits for
//! `SQLite`. One lock orders every read and write of the tables with the change of the cache that
//! goes with it: a slow read can never bring back what a later write has removed. Whatever is lost
//! here means "ask upstream", never "allow".

use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use moka::sync::Cache;
use rusqlite::ErrorCode;

use super::database::Database;
use super::facts::{Member, Stamp, TagRecord};
use super::index::{EvictionClass, Tick};
use super::io::IoPool;
use super::{Error, lock};
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, Tag};

/// Rows of each kind that are kept in memory. What a row holds is bounded by the grammar: two names
/// of 255 bytes, a tag of 128 or a digest, a media type of 255.
const CACHED_ROWS: u64 = 100_000;

#[derive(Debug)]
pub struct Records {
    tables: Arc<Tables>,
    pool: Arc<IoPool>,
    tags: Cache<(CanonicalName, Tag), TagRecord>,
    members: Cache<(CanonicalName, Digest), Member>,
    confirmed: Cache<CanonicalName, Timestamp>,
}

impl Records {
    /// Opens the tables. A damaged file is renamed aside: it must never stop a start.
    pub(super) fn open(path: &Path, pool: Arc<IoPool>) -> Result<Self, Error> {
        let tables = Arc::new(Tables::open(path)?);
        Ok(Self {
            tables,
            pool,
            tags: Cache::builder()
                .max_capacity(CACHED_ROWS)
                .support_invalidation_closures()
                .build(),
            members: Cache::builder()
                .max_capacity(CACHED_ROWS)
                .support_invalidation_closures()
                .build(),
            confirmed: Cache::new(CACHED_ROWS),
        })
    }

    /// The digest last recorded for a tag.
    pub async fn tag(&self, name: &CanonicalName, tag: &Tag) -> Result<Option<TagRecord>, Error> {
        let (name, tag) = (name.clone(), tag.clone());
        self.cached(&self.tags, (name, tag), |database, (name, tag)| database.tag(name, tag)).await
    }

    pub async fn put_tag(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        record: TagRecord,
    ) -> Result<(), Error> {
        let (name, tag, cache) = (name.clone(), tag.clone(), self.tags.clone());
        self.write(move |database| {
            cache.insert((name.clone(), tag.clone()), record.clone());
            database.put_tag(&name, &tag, &record)
        })
        .await
    }

    pub async fn drop_tag(&self, name: &CanonicalName, tag: &Tag) -> Result<(), Error> {
        let (name, tag, cache) = (name.clone(), tag.clone(), self.tags.clone());
        self.write(move |database| {
            database.drop_tag(&name, &tag)?;
            cache.invalidate(&(name, tag));
            Ok(())
        })
        .await
    }

    /// Every tag that leads to `digest` is forgotten.
    pub async fn drop_tags_of(&self, name: &CanonicalName, digest: &Digest) -> Result<(), Error> {
        let (name, digest, cache) = (name.clone(), digest.clone(), self.tags.clone());
        self.write(move |database| {
            database.drop_tags_of(&name, &digest)?;
            // Cannot fail: the cache was built with support for it.
            let _ = cache.invalidate_entries_if(move |(of, _), record| {
                *of == name && record.digest == digest
            });
            Ok(())
        })
        .await
    }

    /// Whether `digest` is proven to be in `name`, and as what.
    pub async fn member(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<Member>, Error> {
        let key = (name.clone(), digest.clone());
        self.cached(&self.members, key, |database, (name, digest)| database.member(name, digest))
            .await
    }

    /// Some digest that is proven to be a manifest of `name`, and not in doubt.
    pub async fn any_manifest(&self, name: &CanonicalName) -> Result<Option<Digest>, Error> {
        let name = name.clone();
        self.read(move |database| database.any_manifest(&name)).await
    }

    pub async fn put_member(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        member: Member,
    ) -> Result<(), Error> {
        let (name, digest, cache) = (name.clone(), digest.clone(), self.members.clone());
        self.write(move |database| {
            database.put_member(&name, &digest, &member)?;
            // The table may know a media type that this proof does not.
            cache.invalidate(&(name, digest));
            Ok(())
        })
        .await
    }

    /// Upstream says that `digest` is not in `name`.
    pub async fn drop_member(&self, name: &CanonicalName, digest: &Digest) -> Result<(), Error> {
        let (name, digest, cache) = (name.clone(), digest.clone(), self.members.clone());
        self.write(move |database| {
            cache.invalidate(&(name.clone(), digest.clone()));
            database.drop_member(&name, &digest)
        })
        .await
    }

    /// Upstream has refused something of `name`: each of its members is in doubt until upstream has
    /// confirmed it by itself. Written down, so that a restart does not believe them again.
    pub async fn doubt_members(&self, name: &CanonicalName) -> Result<(), Error> {
        let (name, members) = (name.clone(), self.members.clone());
        self.write(move |database| {
            database.doubt_members(&name)?;
            // Cannot fail: the cache was built with support for it.
            let _ = members.invalidate_entries_if(move |(of, _), _| *of == name);
            Ok(())
        })
        .await
    }

    /// When upstream last answered 2xx for content of `name`.
    pub async fn confirmed(&self, name: &CanonicalName) -> Result<Option<Timestamp>, Error> {
        self.cached(&self.confirmed, name.clone(), Database::confirmed).await
    }

    pub async fn put_confirmed(&self, name: &CanonicalName, at: Timestamp) -> Result<(), Error> {
        let (name, cache) = (name.clone(), self.confirmed.clone());
        self.write(move |database| {
            cache.insert(name.clone(), at);
            database.put_confirmed(&name, at)
        })
        .await
    }

    pub(super) fn stamp(&self, digest: &Digest) -> Result<Option<(Stamp, EvictionClass)>, Error> {
        self.tables.run("read", |database| database.stamp(digest))
    }

    pub(super) fn put_stamp(
        &self,
        digest: &Digest,
        stamp: Stamp,
        class: EvictionClass,
        used: Tick,
    ) -> Result<(), Error> {
        self.tables.run("write", |database| database.put_stamp(digest, stamp, class, used))
    }

    pub(super) fn drop_stamps(&self, digests: &[Digest]) -> Result<(), Error> {
        self.tables.run("write", |database| database.drop_stamps(digests))
    }

    /// Keeps the tables from growing with everything that was ever pulled.
    pub(super) fn prune(&self) -> Result<(), Error> {
        self.tables.run("write", Database::prune)
    }

    pub(super) fn put_recency(&self, uses: &[(Digest, Tick)]) -> Result<(), Error> {
        self.tables.run("write", |database| database.put_recency(uses))
    }

    pub(super) fn each_blob(
        &self,
        each: impl FnMut(Digest, EvictionClass, Tick),
    ) -> Result<(), Error> {
        self.tables.run("read", |database| database.each_blob(each))
    }

    /// The cached row, else the table's, which is then cached; absence is not.
    async fn cached<K, V>(
        &self,
        cache: &Cache<K, V>,
        key: K,
        find: impl FnOnce(&Database, &K) -> rusqlite::Result<Option<V>> + Send + 'static,
    ) -> Result<Option<V>, Error>
    where
        K: Hash + Eq + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
    {
        if let Some(row) = cache.get(&key) {
            return Ok(Some(row));
        }
        let cache = cache.clone();
        self.read(move |database| {
            let row = find(database, &key)?;
            if let Some(row) = &row {
                cache.insert(key, row.clone());
            }
            Ok(row)
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Database) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let tables = Arc::clone(&self.tables);
        self.pool.run(move || tables.run("read", |database| query(database))).await
    }

    async fn write(
        &self,
        change: impl FnOnce(&Database) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        let tables = Arc::clone(&self.tables);
        self.pool.run(move || tables.run("write", |database| change(database))).await
    }
}

/// The tables, which are begun anew where they turn out to be damaged.
#[derive(Debug)]
struct Tables {
    path: PathBuf,
    database: Mutex<Database>,
}

impl Tables {
    fn open(path: &Path) -> Result<Self, Error> {
        let database = Database::open(path).or_else(|error| start_over(path, &error))?;
        Ok(Self { path: path.to_path_buf(), database: Mutex::new(database) })
    }

    fn run<T>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&mut Database) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        let mut database = lock(&self.database);
        let source = match work(&mut database) {
            Ok(done) => return Ok(done),
            Err(source) => source,
        };
        if matches!(
            source.sqlite_error_code(),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        ) {
            *database = start_over(&self.path, &source)?;
        }
        Err(Error::Database { operation, source })
    }
}

/// Sets damaged tables aside. What they held is asked upstream again.
fn start_over(path: &Path, damage: &rusqlite::Error) -> Result<Database, Error> {
    tracing::warn!(
        error = %damage,
        path = %path.display(),
        "the records are unreadable; starting with new ones"
    );
    set_aside(path)?;
    Database::open(path).map_err(|source| Error::Database { operation: "open", source })
}

/// Renames the database out of the way, and its log with it.
fn set_aside(path: &Path) -> Result<(), Error> {
    for suffix in ["", "-wal", "-shm"] {
        let mut from = path.as_os_str().to_owned();
        from.push(suffix);
        let mut to = path.as_os_str().to_owned();
        to.push(".damaged");
        to.push(suffix);
        match std::fs::rename(&from, &to) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::file("set aside", Path::new(&from))(error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn damage_that_shows_while_running_costs_the_records_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("records.sqlite");
        let digest = |n: u32| Digest::of(Algorithm::Sha256, &n.to_le_bytes());
        let stamp = Stamp { size: 1, mtime: 2 };
        let tables = Tables::open(&path).expect("new tables");
        for n in 0..1000 {
            tables
                .run("write", |database| {
                    database.put_stamp(&digest(n), stamp, EvictionClass::Blob, 3)
                })
                .expect("written");
        }
        drop(tables);
        let mut content = std::fs::read(&path).expect("the tables");
        content[8192..].fill(0xff);
        std::fs::write(&path, content).expect("damaged");
        let tables = Tables::open(&path).expect("the first page is whole");
        let damaged =
            (0..1000).any(|n| tables.run("read", |database| database.stamp(&digest(n))).is_err());
        assert!(damaged, "the damage is met");
        for n in 0..1000 {
            assert!(tables.run("read", |database| database.stamp(&digest(n))).is_ok(), "row {n}");
        }
        tables
            .run("write", |database| database.put_stamp(&digest(1), stamp, EvictionClass::Blob, 3))
            .expect("written again");
        assert!(folder.path().join("records.sqlite.damaged").exists());
    }
}
