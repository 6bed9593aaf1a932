//! What may be forgotten: absences, sizes that manifests told, and tags whose bytes nobody has
//! verified yet.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::freshness::Known;
use crate::clock::{Clock, Timestamp};
use crate::expiring::ExpiringCache;
use crate::limits::Limits;
use crate::oci::{CanonicalName, Digest, MediaType, Reference, Tag};

/// Entries of each kind.
const ENTRIES: u64 = 100_000;

/// Longer than any question to an upstream takes.
const CHANGE: Duration = Duration::from_mins(2);

/// What upstream said does not exist, for a short time (PROTOCOL §3.12), and what was written
/// through us a moment ago: an answer that was asked for before says what was true then (UPL-8).
#[derive(Debug)]
pub(in crate::pull) struct Absences {
    absent: ExpiringCache<(Subject, CanonicalName), ()>,
    changed: ExpiringCache<(Subject, CanonicalName), Timestamp>,
    clock: Clock,
}

/// The time between two changes, as a part of what questions are known by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::pull) struct Era(Option<Timestamp>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(in crate::pull) enum Subject {
    Manifest(Reference),
    Blob(Digest),
    /// Changed with every manifest and tag of the repository: which tags a manifest had is not
    /// always known.
    Tags,
    Referrers(Digest),
}

impl Subject {
    /// The value of the metric label `kind`.
    pub(in crate::pull) fn kind(&self) -> &'static str {
        match self {
            Self::Manifest(Reference::Digest(_)) => "manifest",
            Self::Manifest(Reference::Tag(_)) => "tag",
            Self::Blob(_) => "blob",
            Self::Tags => "tags",
            Self::Referrers(_) => "referrers",
        }
    }

    /// How long its absence is believed. Nearly every pull asks for referrers, and for the tags
    /// that stand in for them where there is no such API (REF-5).
    fn believed(&self, limits: &Limits) -> Duration {
        match self {
            Self::Referrers(_) => limits.negative_referrers,
            Self::Manifest(Reference::Tag(tag))
                if ["sha256-", "sha512-"].iter().any(|head| tag.as_str().starts_with(head)) =>
            {
                limits.negative_referrers
            }
            Self::Manifest(_) | Self::Blob(_) | Self::Tags => limits.negative,
        }
    }
}

impl Absences {
    pub(in crate::pull) fn new(clock: Clock) -> Self {
        let changed = ExpiringCache::new(ENTRIES, clock.clone());
        Self { absent: ExpiringCache::new(ENTRIES, clock.clone()), changed, clock }
    }

    /// Believes that there is no such thing; but not if it was written just now.
    pub(in crate::pull) fn hold(&self, subject: Subject, name: &CanonicalName, limits: &Limits) {
        let key = (subject, name.clone());
        if !self.changed.contains(&key) {
            let life = key.0.believed(limits);
            self.absent.insert(key, (), life);
        }
    }

    pub(in crate::pull) fn contains(&self, subject: &Subject, name: &CanonicalName) -> bool {
        self.absent.contains(&(subject.clone(), name.clone()))
    }

    /// It has been written, or deleted, through us.
    pub(in crate::pull) fn changed(&self, subject: Subject, name: &CanonicalName) {
        let key = (subject, name.clone());
        self.changed.insert(key.clone(), self.clock.now(), CHANGE);
        self.absent.remove(&key);
    }

    /// When it was last written through us, if that is not long ago: whoever asks from then on
    /// joins no older question.
    pub(in crate::pull) fn era(&self, subject: &Subject, name: &CanonicalName) -> Era {
        Era(self.changed.get(&(subject.clone(), name.clone())))
    }

    /// Whether an answer that was asked for at `asked` may be older than a change.
    pub(in crate::pull) fn outdated(
        &self,
        subject: &Subject,
        name: &CanonicalName,
        asked: Timestamp,
    ) -> bool {
        self.changed.get(&(subject.clone(), name.clone())).is_some_and(|changed| asked <= changed)
    }
}

/// A tag that a HEAD has resolved; its bytes are not verified under the repository yet (DESIGN
/// §14.2).
#[derive(Clone, Debug)]
pub(in crate::pull) struct Provisional {
    pub(in crate::pull) known: Known,
    pub(in crate::pull) media_type: Option<MediaType>,
    pub(in crate::pull) size: Option<u64>,
}

/// Provisional tags, by tag and by the digest whose bytes would make them durable.
#[derive(Debug)]
pub(in crate::pull) struct ProvisionalTags {
    by_tag: Cache<(CanonicalName, Tag), Provisional>,
    by_digest: Cache<(CanonicalName, Digest), Arc<[Tag]>>,
}

impl ProvisionalTags {
    pub(in crate::pull) fn new() -> Self {
        Self { by_tag: Cache::new(ENTRIES), by_digest: Cache::new(ENTRIES) }
    }

    pub(in crate::pull) fn get(&self, name: &CanonicalName, tag: &Tag) -> Option<Provisional> {
        self.by_tag.get(&(name.clone(), tag.clone()))
    }

    pub(in crate::pull) fn put(&self, name: &CanonicalName, tag: &Tag, provisional: Provisional) {
        let digest = (name.clone(), provisional.known.digest.clone());
        self.by_tag.insert((name.clone(), tag.clone()), provisional);
        self.by_digest.entry(digest).and_upsert_with(|tags| {
            let others = tags
                .into_iter()
                .flat_map(|tags| tags.into_value().to_vec())
                .filter(|other| other != tag);
            others.chain([tag.clone()]).collect()
        });
    }

    pub(in crate::pull) fn drop_tag(&self, name: &CanonicalName, tag: &Tag) {
        self.by_tag.invalidate(&(name.clone(), tag.clone()));
    }

    /// The tags that still stand for `digest`, whose bytes have now been verified.
    pub(in crate::pull) fn take(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Vec<(Tag, Timestamp)> {
        let tags = self.by_digest.remove(&(name.clone(), digest.clone())).unwrap_or_default();
        let stands = |tag: &Tag| {
            self.get(name, tag).filter(|provisional| provisional.known.digest == *digest)
        };
        tags.iter().filter_map(|tag| Some((tag.clone(), stands(tag)?.known.checked))).collect()
    }
}

/// Sizes by descriptor: what a blob of a repository should weigh, before upstream is asked (DESIGN
/// §14.5).
#[derive(Debug)]
pub(in crate::pull) struct Sizes(Cache<(CanonicalName, Digest), u64>);

impl Sizes {
    pub(in crate::pull) fn new() -> Self {
        Self(Cache::new(ENTRIES))
    }

    pub(in crate::pull) fn get(&self, name: &CanonicalName, digest: &Digest) -> Option<u64> {
        self.0.get(&(name.clone(), digest.clone()))
    }

    pub(in crate::pull) fn put(&self, name: &CanonicalName, digest: Digest, size: u64) {
        self.0.insert((name.clone(), digest), size);
    }
}
