//! What the records' tables in `SQLite` are asked and told. Every call blocks; only the I/O pool
//! makes them.

use std::collections::HashSet;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::facts::{Member, Senders, Stamp, TagRecord};
use super::order::{EvictionClass, Tick, Usage};
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, MediaType, Tag};

pub(super) type Result<T> = rusqlite::Result<T>;

#[derive(Debug)]
pub(super) struct Database(Connection);

impl Database {
    /// Over tables of the current version.
    pub(super) fn over(connection: Connection) -> Self {
        Self(connection)
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.0
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
        let rows = digests.iter().map(|digest| [digest.as_str()]);
        self.each_row("DELETE FROM blobs WHERE digest = ?1", rows)
    }

    /// Runs a statement for each of these rows; all of it or nothing.
    pub(super) fn each_row(
        &mut self,
        statement: &str,
        rows: impl Iterator<Item = impl rusqlite::Params>,
    ) -> Result<()> {
        let transaction = self.0.transaction()?;
        for row in rows {
            transaction.prepare_cached(statement)?.execute(row)?;
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

    /// The next tags of the repository behind `after`, in lexical order.
    pub(super) fn tags_of(
        &self,
        name: &CanonicalName,
        after: &str,
        max: usize,
    ) -> Result<Vec<(Tag, Digest)>> {
        let mut select = self.0.prepare_cached(
            "SELECT tag, digest FROM tags WHERE name = ?1 AND tag > ?2 ORDER BY tag LIMIT ?3",
        )?;
        let rows = select.query_map(params![name.to_string(), after, max], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
        })?;
        let known = |(tag, digest): (String, String)| {
            Some((Tag::parse(&tag).ok()?, Digest::parse(&digest).ok()?))
        };
        Ok(rows.collect::<Result<Vec<_>>>()?.into_iter().filter_map(known).collect())
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

fn class_of(manifest: bool) -> EvictionClass {
    if manifest { EvictionClass::Manifest } else { EvictionClass::Blob }
}

pub(super) fn to_millis(at: Timestamp) -> u64 {
    u64::try_from(at.unix().as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn from_millis(millis: u64) -> Timestamp {
    Timestamp::from_unix(Duration::from_millis(millis))
}
