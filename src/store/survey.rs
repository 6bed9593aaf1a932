//! A look at what is kept, for an operator. It blocks, counts as no use of anything, and holds no
//! lock for longer than a page of rows takes.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Row, params};

use super::database::{Database, Result as Rows};
use super::layout::{ALGORITHMS, Layout};
use super::{BlobStore, Error, StoreInner, premises, tick_to_time};
use crate::clock::{Clock, Timestamp};
use crate::config;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::oci::{CanonicalName, Digest, MediaType, Tag};

/// Rows that are read at once.
const PAGE: usize = 1000;

/// What the index says of stored content.
#[derive(Clone, Copy, Debug)]
pub struct Kept {
    /// Bytes.
    pub size: u64,
    pub last_used: Timestamp,
}

/// Of one store; whoever has it may block.
#[derive(Clone, Debug)]
pub struct Survey(Arc<StoreInner>);

impl BlobStore {
    /// Opens a cache that is there, as its server would, for a command that works on it while no
    /// server runs. What root opened would be root's from then on, and no other user's server could
    /// use it any more: only its own user opens it.
    ///
    /// # Errors
    /// As [`BlobStore::new`], and if there is no cache, or it is another user's.
    pub fn existing(cache: &config::Cache, clock: Clock) -> Result<Self, Error> {
        if !cache.path.join("blobs").symlink_metadata().is_ok_and(|found| found.is_dir()) {
            return Err(Error::NoCache { path: cache.path.clone() });
        }
        Self::existing_or_new(cache, clock)
    }

    /// As [`BlobStore::existing`], for a command that fills the cache: where there is none yet, it is
    /// made, in a folder of this user's if that is there.
    ///
    /// # Errors
    /// As [`BlobStore::new`], and if it is another user's.
    pub fn existing_or_new(cache: &config::Cache, clock: Clock) -> Result<Self, Error> {
        let path = &cache.path;
        let found = path.join("blobs").symlink_metadata().or_else(|_| path.metadata());
        let ours = rustix::process::geteuid().as_raw();
        if let Some(owner) = found.ok().map(|found| found.uid()).filter(|owner| *owner != ours) {
            return Err(Error::OfAnother { path: path.clone(), owner });
        }
        Self::new(cache, &Limits::default(), clock, Arc::new(Metrics::new()))
    }

    /// To look at what is kept.
    pub fn survey(&self) -> Survey {
        Survey(Arc::clone(&self.0))
    }
}

impl Survey {
    /// Every tag that is recorded, and where it leads.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn tags(&self) -> Result<Vec<(CanonicalName, Tag, Digest)>, Error> {
        self.pages(|database, last: Option<&(CanonicalName, Tag, Digest)>| {
            database.tags_after(last.map(|(name, tag, _)| (name, tag)))
        })
    }

    /// Every digest that is proven to be a manifest of a repository.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn manifests(&self) -> Result<Vec<(CanonicalName, Digest, MediaType)>, Error> {
        self.pages(|database, last: Option<&(CanonicalName, Digest, MediaType)>| {
            database.manifests_after(last.map(|(name, digest, _)| (name, digest)))
        })
    }

    /// Every digest that is proven to be in a repository, and that `wanted` wants.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn members(
        &self,
        wanted: impl Fn(&Digest) -> bool,
    ) -> Result<Vec<(CanonicalName, Digest)>, Error> {
        let (mut found, mut last) = (Vec::new(), None);
        loop {
            let page = self.0.records.page(|database| database.members_after(last.as_ref()))?;
            let Some(end) = page.last() else { return Ok(found) };
            last = Some(end.clone());
            found.extend(page.into_iter().filter(|(_, digest)| wanted(digest)));
        }
    }

    /// Everything that is stored and that `wanted` wants.
    pub fn all_kept(&self, wanted: impl Fn(&Kept) -> bool) -> Vec<(Digest, Kept)> {
        let (mut found, mut next) = (Vec::new(), Some(0));
        while let Some(from) = next {
            let (page, on) = self.0.index().page(from, PAGE);
            let kept = page
                .into_iter()
                .map(|(digest, size, used)| (digest, Kept { size, last_used: tick_to_time(used) }));
            found.extend(kept.filter(|(_, kept)| wanted(kept)));
            next = on;
        }
        found
    }

    /// Every tag of a repository, and where it leads.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn tags_of(&self, name: &CanonicalName) -> Result<Vec<(Tag, Digest)>, Error> {
        self.pages(|database, last: Option<&(Tag, Digest)>| {
            database.tags_of(name, last.map_or("", |(tag, _)| tag.as_str()), PAGE)
        })
    }

    /// Every digest that is proven to be a manifest of the repository.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn manifests_of(&self, name: &CanonicalName) -> Result<Vec<(Digest, MediaType)>, Error> {
        self.pages(|database, last: Option<&(Digest, MediaType)>| {
            database.manifests_of(name, last.map_or("", |(digest, _)| digest.as_str()))
        })
    }

    /// All rows, a page at a time, each from behind the last one on.
    fn pages<T>(
        &self,
        read: impl Fn(&Database, Option<&T>) -> Rows<Vec<T>>,
    ) -> Result<Vec<T>, Error> {
        let mut rows = Vec::new();
        loop {
            let page = self.0.records.page(|database| read(database, rows.last()))?;
            if page.is_empty() {
                return Ok(rows);
            }
            rows.extend(page);
        }
    }

    /// All content that is stored and recorded, in the order of its digests.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub fn digests(&self) -> Result<Vec<Digest>, Error> {
        let mut digests = Vec::new();
        for algorithm in ALGORITHMS {
            for nth in 0..=u8::MAX {
                let recorded = self.0.records.blobs(&format!("{}:{nth:02x}", algorithm.name()))?;
                let index = self.0.index();
                let recorded = recorded.into_iter().map(|(_, usage)| usage.digest);
                digests.extend(recorded.filter(|digest| index.contains(digest)));
            }
        }
        digests.sort();
        Ok(digests)
    }

    /// What is stored as `digest`, if anything is.
    pub fn kept(&self, digest: &Digest) -> Option<Kept> {
        let (size, used) = self.0.index().find(digest)?;
        Some(Kept { size, last_used: tick_to_time(used) })
    }

    /// Whether it is stored, and stays whatever needs room.
    pub fn stays(&self, digest: &Digest) -> bool {
        self.0.index().is_retained(digest)
    }

    /// The bytes of `digest`, if they are stored, right, and at most so many.
    pub fn bytes(&self, digest: &Digest, max: u64) -> Option<Bytes> {
        if let Some(body) = self.0.small.get(digest) {
            return Some(body);
        }
        let (file, found) = premises::open_plain(&self.0.layout.blob(digest)).ok()?;
        if found.len() > max {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(max).read_to_end(&mut bytes).ok()?;
        (Digest::of(digest.algorithm(), &bytes) == *digest).then(|| bytes.into())
    }
}

/// Rows in their order, from behind this one on; those that cannot be read are left out.
impl Database {
    fn tags_after(
        &self,
        last: Option<(&CanonicalName, &Tag)>,
    ) -> Rows<Vec<(CanonicalName, Tag, Digest)>> {
        let (name, tag) =
            last.map(|(name, tag)| (name.to_string(), tag.as_str())).unwrap_or_default();
        let select = "SELECT name, tag, digest FROM tags WHERE (name, tag) > (?1, ?2)
                      ORDER BY name, tag LIMIT ?3";
        self.page(select, &name, tag, |[name, tag, digest]| {
            Some((
                CanonicalName::parse(&name).ok()?,
                Tag::parse(&tag).ok()?,
                Digest::parse(&digest).ok()?,
            ))
        })
    }

    fn manifests_after(
        &self,
        last: Option<(&CanonicalName, &Digest)>,
    ) -> Rows<Vec<(CanonicalName, Digest, MediaType)>> {
        let (name, digest) =
            last.map(|(name, digest)| (name.to_string(), digest.as_str())).unwrap_or_default();
        let select = "SELECT name, digest, media_type FROM members
                      WHERE (name, digest) > (?1, ?2) AND media_type IS NOT NULL
                      ORDER BY name, digest LIMIT ?3";
        self.page(select, &name, digest, |[name, digest, kind]| {
            Some((
                CanonicalName::parse(&name).ok()?,
                Digest::parse(&digest).ok()?,
                MediaType::parse(&kind)?,
            ))
        })
    }

    fn manifests_of(&self, name: &CanonicalName, after: &str) -> Rows<Vec<(Digest, MediaType)>> {
        let select = "SELECT digest, media_type, '' FROM members
                      WHERE name = ?1 AND digest > ?2 AND media_type IS NOT NULL
                      ORDER BY digest LIMIT ?3";
        self.page(select, &name.to_string(), after, |[digest, kind, _]| {
            Some((Digest::parse(&digest).ok()?, MediaType::parse(&kind)?))
        })
    }

    fn members_after(
        &self,
        last: Option<&(CanonicalName, Digest)>,
    ) -> Rows<Vec<(CanonicalName, Digest)>> {
        let (name, digest) =
            last.map(|(name, digest)| (name.to_string(), digest.as_str())).unwrap_or_default();
        let select = "SELECT name, digest, '' FROM members WHERE (name, digest) > (?1, ?2)
                      ORDER BY name, digest LIMIT ?3";
        self.page(select, &name, digest, |[name, digest, _]| {
            Some((CanonicalName::parse(&name).ok()?, Digest::parse(&digest).ok()?))
        })
    }

    fn page<T>(
        &self,
        select: &str,
        name: &str,
        key: &str,
        read: impl Fn([String; 3]) -> Option<T>,
    ) -> Rows<Vec<T>> {
        let mut select = self.connection().prepare_cached(select)?;
        let texts = |row: &Row<'_>| Ok([row.get(0)?, row.get(1)?, row.get(2)?]);
        let rows = select.query_map(params![name, key, PAGE], texts)?;
        Ok(rows.collect::<Rows<Vec<_>>>()?.into_iter().filter_map(read).collect())
    }
}

/// Published content of a cache that another process may have open: it never changes, and what is
/// evicted meanwhile can be read to its end.
#[derive(Debug)]
pub struct PublishedFiles(Layout);

impl PublishedFiles {
    /// Those of the cache in `path`.
    pub fn of(path: &Path) -> Self {
        Self(Layout::new(path))
    }

    /// # Errors
    /// Those of the system; `NotFound` if it is not there.
    pub fn open(&self, digest: &Digest) -> io::Result<File> {
        premises::open_plain(&self.0.blob(digest)).map(|(file, _)| file)
    }
}
