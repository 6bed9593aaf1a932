//! Which lines of a list would bring what was missed. What is asked for by a digest is part of an
//! image that is known here, mostly: of another platform, or with layers that were never pulled.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::miss::{MissKey, MissRecord, MissedThing};
use crate::images::{self, CachedImage, CachedPlatform, ImageFilter, PlatformState};
use crate::oci::{CanonicalName, Digest, Tag};
use crate::store::{Error, Survey};

/// A miss, and what would bring it.
#[derive(Clone, Debug)]
pub(crate) struct ListedMiss {
    pub(crate) key: MissKey,
    pub(crate) record: MissRecord,
    /// None, if it is not known to which image it belongs.
    pub(crate) image: Option<WantedPart>,
    /// It has come since.
    pub(crate) is_here: bool,
}

/// An image, or one platform of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WantedPart {
    /// As lists name it.
    pub(crate) image: String,
    pub(crate) platform: Option<String>,
    /// What was missed is a signature or the like of it.
    is_referrer: bool,
}

/// All misses.
#[derive(Clone, Debug)]
pub(crate) struct MissList {
    pub(crate) misses: Vec<ListedMiss>,
    /// A list that would bring what has not come since, as far as that is known.
    pub(crate) lines: Vec<String>,
}

/// Looks at what is kept; blocks.
///
/// # Errors
/// If the records cannot be read.
pub(crate) fn list(survey: &Survey, rows: Vec<(MissKey, MissRecord)>) -> Result<MissList, Error> {
    let images = images::list(survey, &ImageFilter::default())?;
    let mut by_name: HashMap<&CanonicalName, Vec<&CachedImage>> = HashMap::new();
    for image in &images {
        by_name.entry(&image.name).or_default().push(image);
    }
    let listed = rows.into_iter().map(|(key, record)| {
        let images = by_name.get(&key.name).map_or(&[][..], Vec::as_slice);
        let (image, is_here) = match &key.thing {
            MissedThing::Tag(tag) => of_tag(&key.name, tag, images),
            MissedThing::Manifest(digest) => of_manifest(&key.name, digest, images),
            MissedThing::Blob(digest) => of_blob(digest, images, survey),
        };
        ListedMiss { key, record, image, is_here }
    });
    let misses: Vec<_> = listed.collect();
    let lines = lines(misses.iter().filter(|miss| !miss.is_here).filter_map(|m| m.image.as_ref()));
    Ok(MissList { misses, lines })
}

fn of_tag(name: &CanonicalName, tag: &Tag, images: &[&CachedImage]) -> (Option<WantedPart>, bool) {
    let is_here = images.iter().any(|it| it.tag.as_ref() == Some(tag) && it.is_complete());
    // Whoever checks signatures asks for such tags, whether or not there are any.
    let subject = subject_of(tag);
    let is_referrer = subject.is_some();
    let image = subject.map_or_else(|| format!("{name}:{tag}"), |of| format!("{name}@{of}"));
    (Some(WantedPart { image, platform: None, is_referrer }), is_here)
}

/// The manifest to which content is attached that is found by this tag: `sha256-<hex>`, as registries
/// without a referrers API have it, or with an ending, as cosign's signatures.
fn subject_of(tag: &Tag) -> Option<Digest> {
    let (algorithm, rest) = tag.as_str().split_once('-')?;
    let hex = rest.split('.').next().unwrap_or_default();
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}

fn of_manifest(
    name: &CanonicalName,
    digest: &Digest,
    images: &[&CachedImage],
) -> (Option<WantedPart>, bool) {
    let platform = parts(images).find(|(_, platform)| platform.digest == *digest);
    let is_complete = |platform: &CachedPlatform| platform.state == PlatformState::Complete;
    let whole = images.iter().find(|image| image.digest == *digest);
    let is_here = platform.is_some_and(|(_, platform)| is_complete(platform))
        || whole.is_some_and(|image| image.is_complete());
    let part = platform.map(|(image, platform)| part_of(image, platform));
    let alone = || {
        let image = format!("{name}@{digest}");
        WantedPart { image, platform: None, is_referrer: false }
    };
    (Some(part.unwrap_or_else(alone)), is_here)
}

fn of_blob(
    digest: &Digest,
    images: &[&CachedImage],
    survey: &Survey,
) -> (Option<WantedPart>, bool) {
    let lacks = |platform: &CachedPlatform| match &platform.state {
        PlatformState::Lacks(missing) => missing.contains(digest),
        PlatformState::Complete | PlatformState::Absent => false,
    };
    let lacking = parts(images).find(|(_, platform)| lacks(platform));
    let is_here = lacking.is_none() && !images.is_empty() && survey.kept(digest).is_some();
    (lacking.map(|(image, platform)| part_of(image, platform)), is_here)
}

fn parts<'a>(
    images: &[&'a CachedImage],
) -> impl Iterator<Item = (&'a CachedImage, &'a CachedPlatform)> {
    images.iter().flat_map(|image| image.platforms.iter().map(move |platform| (*image, platform)))
}

fn part_of(image: &CachedImage, platform: &CachedPlatform) -> WantedPart {
    let tag = image.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
    let text = format!("{}{tag}@{}", image.name, image.digest);
    // What is attached to an image stands in an index for no platform.
    let platform = platform.name.clone().filter(|name| !name.starts_with("unknown"));
    WantedPart { image: text, platform, is_referrer: false }
}

/// One line for each image, in the order of their names; without platforms, if the whole is wanted.
fn lines<'a>(parts: impl Iterator<Item = &'a WantedPart>) -> Vec<String> {
    let mut wanted: BTreeMap<&str, (BTreeSet<Option<&str>>, bool)> = BTreeMap::new();
    for part in parts {
        let (platforms, has_referrers) = wanted.entry(&part.image).or_default();
        platforms.insert(part.platform.as_deref());
        *has_referrers |= part.is_referrer;
    }
    let line = |(image, (platforms, has_referrers)): (&str, (BTreeSet<Option<&str>>, bool))| {
        let platforms: Option<Vec<_>> = platforms.into_iter().collect();
        let platforms = platforms.map(|names| format!(" platform={}", names.join(",")));
        let referrers = if has_referrers { " referrers=true" } else { "" };
        format!("{image}{}{referrers}", platforms.unwrap_or_default())
    };
    wanted.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_one_line() {
        let part = |image: &str, platform: Option<&str>, is_referrer| WantedPart {
            image: image.to_owned(),
            platform: platform.map(str::to_owned),
            is_referrer,
        };
        let parts = [
            part("b:1", Some("linux/arm64"), false),
            part("b:1", Some("linux/amd64"), false),
            part("c:1", Some("linux/amd64"), false),
            part("c:1", None, false),
            part("a@x", None, true),
        ];
        let listed = ["a@x referrers=true", "b:1 platform=linux/amd64,linux/arm64", "c:1"];
        assert_eq!(lines(parts.iter()), listed);
    }

    #[test]
    fn tags_of_signatures_name_their_image() {
        let hex = "a".repeat(64);
        let of = |tag: String| subject_of(&Tag::parse(&tag).expect("a tag"));
        let digest = Digest::parse(&format!("sha256:{hex}")).ok();
        assert_eq!(of(format!("sha256-{hex}")), digest);
        assert_eq!(of(format!("sha256-{hex}.sig")), digest);
        assert_eq!(of(format!("sha256-{}", &hex[1..])), None);
        assert_eq!(of("v1-2".to_owned()), None);
    }
}
