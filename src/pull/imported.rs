//! What the cache learns from a bundle that its operator trusts: that a repository had content, and
//! where a tag led, at a time that lies behind us. All of it ages from then on, as if the registry
//! had said so then.

use super::core::PullThrough;
use super::facts::subject::Subject;
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, MediaType, Reference, Tag};
use crate::store::{ContentSender, Error, Member, TagRecord};

/// What became of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportedTag {
    New,
    /// It leads there already.
    Present,
    /// It leads elsewhere now.
    Moved,
    /// It stays: the registry said later that it leads to this.
    Newer(TagRecord),
}

impl PullThrough {
    /// When the registry last said that `name` has `digest`.
    pub async fn when_seen(&self, name: &CanonicalName, digest: &Digest) -> Option<Timestamp> {
        let member = self.0.store.records().member(name, digest).await;
        member.ok().flatten().map(|member| member.seen)
    }

    /// When the registry last said where `tag` leads.
    pub async fn when_tag_seen(&self, name: &CanonicalName, tag: &Tag) -> Option<Timestamp> {
        let record = self.0.store.records().tag(name, tag).await;
        record.ok().flatten().map(|record| record.checked)
    }

    /// `name` had `digest`, which is stored, at `seen`; a manifest was served as `media_type`.
    ///
    /// # Errors
    /// If it cannot be recorded.
    pub async fn imported(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        media_type: Option<MediaType>,
        seen: Timestamp,
    ) -> Result<(), Error> {
        let core = &self.0;
        let records = core.store.records();
        let sender = ContentSender { upstream: name.upstream.clone(), is_public: false };
        core.store.note_sender(digest, sender).await?;
        let known = records.member(name, digest).await?;
        let says_more = |known: &Member| {
            known.doubted.is_some()
                || known.seen < seen
                || (known.media_type.is_none() && media_type.is_some())
        };
        if known.as_ref().is_none_or(says_more) {
            let seen = known.map_or(seen, |known| known.seen.max(seen));
            records.put_member(name, digest, Member { media_type, doubted: None, seen }).await?;
        }
        if records.confirmed(name).await?.is_none_or(|confirmed| confirmed < seen) {
            records.put_confirmed(name, seen).await?;
        }
        // That it was absent is remembered for a while, and what is attached to it as well.
        core.negative.forget(&Subject::Blob(digest.clone()), name);
        core.negative.forget(&Subject::Manifest(Reference::Digest(digest.clone())), name);
        Ok(())
    }

    /// `tag` led to `digest`, which is imported, at `seen`. It moves forward in time only, unless it is
    /// forced.
    ///
    /// # Errors
    /// If it cannot be recorded.
    pub async fn imported_tag(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        imported: TagRecord,
        force: bool,
    ) -> Result<ImportedTag, Error> {
        let core = &self.0;
        let known = core.store.records().tag(name, tag).await?;
        let (record, outcome) = match known {
            None => (imported, ImportedTag::New),
            Some(known) if known.digest == imported.digest => {
                let checked = known.checked.max(imported.checked);
                (TagRecord { checked, ..imported }, ImportedTag::Present)
            }
            Some(known) if known.checked > imported.checked && !force => {
                return Ok(ImportedTag::Newer(known));
            }
            Some(_) => (imported, ImportedTag::Moved),
        };
        core.provisional.drop_tag(name, tag);
        core.store.records().put_tag(name, tag, record).await?;
        core.negative.forget(&Subject::Manifest(Reference::Tag(tag.clone())), name);
        core.negative.forget(&Subject::Tags, name);
        Ok(outcome)
    }

    /// Something that is imported may be attached to `subject`.
    pub fn imported_referrer(&self, name: &CanonicalName, subject: &Digest) {
        self.0.negative.forget(&Subject::Referrers(subject.clone()), name);
    }
}
