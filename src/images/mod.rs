//! What is kept, as images: each tag and each manifest that nothing leads to, with everything that it
//! takes to run it, as far as that is here.

mod attached;
mod closure;
mod held;
mod holdings;
mod pin_set;
mod pins;
mod purge;
mod selection;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest, MediaType, Pattern, Tag};
use crate::store::{Error, Survey};

pub(crate) use pin_set::PinSetter;
pub(crate) use pins::{PinError, PinState, PinStates, Pins};
pub(crate) use purge::{Amount, GoingImage, PurgeOrder, PurgePlan, Purged};
pub(crate) use selection::ImageSelection;

use closure::{Closure, Closures};

/// Which images are asked for; all of these have to hold.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageFilter {
    pub(crate) pattern: Option<Pattern>,
    /// Those that need this.
    pub(crate) digest: Option<Digest>,
    /// Those of which something is missing.
    pub(crate) incomplete: bool,
}

/// One image of a repository, by a tag or by its digest alone.
#[derive(Clone, Debug)]
pub(crate) struct CachedImage {
    pub(crate) name: CanonicalName,
    pub(crate) tag: Option<Tag>,
    pub(crate) digest: Digest,
    pub(crate) platforms: Vec<CachedPlatform>,
    /// Bytes of everything that it needs and that is here.
    pub(crate) size: u64,
    /// Bytes of it that no other image needs.
    pub(crate) own: u64,
    /// Whether it stays whatever needs room.
    pub(crate) pinned: bool,
    pub(crate) last_used: Option<Timestamp>,
}

/// An image for one platform.
#[derive(Clone, Debug)]
pub(crate) struct CachedPlatform {
    /// As clients write it, `linux/arm64`, if it is known.
    pub(crate) name: Option<String>,
    pub(crate) digest: Digest,
    pub(crate) state: PlatformState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PlatformState {
    Complete,
    /// Its manifest is here, and these are not.
    Lacks(Vec<Digest>),
    /// Not even its manifest is here: nobody has pulled it.
    Absent,
}

impl CachedImage {
    /// Whether something is missing of what has been pulled, or was told to be there.
    pub(crate) fn is_complete(&self) -> bool {
        let states = || self.platforms.iter().map(|platform| &platform.state);
        states().any(|state| *state == PlatformState::Complete)
            && !states().any(|state| matches!(state, PlatformState::Lacks(_)))
    }
}

/// Lists what is kept; blocks.
///
/// # Errors
/// If the records cannot be read.
pub(crate) fn list(survey: &Survey, filter: &ImageFilter) -> Result<Vec<CachedImage>, Error> {
    let manifests = survey.manifests()?;
    let types = manifests.iter().map(|(_, digest, kind)| (digest.clone(), kind.clone())).collect();
    let mut closures = Closures::new(survey, types);
    let roots = roots(survey, manifests, &mut closures)?;
    let mut users: HashMap<Digest, usize> = HashMap::new();
    let distinct: HashSet<(&CanonicalName, &Digest)> =
        roots.iter().map(|root| (&root.name, &root.digest)).collect();
    for (_, digest) in distinct {
        for part in closures.of(digest).parts() {
            *users.entry(part.clone()).or_default() += 1;
        }
    }
    let wanted = |root: &Root| {
        filter.pattern.as_ref().is_none_or(|pattern| pattern.matches(&root.name.to_string()))
    };
    let images = roots.into_iter().filter(wanted).map(|root| {
        let closure = closures.of(&root.digest);
        (cached(survey, root, &closure, &users), closure)
    });
    let images = images.filter(|(image, closure)| {
        filter.digest.as_ref().is_none_or(|digest| closure.needs(digest))
            && !(filter.incomplete && image.is_complete())
    });
    Ok(images.map(|(image, _)| image).collect())
}

/// Which images need these, by the names of the images; blocks.
///
/// # Errors
/// If the records cannot be read.
pub(crate) fn users(
    survey: &Survey,
    digests: &HashSet<Digest>,
) -> Result<HashMap<Digest, Vec<String>>, Error> {
    let manifests = survey.manifests()?;
    let types = manifests.iter().map(|(_, digest, kind)| (digest.clone(), kind.clone())).collect();
    let mut closures = Closures::new(survey, types);
    let mut users: HashMap<Digest, Vec<String>> = HashMap::new();
    for root in roots(survey, manifests, &mut closures)? {
        let closure = closures.of(&root.digest);
        for part in closure.parts().filter(|part| digests.contains(part)) {
            let tag = root.tag.as_ref().map(|tag| format!(":{tag}"));
            let by = tag.unwrap_or_else(|| format!("@{}", root.digest));
            users.entry(part.clone()).or_default().push(format!("{}{by}", root.name));
        }
    }
    Ok(users)
}

/// What stands for an image.
#[derive(Clone, Debug)]
struct Root {
    name: CanonicalName,
    tag: Option<Tag>,
    digest: Digest,
}

/// All tags, and the manifests that neither a tag nor another manifest of the repository leads to.
fn roots(
    survey: &Survey,
    manifests: Vec<(CanonicalName, Digest, MediaType)>,
    closures: &mut Closures<'_>,
) -> Result<Vec<Root>, Error> {
    let tags =
        survey.tags()?.into_iter().map(|(name, tag, digest)| Root { name, tag: Some(tag), digest });
    let mut roots: Vec<Root> = tags.collect();
    let mut led_to: HashSet<(CanonicalName, Digest)> =
        roots.iter().map(|root| (root.name.clone(), root.digest.clone())).collect();
    for (name, digest, _) in &manifests {
        let closure = closures.of(digest);
        let children = closure.platforms.iter().map(|platform| &platform.digest);
        let others = children.filter(|child| *child != digest);
        led_to.extend(others.map(|child| (name.clone(), child.clone())));
    }
    let alone = manifests.into_iter().filter(|(name, digest, _)| {
        survey.kept(digest).is_some() && !led_to.contains(&(name.clone(), digest.clone()))
    });
    roots.extend(alone.map(|(name, digest, _)| Root { name, tag: None, digest }));
    roots.sort_by(|a, b| (&a.name, &a.tag, &a.digest).cmp(&(&b.name, &b.tag, &b.digest)));
    Ok(roots)
}

fn cached(
    survey: &Survey,
    root: Root,
    closure: &Arc<Closure>,
    users: &HashMap<Digest, usize>,
) -> CachedImage {
    let kept: Vec<_> =
        closure.parts().filter_map(|part| survey.kept(part).map(|kept| (part, kept))).collect();
    let is_own = |part: &Digest| users.get(part).is_none_or(|users| *users <= 1);
    let sizes = |own: bool| {
        kept.iter().filter(|(part, _)| !own || is_own(part)).map(|(_, kept)| kept.size).sum()
    };
    CachedImage {
        size: sizes(false),
        own: sizes(true),
        pinned: survey.stays(&root.digest),
        last_used: kept.iter().map(|(_, kept)| kept.last_used).max(),
        platforms: closure.platforms.clone(),
        name: root.name,
        tag: root.tag,
        digest: root.digest,
    }
}
