//! Taking content and what is known of it out of the cache on an operator's word. It is then simply
//! not cached: the next pull asks upstream for it.

use super::database::{Database, Result as Done};
use super::room::Removed;
use super::{BlobStore, Error};
use crate::oci::{CanonicalName, Digest, Tag};

/// Rows, or files, after which others get their turn.
const STEP: usize = 500;

/// What is known of content, by its rows.
#[derive(Clone, Debug, Default)]
pub struct KnownOf {
    /// With where they lead: a tag that has moved meanwhile stays.
    pub tags: Vec<(CanonicalName, Tag, Digest)>,
    pub members: Vec<(CanonicalName, Digest)>,
}

impl BlobStore {
    /// Whether everything that is stored is known by now.
    pub fn is_loaded(&self) -> bool {
        self.0.index().is_loaded()
    }

    /// Forgets what is known; blocks.
    ///
    /// # Errors
    /// If the records cannot be written; some of it is then forgotten.
    pub fn forget(&self, known: &KnownOf) -> Result<(), Error> {
        for tags in known.tags.chunks(STEP) {
            self.0.records.forget_tags(tags)?;
        }
        for members in known.members.chunks(STEP) {
            self.0.records.forget_members(members)?;
        }
        Ok(())
    }

    /// Removes content, as far as it is stored; blocks. Who has it open reads on, and what is being
    /// written is another file.
    pub fn remove(&self, digests: &[Digest]) -> Removed {
        let mut removed = Removed::default();
        for digests in digests.chunks(STEP) {
            let victims = {
                let mut index = self.0.index();
                digests.iter().filter_map(|digest| index.take_out(digest)).collect()
            };
            removed += self.0.evict(victims, "purge");
        }
        removed
    }
}

impl Database {
    pub(super) fn forget_tags(&mut self, tags: &[(CanonicalName, Tag, Digest)]) -> Done<()> {
        let rows = tags.iter().map(|(name, tag, digest)| {
            [name.to_string(), tag.as_str().to_owned(), digest.as_str().to_owned()]
        });
        self.each_row("DELETE FROM tags WHERE name = ?1 AND tag = ?2 AND digest = ?3", rows)
    }

    pub(super) fn forget_members(&mut self, members: &[(CanonicalName, Digest)]) -> Done<()> {
        let rows =
            members.iter().map(|(name, digest)| [name.to_string(), digest.as_str().to_owned()]);
        self.each_row("DELETE FROM members WHERE name = ?1 AND digest = ?2", rows)
    }
}
