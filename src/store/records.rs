//! Small durable facts: which digest a tag had, what a repository is proven to hold, when that was
//! last confirmed.
//!
//! The tables stand behind caches of a bounded number of rows, so that nothing in use waits for
//! `SQLite`. One lock orders every read and write of the tables with the change of the cache that
//! goes with it: a slow read can never bring back what a later write has removed. Whatever is lost
//! here means "ask upstream", never "allow".

use std::hash::Hash;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;

use super::Error;
use super::changes::{Changed, Changes};
use super::database::Database;
use super::facts::{ContentSender, Member, Senders, Stamp, TagRecord};
use super::io::IoPool;
use super::order::{EvictionClass, Tick, Usage};
use super::tables::Tables;
use super::trim::Doomed;
use crate::clock::Timestamp;
use crate::expiring::weight;
use crate::oci::{CanonicalName, Digest, MediaType, Tag};

/// The share of the cache that the tables may take: 2 %, or a mebibyte if that is more and no more
/// than a quarter.
fn share_of(max_size: u64) -> u64 {
    (max_size / 50).max((1 << 20).min(max_size / 4))
}

/// How long what is not stored here is remembered.
const IDLE_LIFE: Duration = Duration::from_hours(1);

/// Writes after which the tables are measured.
const WRITES_UNMEASURED: u64 = 256;

/// Bytes of rows of each kind that are kept in memory: some 50,000 members.
const TAGS_BYTES: u64 = 8 << 20;
const MEMBERS_BYTES: u64 = 32 << 20;
const CONFIRMED_BYTES: u64 = 4 << 20;
const SENDERS_BYTES: u64 = 16 << 20;

#[derive(Debug)]
pub struct Records {
    tables: Arc<Tables>,
    pool: Arc<IoPool>,
    tags: Cache<(CanonicalName, Tag), TagRecord>,
    members: Cache<(CanonicalName, Digest), Member>,
    confirmed: Cache<CanonicalName, Timestamp>,
    senders: Cache<Digest, Arc<Senders>>,
    writes: AtomicU64,
    changes: Arc<Changes>,
}

impl Records {
    /// Waits until tags or manifests of repositories have changed, and tells which; of one who
    /// follows.
    pub async fn changed(&self) -> Changed {
        self.changes.next().await
    }

    /// Opens the tables as well as the disk allows: they must never stop a start.
    pub(super) fn open(path: &Path, max_size: u64, pool: Arc<IoPool>) -> Self {
        let (tables, trouble) = Tables::open(path, share_of(max_size));
        if let Some(error) = trouble {
            pool.count(&error);
            tracing::warn!(
                %error,
                path = %path.display(),
                "the records cannot be used as usual; what cannot be read of them is asked \
                 upstream, and they are tried again every 10 s"
            );
        }
        Self {
            tables: Arc::new(tables),
            pool,
            tags: Cache::builder()
                .max_capacity(TAGS_BYTES)
                .weigher(|(name, tag): &(CanonicalName, Tag), record: &TagRecord| {
                    weight(name.text_len() + tag.as_str().len() + record.digest.as_str().len())
                })
                .support_invalidation_closures()
                .build(),
            members: Cache::builder()
                .max_capacity(MEMBERS_BYTES)
                .weigher(|(name, digest): &(CanonicalName, Digest), member: &Member| {
                    let kind = member.media_type.as_ref().map_or(0, |kind| kind.as_str().len());
                    weight(name.text_len() + digest.as_str().len() + kind)
                })
                .support_invalidation_closures()
                .build(),
            confirmed: Cache::builder()
                .max_capacity(CONFIRMED_BYTES)
                .weigher(|name: &CanonicalName, _: &Timestamp| weight(name.text_len()))
                .build(),
            senders: Cache::builder()
                .max_capacity(SENDERS_BYTES)
                .weigher(|digest: &Digest, senders: &Arc<Senders>| {
                    let names = senders.upstreams.iter().map(|name| name.as_str().len() + 24);
                    weight(digest.as_str().len() + names.sum::<usize>())
                })
                .build(),
            writes: AtomicU64::new(1),
            changes: Arc::default(),
        }
    }

    /// The digest last recorded for a tag.
    pub async fn tag(&self, name: &CanonicalName, tag: &Tag) -> Result<Option<TagRecord>, Error> {
        let (name, tag) = (name.clone(), tag.clone());
        let find =
            |database: &Database, (name, tag): &(CanonicalName, Tag)| database.tag(name, tag);
        self.cached(&self.tags, (name, tag), |(name, _)| name, find).await
    }

    pub async fn put_tag(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        record: TagRecord,
    ) -> Result<(), Error> {
        let (name, tag, cache) = (name.clone(), tag.clone(), self.tags.clone());
        let changes = Arc::clone(&self.changes);
        self.write(move |database| {
            cache.insert((name.clone(), tag.clone()), record.clone());
            let put = database.put_tag(&name, &tag, &record);
            changes.note(&name);
            put
        })
        .await
    }

    pub async fn drop_tag(&self, name: &CanonicalName, tag: &Tag) -> Result<(), Error> {
        let (name, tag, cache) = (name.clone(), tag.clone(), self.tags.clone());
        self.changes.note(&name);
        self.withdraw(name.clone(), move |database| {
            cache.invalidate(&(name.clone(), tag.clone()));
            database.drop_tag(&name, &tag)
        })
        .await
    }

    /// Every tag that leads to `digest` is forgotten.
    pub async fn drop_tags_of(&self, name: &CanonicalName, digest: &Digest) -> Result<(), Error> {
        let (name, digest, cache) = (name.clone(), digest.clone(), self.tags.clone());
        self.withdraw(name.clone(), move |database| {
            let (of, to) = (name.clone(), digest.clone());
            // Cannot fail: the cache was built with support for it.
            let _ = cache
                .invalidate_entries_if(move |(name, _), record| *name == of && record.digest == to);
            database.drop_tags_of(&name, &digest)
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
        let find = |database: &Database, (name, digest): &(CanonicalName, Digest)| {
            database.member(name, digest)
        };
        self.cached(&self.members, key, |(name, _)| name, find).await
    }

    /// Some digest that is proven to be a manifest of `name`, and not in doubt.
    pub async fn any_manifest(&self, name: &CanonicalName) -> Result<Option<Digest>, Error> {
        self.ask(name.clone(), Database::any_manifest).await
    }

    /// The next tags of `name` behind `after` and where they lead, at most so many of them.
    pub async fn tags_after(
        &self,
        name: &CanonicalName,
        after: String,
        max: usize,
    ) -> Result<Vec<(Tag, Digest)>, Error> {
        let find = move |database: &Database, name: &CanonicalName| {
            database.tags_of(name, &after, max).map(Some)
        };
        Ok(self.ask(name.clone(), find).await?.unwrap_or_default())
    }

    /// Digests that are proven to be manifests of `name` and not in doubt, at most so many of them.
    pub async fn manifests(
        &self,
        name: &CanonicalName,
        max: usize,
    ) -> Result<Vec<(Digest, MediaType)>, Error> {
        let find = move |database: &Database, name: &CanonicalName| {
            database.manifests(name, max).map(Some)
        };
        Ok(self.ask(name.clone(), find).await?.unwrap_or_default())
    }

    pub async fn put_member(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        member: Member,
    ) -> Result<(), Error> {
        let (key, cache) = ((name.clone(), digest.clone()), self.members.clone());
        let changes = member.media_type.as_ref().map(|_| Arc::clone(&self.changes));
        self.write(move |database| {
            let (name, digest) = &key;
            let written = database.put_member(name, digest, &member);
            if let Some(changes) = changes {
                changes.note(name);
            }
            // The table may know a media type that this proof does not.
            if written.is_ok() {
                cache.invalidate(&key);
            } else {
                // Proven all the same, until the process ends.
                let recorded = || database.member(name, digest).ok().flatten();
                let known = cache.get(&key).or_else(recorded).and_then(|known| known.media_type);
                let media_type = member.media_type.clone().or(known);
                cache.insert(key, Member { media_type, ..member });
            }
            written
        })
        .await
    }

    /// Upstream says that `digest` is not in `name`.
    pub async fn drop_member(&self, name: &CanonicalName, digest: &Digest) -> Result<(), Error> {
        let (name, digest, cache) = (name.clone(), digest.clone(), self.members.clone());
        self.withdraw(name.clone(), move |database| {
            cache.invalidate(&(name.clone(), digest.clone()));
            database.drop_member(&name, &digest)
        })
        .await
    }

    /// Upstream has refused something of `name`: each of its members is in doubt until upstream has
    /// confirmed it by itself. Written down, so that a restart does not believe them again.
    pub async fn doubt_members(&self, name: &CanonicalName) -> Result<(), Error> {
        let (name, members) = (name.clone(), self.members.clone());
        self.withdraw(name.clone(), move |database| {
            let of = name.clone();
            // Cannot fail: the cache was built with support for it.
            let _ = members.invalidate_entries_if(move |(name, _), _| *name == of);
            database.doubt_members(&name)
        })
        .await
    }

    /// When upstream last answered 2xx for content of `name`.
    pub async fn confirmed(&self, name: &CanonicalName) -> Result<Option<Timestamp>, Error> {
        self.cached(&self.confirmed, name.clone(), |name| name, Database::confirmed).await
    }

    pub async fn put_confirmed(&self, name: &CanonicalName, at: Timestamp) -> Result<(), Error> {
        let (name, cache) = (name.clone(), self.confirmed.clone());
        self.write(move |database| {
            cache.insert(name.clone(), at);
            database.put_confirmed(&name, at)
        })
        .await
    }

    /// Who has sent the bytes of `digest`, as far as they are stored and that is recorded.
    pub async fn senders(&self, digest: &Digest) -> Result<Option<Arc<Senders>>, Error> {
        if let Some(known) = self.known_senders(digest) {
            return Ok(Some(known));
        }
        let (tables, cache, digest) =
            (Arc::clone(&self.tables), self.senders.clone(), digest.clone());
        let read = move || {
            tables.run("read", |database| {
                let found = database.senders(&digest)?.map(Arc::new);
                if let Some(senders) = &found {
                    cache.insert(digest, Arc::clone(senders));
                }
                Ok(found)
            })
        };
        self.pool.run(read).await
    }

    /// As [`Records::senders`], as far as that is in memory.
    pub fn known_senders(&self, digest: &Digest) -> Option<Arc<Senders>> {
        self.senders.get(digest)
    }

    /// The bytes of `digest`, which are published, come from there.
    pub(super) fn add_sender(&self, digest: &Digest, sender: &ContentSender) -> Result<(), Error> {
        self.tables.run("write", |database| {
            let recorded = database.senders(digest);
            let mut senders = match (self.senders.get(digest), &recorded) {
                (Some(known), _) => known.as_ref().clone(),
                (None, Ok(Some(known))) => known.clone(),
                (None, Ok(None) | Err(_)) => Senders::default(),
            };
            senders.add(sender);
            // Also where the table cannot be written: what they have sent, they have.
            self.senders.insert(digest.clone(), Arc::new(senders.clone()));
            if recorded?.as_ref() == Some(&senders) {
                return Ok(());
            }
            database.put_senders(digest, &senders)
        })
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
        self.tables.run("write", |database| {
            database.put_stamp(digest, stamp, class, used)?;
            // Who has sent it may be known from when there was no row for it to be written to.
            match self.senders.get(digest) {
                Some(known) => database.put_senders(digest, &known),
                None => Ok(()),
            }
        })
    }

    /// That the file, which is still to be hashed, is there, if nothing is recorded of it.
    pub(super) fn put_unchecked(
        &self,
        digest: &Digest,
        class: EvictionClass,
        used: Tick,
    ) -> Result<(), Error> {
        self.tables.run("write", |database| match database.stamp(digest)? {
            Some(_) => Ok(()),
            None => database.put_stamp(digest, Stamp::OF_NO_FILE, class, used),
        })
    }

    /// Forgets tags that lead there. That upstream has them is not denied.
    pub(super) fn forget_tags(&self, tags: &[(CanonicalName, Tag, Digest)]) -> Result<(), Error> {
        self.tables.run("write", |database| {
            database.forget_tags(tags)?;
            for (name, tag, _) in tags {
                self.tags.invalidate(&(name.clone(), tag.clone()));
            }
            Ok(())
        })
    }

    /// Forgets what was proven to be in repositories. That upstream has it is not denied.
    pub(super) fn forget_members(&self, members: &[(CanonicalName, Digest)]) -> Result<(), Error> {
        self.tables.run("write", |database| {
            database.forget_members(members)?;
            for member in members {
                self.members.invalidate(member);
            }
            Ok(())
        })
    }

    pub(super) fn drop_stamps(&self, digests: &[Digest]) -> Result<(), Error> {
        self.tables.run("write", |database| database.drop_stamps(digests))
    }

    pub(super) fn put_recency(&self, uses: &[Usage]) -> Result<(), Error> {
        self.tables.run("write", |database| database.put_recency(uses))
    }

    /// What is recorded of stamped files whose digest begins so.
    pub(super) fn blobs(&self, beginning: &str) -> Result<Vec<(EvictionClass, Usage)>, Error> {
        self.tables.run("read", |database| database.blobs(beginning))
    }

    /// Some rows, for a survey of all; blocks.
    pub(super) fn page<T>(
        &self,
        read: impl FnOnce(&Database) -> rusqlite::Result<T>,
    ) -> Result<T, Error> {
        self.tables.run("read", |database| read(database))
    }

    /// Takes over a changed `max_size`.
    pub(super) fn set_max_size(&self, max_size: u64) {
        self.tables.set_share(share_of(max_size));
    }

    /// Bytes of the tables and their log.
    pub(super) fn bytes_on_disk(&self) -> u64 {
        self.tables.bytes_on_disk()
    }

    /// Keeps the tables from growing with everything that was ever asked for: removes what they say
    /// of content that is not here, and then what is too much, the oldest first.
    pub(super) fn tidy(&self, now: Timestamp) -> Result<(), Error> {
        let before = Timestamp::from_unix(now.unix().saturating_sub(IDLE_LIFE));
        self.tables.sweep(Doomed::Idle, before)?;
        self.tables.meet_share()
    }

    /// Tries again what the disk has not allowed.
    pub(super) fn heal(&self) -> Result<(), Error> {
        let was_makeshift = self.tables.is_makeshift();
        self.tables.heal()?;
        if was_makeshift {
            self.changes.note_all();
        }
        Ok(())
    }

    /// Files whose digest begins so and that were last read before `before`.
    pub(super) fn due(
        &self,
        beginning: &str,
        before: Tick,
    ) -> Result<Vec<(Digest, bool, u8)>, Error> {
        self.tables.run("read", |database| database.due(beginning, before))
    }

    pub(super) fn note_read(&self, digests: &[Digest], at: Tick) -> Result<(), Error> {
        self.tables.run("write", |database| database.note_read(digests, at))
    }

    /// The lines of pins that commands have set, the first first; blocks.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn pins(&self) -> Result<Vec<String>, Error> {
        self.tables.run("read", |database| database.pins())
    }

    /// Sets pins, each by what it is for and as a line; blocks.
    ///
    /// # Errors
    /// If the records cannot be written.
    pub fn put_pins(&self, pins: &[(String, String)]) -> Result<(), Error> {
        self.tables.run("write", |database| database.put_pins(pins))
    }

    /// Forgets pins by what they are for; blocks.
    ///
    /// # Errors
    /// If the records cannot be written.
    pub fn drop_pins(&self, targets: &[String]) -> Result<(), Error> {
        self.tables.run("write", |database| database.drop_pins(targets))
    }

    /// The cached row, else the table's, which is then cached; absence is not.
    async fn cached<K, V>(
        &self,
        cache: &Cache<K, V>,
        key: K,
        name_of: impl FnOnce(&K) -> &CanonicalName,
        find: impl FnOnce(&Database, &K) -> rusqlite::Result<Option<V>> + Send + 'static,
    ) -> Result<Option<V>, Error>
    where
        K: Hash + Eq + Send + Sync + 'static,
        V: Clone + Send + Sync + 'static,
    {
        if let Some(row) = cache.get(&key) {
            return Ok(Some(row));
        }
        let (cache, name) = (cache.clone(), name_of(&key).clone());
        self.ask(name, move |database, _| {
            let row = find(database, &key)?;
            if let Some(row) = &row {
                cache.insert(key, row.clone());
            }
            Ok(row)
        })
        .await
    }

    async fn ask<T: Send + 'static>(
        &self,
        name: CanonicalName,
        query: impl FnOnce(&Database, &CanonicalName) -> rusqlite::Result<Option<T>> + Send + 'static,
    ) -> Result<Option<T>, Error> {
        let tables = Arc::clone(&self.tables);
        self.pool.run(move || tables.ask(&name, |database| query(database, &name))).await
    }

    async fn write(
        &self,
        change: impl FnOnce(&Database) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        let tables = Arc::clone(&self.tables);
        self.pool.run(move || tables.run("write", |database| change(database))).await?;
        self.keep_measured().await
    }

    /// Measures the tables after so many writes, before they are far too large.
    async fn keep_measured(&self) -> Result<(), Error> {
        if !self.writes.fetch_add(1, Ordering::Relaxed).is_multiple_of(WRITES_UNMEASURED) {
            return Ok(());
        }
        let tables = Arc::clone(&self.tables);
        self.pool.run(move || tables.meet_share()).await
    }

    /// As [`Records::write`], for what must not be believed any more.
    async fn withdraw(
        &self,
        name: CanonicalName,
        change: impl FnOnce(&Database) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), Error> {
        let tables = Arc::clone(&self.tables);
        self.pool.run(move || tables.withdraw(&name, |database| change(database))).await
    }
}
