//! What pins keep of a repository: for each image its manifests, those of the platforms that are
//! wanted with all that they list, and what is attached to them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::attached::of_tag;
use super::closure::Closures;
use super::pin_set::SetPin;
use crate::oci::{CanonicalName, Descriptor, Digest, Manifest, Tag};
use crate::store::{Error, Survey};
use crate::wanted::{PinLine, PinTarget, WantedPlatforms};

/// What is attached to what is attached, and so on.
const ATTACHED_DEPTH: usize = 4;

/// An image that a pin keeps.
#[derive(Clone, Debug)]
pub(super) struct HeldImage {
    pub(super) pin: PinLine,
    pub(super) tag: Option<Tag>,
    pub(super) digest: Digest,
    /// Everything that it takes, stored or not, with its size in bytes.
    pub(super) parts: Arc<BTreeMap<Digest, u64>>,
}

impl HeldImage {
    fn is_same(&self, other: &Self) -> bool {
        (&self.digest, &self.tag, &self.pin) == (&other.digest, &other.tag, &other.pin)
    }
}

/// Looks what `pins` keep of the repository; blocks. What is known of it already counts on: a
/// manifest that is damaged, or a tag that upstream does not give just now, lets nothing go.
///
/// # Errors
/// If the records cannot be read.
pub(super) fn look(
    survey: &Survey,
    name: &CanonicalName,
    pins: &[&SetPin],
    before: &[HeldImage],
) -> Result<Vec<HeldImage>, Error> {
    let (tags, manifests) = (survey.tags_of(name)?, survey.manifests_of(name)?);
    let digests: Vec<Digest> = manifests.iter().map(|(digest, _)| digest.clone()).collect();
    let closures = Closures::new(survey, manifests.into_iter().collect());
    let with_referrers = pins.iter().any(|pin| pin.line.with_referrers());
    let attached =
        if with_referrers { attached(&closures, &tags, &digests) } else { HashMap::new() };
    let look = Look { survey, closures, attached };
    let mut images = Vec::new();
    for pin in pins.iter().map(|pin| &pin.line) {
        for (tag, digest) in targets(pin, &tags, before) {
            let parts = Arc::new(look.parts(&digest, pin));
            let mut image = HeldImage { pin: pin.clone(), tag, digest, parts };
            if let Some(known) = before.iter().find(|known| known.is_same(&image)) {
                let both = known.parts.iter().chain(&*image.parts);
                image.parts = Arc::new(both.map(|(part, size)| (part.clone(), *size)).collect());
            }
            images.push(image);
        }
    }
    Ok(images)
}

/// The images that a pin is for.
fn targets(
    pin: &PinLine,
    tags: &[(Tag, Digest)],
    before: &[HeldImage],
) -> Vec<(Option<Tag>, Digest)> {
    let with_tag = |(tag, digest): &(Tag, Digest)| (Some(tag.clone()), digest.clone());
    match &pin.target {
        PinTarget::Repositories(_) => tags.iter().map(with_tag).collect(),
        PinTarget::Image(image) => {
            if let Some(digest) = image.digest() {
                return vec![(image.tag().cloned(), digest.clone())];
            }
            let now = tags.iter().find(|(tag, _)| Some(tag) == image.tag()).map(with_tag);
            let known = || {
                let known = before.iter().find(|known| known.pin.target == pin.target);
                known.map(|known| (known.tag.clone(), known.digest.clone()))
            };
            now.or_else(known).into_iter().collect()
        }
    }
}

/// What is attached to which manifest.
fn attached(
    closures: &Closures<'_>,
    tags: &[(Tag, Digest)],
    manifests: &[Digest],
) -> HashMap<Digest, Vec<Digest>> {
    let mut attached: HashMap<Digest, Vec<Digest>> = HashMap::new();
    for (tag, digest) in tags {
        if let Some(subject) = of_tag(tag.as_str()) {
            attached.entry(subject).or_default().push(digest.clone());
        }
    }
    for digest in manifests {
        let subject = closures.manifest(digest).and_then(|manifest| manifest.subject().cloned());
        if let Some(subject) = subject {
            attached.entry(subject).or_default().push(digest.clone());
        }
    }
    attached
}

struct Look<'a> {
    survey: &'a Survey,
    closures: Closures<'a>,
    attached: HashMap<Digest, Vec<Digest>>,
}

impl Look<'_> {
    fn parts(&self, digest: &Digest, pin: &PinLine) -> BTreeMap<Digest, u64> {
        let mut parts = BTreeMap::new();
        let mut manifests = self.add(&mut parts, digest, pin.platforms());
        let mut seen: HashSet<Digest> = HashSet::new();
        for _ in 0..ATTACHED_DEPTH {
            let found = manifests.iter().filter_map(|manifest| self.attached.get(manifest));
            let found: Vec<Digest> = found.flatten().cloned().collect();
            manifests.clear();
            for digest in found {
                if seen.insert(digest.clone()) {
                    manifests.extend(self.add(&mut parts, &digest, None));
                }
            }
        }
        parts
    }

    /// Adds a manifest, and what is wanted of what it lists; the manifests among all that.
    fn add(
        &self,
        parts: &mut BTreeMap<Digest, u64>,
        digest: &Digest,
        platforms: Option<&WantedPlatforms>,
    ) -> Vec<Digest> {
        let size = self.survey.kept(digest).map_or(0, |kept| kept.size);
        parts.insert(digest.clone(), size);
        let mut manifests = vec![digest.clone()];
        let Some(manifest) = self.closures.manifest(digest) else { return manifests };
        for listed in manifest.descriptors() {
            if manifest.is_index() && !is_wanted(listed, platforms) {
                continue;
            }
            parts.insert(listed.digest.clone(), listed.size);
            if manifest.is_index() {
                manifests.push(listed.digest.clone());
                let image = self.closures.manifest(&listed.digest);
                let of_image = image.iter().flat_map(Manifest::descriptors);
                parts.extend(of_image.map(|part| (part.digest.clone(), part.size)));
            }
        }
        manifests
    }
}

/// What is for no platform, as an attestation, is for all.
fn is_wanted(listed: &Descriptor, platforms: Option<&WantedPlatforms>) -> bool {
    match (platforms, &listed.platform) {
        (Some(WantedPlatforms::Only(only)), Some(platform)) => {
            only.iter().any(|wanted| wanted.runs_like(platform))
        }
        (None | Some(WantedPlatforms::All), _) | (Some(WantedPlatforms::Only(_)), None) => true,
    }
}
