//! Which files are to be read again, because nobody has for long: what a scrub goes by.
//!
//! What was read and found right is noted, so that a scrub goes on after a restart where it was. A
//! file of which nothing is noted was read when it was written. One of which nothing is recorded at
//! all is hashed before it is believed, whoever asks for it.

use std::sync::Arc;

use rusqlite::params;

use super::database::{Database, Result as Rows};
use super::layout::ALGORITHMS;
use super::order::Tick;
use super::{BlobStore, Error, tick};
use crate::clock::Timestamp;
use crate::oci::Digest;

/// Files that are named at once, of each kind.
const NAMED_MAX: usize = 2000;

/// A file that is to be read again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DueFile {
    pub digest: Digest,
    pub is_manifest: bool,
}

/// Of some files: digest, whether it is a manifest, and how often it was asked for.
type DueRow = (Digest, bool, u8);

impl BlobStore {
    /// Files that were last read before `before`, some of them: manifests first, which hold images
    /// together, then what is asked for again and again. Counts as no use.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub async fn due_files(&self, before: Timestamp) -> Result<Vec<DueFile>, Error> {
        let (mut kinds, before): ([Vec<DueFile>; 3], _) = (Default::default(), tick(before));
        for algorithm in ALGORITHMS {
            for shelf in 0..=u8::MAX {
                let shared = Arc::clone(&self.0);
                let beginning = format!("{}:{shelf:02x}", algorithm.name());
                let rows = self.0.pool.run(move || shared.records.due(&beginning, before)).await?;
                for (digest, is_manifest, uses) in rows {
                    let kind = &mut kinds[if is_manifest { 0 } else { 2 - usize::from(uses > 1) }];
                    if kind.len() < NAMED_MAX {
                        kind.push(DueFile { digest, is_manifest });
                    }
                }
            }
        }
        Ok(kinds.concat())
    }

    /// These were read at `now`.
    ///
    /// # Errors
    /// If the records cannot be written.
    pub async fn note_read(&self, digests: Vec<Digest>, now: Timestamp) -> Result<(), Error> {
        let (shared, now) = (Arc::clone(&self.0), tick(now));
        self.0.pool.run(move || shared.records.note_read(&digests, now)).await
    }
}

impl Database {
    /// Files whose digest begins so and that were last read before `before`. A time of writing is in
    /// nanoseconds, a moment in microseconds.
    pub(super) fn due(&mut self, beginning: &str, before: Tick) -> Rows<Vec<DueRow>> {
        let gone = "DELETE FROM reads WHERE digest BETWEEN ?1 AND ?1 || 'g'
            AND NOT EXISTS (SELECT 1 FROM blobs WHERE blobs.digest = reads.digest)";
        // Tidying only: a disk that takes nothing can be read all the same.
        let _ = self.connection().prepare_cached(gone)?.execute([beginning]);
        let mut select = self.connection().prepare_cached(
            "SELECT blobs.digest, manifest, uses FROM blobs LEFT JOIN reads USING (digest)
             WHERE blobs.digest BETWEEN ?1 AND ?1 || 'g' AND coalesce(at, mtime / 1000) <= ?2",
        )?;
        let rows = select.query_map(params![beginning, before], |row| {
            Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?))
        })?;
        let known = |(digest, is_manifest, uses): (String, bool, u8)| {
            Some((Digest::parse(&digest).ok()?, is_manifest, uses))
        };
        Ok(rows.collect::<Rows<Vec<_>>>()?.into_iter().filter_map(known).collect())
    }

    pub(super) fn note_read(&mut self, digests: &[Digest], at: Tick) -> Rows<()> {
        let put = "INSERT OR REPLACE INTO reads (digest, at) VALUES (?1, ?2)";
        let rows: Vec<_> = digests.iter().map(|digest| (digest.as_str(), at)).collect();
        self.each_row(put, rows.into_iter())
    }
}
