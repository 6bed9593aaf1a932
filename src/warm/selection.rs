//! What of an index is wanted. Pure.

use std::collections::BTreeSet;

use crate::oci::{Descriptor, Digest, Manifest, Platform};
use crate::wanted::WantedPlatforms;

/// An entry that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Selected<'m> {
    pub(super) entry: &'m Descriptor,
    /// It says something about an image, and is none.
    pub(super) is_attestation: bool,
}

/// The entries of `index` that are wanted. One that names no platform may be for any (containerd
/// takes it so), and is looked at by itself.
pub(super) fn select<'m>(
    index: &'m Manifest,
    platforms: &WantedPlatforms,
    referrers: bool,
) -> Vec<Selected<'m>> {
    let entries = index.descriptors();
    let is_wanted = |entry: &Descriptor| match (platforms, &entry.platform, &entry.about) {
        (WantedPlatforms::All, ..) | (_, None, None) => true,
        (WantedPlatforms::Only(wanted), Some(platform), _) => is_among(wanted, platform),
        (WantedPlatforms::Only(_), None, Some(_)) => false,
    };
    let images: BTreeSet<&Digest> = entries
        .iter()
        .filter(|entry| entry.about.is_none() && is_wanted(entry))
        .map(|entry| &entry.digest)
        .collect();
    let select = |entry: &'m Descriptor| match &entry.about {
        None => is_wanted(entry).then_some(Selected { entry, is_attestation: false }),
        Some(about) => {
            let comes_along = is_wanted(entry) || (referrers && images.contains(about));
            comes_along.then_some(Selected { entry, is_attestation: true })
        }
    };
    entries.iter().filter_map(select).collect()
}

pub(super) fn is_among(wanted: &BTreeSet<Platform>, platform: &Platform) -> bool {
    wanted.iter().any(|wanted| wanted.runs_like(platform))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, MediaType, OCI_INDEX};

    fn digest(of: &str) -> Digest {
        Digest::of(Algorithm::Sha256, of.as_bytes())
    }

    fn index() -> Manifest {
        let entry =
            |of: &str, more: &str| format!(r#"{{"digest":"{}","size":1{more}}}"#, digest(of));
        let platform = |of: &str, architecture: &str| {
            entry(of, &format!(r#","platform":{{"os":"linux","architecture":"{architecture}"}}"#))
        };
        let about = |of: &str, image: &str| {
            let annotations =
                format!(r#""annotations":{{"vnd.docker.reference.digest":"{}"}}"#, digest(image));
            entry(
                of,
                &format!(
                    r#","platform":{{"os":"unknown","architecture":"unknown"}},{annotations}"#
                ),
            )
        };
        let entries = [
            platform("amd64", "amd64"),
            platform("arm64", "arm64"),
            about("of amd64", "amd64"),
            about("of arm64", "arm64"),
            entry("any", ""),
        ];
        let text = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(","));
        let media_type = MediaType::parse(OCI_INDEX).expect("valid");
        Manifest::inspect(text.as_bytes(), &media_type).expect("an index")
    }

    #[test]
    fn of_an_index_the_wanted_platforms_come_with_what_is_about_them() {
        let index = index();
        let only = |names: &[&str]| {
            let parse = |name: &&str| Platform::parse(name).expect(name);
            WantedPlatforms::Only(names.iter().map(parse).collect())
        };
        for (platforms, referrers, expected) in [
            (WantedPlatforms::All, false, &["amd64", "arm64", "of amd64", "of arm64", "any"][..]),
            (only(&["linux/amd64"]), true, &["amd64", "of amd64", "any"]),
            (only(&["linux/amd64"]), false, &["amd64", "any"]),
            (only(&["linux/arm64/v8"]), false, &["arm64", "any"]),
            (only(&["linux/s390x"]), true, &["any"]),
        ] {
            let selected = select(&index, &platforms, referrers);
            let found: Vec<_> = selected.iter().map(|one| one.entry.digest.clone()).collect();
            let expected: Vec<_> = expected.iter().map(|of| digest(of)).collect();
            assert_eq!(found, expected, "{platforms:?} {referrers}");
        }
    }
}
