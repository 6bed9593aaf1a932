//! Taking images out of the cache on an operator's word. The plan is pure: images split into those
//! that go and those that stay, and what goes of the content is what nothing that stays needs. An
//! image that is gone is simply not cached any more; the next pull asks for it upstream (PIN-3).

use std::collections::HashSet;
use std::sync::Arc;

use super::attached::{of_tag, subject};
use super::closure::{Closure, Closures};
use super::{ImageSelection, Pins, Root, roots};
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, Tag};
use crate::store::{BlobStore, Error, KnownOf, Removed, Survey};

/// Which images are to go; all that is said has to hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct PurgeOrder {
    pub(crate) images: Option<ImageSelection>,
    /// Of which no part was used since then. Without `images`, also what no image leads to.
    pub(crate) unused_since: Option<Timestamp>,
}

/// Content, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) files: usize,
    /// On disk.
    pub(crate) bytes: u64,
}

/// What is to go.
#[derive(Debug, Default)]
pub(crate) struct PurgePlan {
    images: Vec<GoingImage>,
    pinned: Vec<GoingImage>,
    known: KnownOf,
    content: Vec<Digest>,
    freed: Amount,
    shared: Amount,
}

/// An image that goes.
#[derive(Clone, Debug)]
pub(crate) struct GoingImage {
    pub(crate) name: CanonicalName,
    pub(crate) tag: Option<Tag>,
    pub(crate) digest: Digest,
}

/// What has gone, or would.
#[derive(Debug)]
pub(crate) struct Purged {
    pub(crate) images: Vec<GoingImage>,
    /// They were meant too, and stay because they are pinned.
    pub(crate) pinned: Vec<GoingImage>,
    pub(crate) freed: Amount,
    /// What these images need and others do too: it stays.
    pub(crate) shared: Amount,
    /// Files that the disk would not let go of.
    pub(crate) refused: usize,
}

/// One image, and what is known of it.
struct Candidate {
    root: Root,
    closure: Arc<Closure>,
    subject: Option<Digest>,
    last_used: Option<Timestamp>,
    is_pinned: bool,
}

#[derive(Default)]
struct Split {
    going: Vec<Candidate>,
    staying: Vec<Candidate>,
    /// Of those that stay, what was named.
    pinned: Vec<GoingImage>,
}

/// Content, each of a repository.
type Members<'a> = HashSet<(&'a CanonicalName, &'a Digest)>;

impl PurgePlan {
    /// Finds out what would go; blocks, and changes nothing.
    ///
    /// # Errors
    /// If the records cannot be read.
    pub(crate) fn make(survey: &Survey, order: &PurgeOrder, pins: &Pins) -> Result<Self, Error> {
        let Split { going, staying, pinned } = split(candidates(survey, pins)?, order);
        let (leaving, left) = (members(&going), members(&staying));
        let forgotten: Members<'_> = leaving.difference(&left).copied().collect();
        let wanted: HashSet<&Digest> = leaving.iter().map(|(_, part)| *part).collect();
        let needed: HashSet<&Digest> = left.iter().map(|(_, part)| *part).collect();
        let others = survey.members(|part| wanted.contains(part) && !needed.contains(part))?;
        let others = others.iter().filter(|(name, part)| !forgotten.contains(&(name, part)));
        let stays: HashSet<&Digest> =
            others.map(|(_, part)| part).chain(needed.iter().copied()).collect();
        let mut plan = Self { pinned, ..Self::default() };
        for part in &wanted {
            match survey.kept(part) {
                Some(kept) if stays.contains(part) || survey.stays(part) => {
                    plan.shared.add(kept.size);
                }
                Some(kept) => plan.take((*part).clone(), kept.size),
                None => {}
            }
        }
        if let (Some(since), None) = (order.unused_since, &order.images) {
            let is_loose = |part: &Digest| !wanted.contains(part) && !stays.contains(part);
            for (part, kept) in survey.all_kept(|kept| kept.last_used < since) {
                if is_loose(&part) && !survey.stays(&part) {
                    plan.take(part, kept.size);
                }
            }
        }
        let owned = |(name, part): &(&CanonicalName, &Digest)| ((*name).clone(), (*part).clone());
        plan.known.members = forgotten.iter().map(owned).collect();
        plan.name(going);
        Ok(plan)
    }

    /// What would go.
    pub(crate) fn describe(self) -> Purged {
        let Self { images, pinned, freed, shared, .. } = self;
        Purged { images, pinned, freed, shared, refused: 0 }
    }

    /// Lets it go; blocks. Names go before content: what a pull finds meanwhile is whole, or it asks
    /// upstream.
    ///
    /// # Errors
    /// If the records cannot be written; no content is then removed.
    pub(crate) fn carry_out(self, store: &BlobStore) -> Result<Purged, Error> {
        store.forget(&self.known)?;
        let Removed { files, bytes, refused } = store.remove(&self.content);
        Ok(Purged { freed: Amount { files, bytes }, refused, ..self.describe() })
    }

    fn take(&mut self, digest: Digest, size: u64) {
        self.content.push(digest);
        self.freed.add(size);
    }

    fn name(&mut self, going: Vec<Candidate>) {
        for Candidate { root, .. } in going {
            self.images.push(GoingImage::of(&root));
            if let Some(tag) = root.tag {
                self.known.tags.push((root.name, tag, root.digest));
            }
        }
    }
}

impl GoingImage {
    fn of(root: &Root) -> Self {
        let Root { name, tag, digest } = root.clone();
        Self { name, tag, digest }
    }
}

impl Amount {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

fn candidates(survey: &Survey, pins: &Pins) -> Result<Vec<Candidate>, Error> {
    let manifests = survey.manifests()?;
    let types = manifests.iter().map(|(_, digest, kind)| (digest.clone(), kind.clone())).collect();
    let mut closures = Closures::new(survey, types);
    let roots = roots(survey, manifests, &mut closures)?;
    let candidate = |root: Root| {
        let closure = closures.of(&root.digest);
        let kept = closure.parts().filter_map(|part| survey.kept(part));
        let last_used = kept.map(|kept| kept.last_used).max();
        let subject = subject(&root, &closure);
        // Another tag of what is pinned may go. What nobody tags, or is attached, goes with its image.
        let is_alone = root.tag.as_ref().is_none_or(|tag| of_tag(tag.as_str()).is_some());
        let is_pinned = is_alone && pins.keep(&root.name, &root.digest)
            || pins.pin_of(&root.name, root.tag.as_ref(), &root.digest).is_some();
        Candidate { root, closure, subject, last_used, is_pinned }
    };
    Ok(roots.into_iter().map(candidate).collect())
}

/// Those that go, and those that stay. What is attached to an image goes and stays with it, unless
/// it is named itself: nobody uses a signature as often as what it signs.
fn split(all: Vec<Candidate>, order: &PurgeOrder) -> Split {
    let here: HashSet<(CanonicalName, Digest)> =
        manifests(&all).into_iter().map(|(name, digest)| (name.clone(), digest.clone())).collect();
    let is_named = |candidate: &Candidate| {
        let is_attached =
            |subject: &Digest| here.contains(&(candidate.root.name.clone(), subject.clone()));
        let is_idle = |since| {
            candidate.last_used.is_some_and(|used| used < since)
                && !candidate.subject.as_ref().is_some_and(is_attached)
        };
        order.images.as_ref().is_none_or(|images| images.means(&candidate.root))
            && order.unused_since.is_none_or(is_idle)
    };
    let (named, mut staying): (Vec<_>, Vec<_>) = all.into_iter().partition(is_named);
    let (kept, mut going): (Vec<_>, Vec<_>) = named.into_iter().partition(|one| one.is_pinned);
    let pinned = kept.iter().map(|one| GoingImage::of(&one.root)).collect();
    staying.extend(kept);
    loop {
        let follows = {
            let (gone, stay) = (manifests(&going), manifests(&staying));
            let follows = |candidate: &Candidate| {
                let subject = candidate.subject.as_ref().map(|of| (&candidate.root.name, of));
                !candidate.is_pinned
                    && subject.is_some_and(|of| gone.contains(&of) && !stay.contains(&of))
            };
            staying.iter().map(follows).collect::<Vec<_>>()
        };
        if !follows.contains(&true) {
            return Split { going, staying, pinned };
        }
        let mut follows = follows.into_iter();
        let (more, rest) = staying.into_iter().partition(|_| follows.next() == Some(true));
        going.extend::<Vec<_>>(more);
        staying = rest;
    }
}

/// The manifests of images, and those that they lead to.
fn manifests(images: &[Candidate]) -> Members<'_> {
    let manifests = images.iter().flat_map(|Candidate { root, closure, .. }| {
        closure.manifests(&root.digest).map(|manifest| (&root.name, manifest))
    });
    manifests.collect()
}

/// What repositories hold for these images.
fn members(images: &[Candidate]) -> Members<'_> {
    let parts = images
        .iter()
        .flat_map(|Candidate { root, closure, .. }| closure.parts().map(|part| (&root.name, part)));
    parts.collect()
}
