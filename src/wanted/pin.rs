//! What is to stay in the cache: a line of the list grammar, or a pattern of names with the same
//! options.

use std::fmt;

use super::line::{ImageLine, LineOptions, WantedPlatforms};
use crate::oci::{CanonicalName, Digest, ImageReference, Pattern, Tag};

/// One pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PinLine {
    pub(crate) target: PinTarget,
    options: LineOptions,
}

/// What a pin is for; of two pins for the same the later counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PinTarget {
    /// With a digest that very content, else wherever the tag leads.
    Image(ImageReference),
    /// Every tag of these repositories.
    Repositories(Pattern),
}

impl PinLine {
    /// Reads a line; a pattern has a `*` in it.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (named, options) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        if named.contains('*') {
            let target = PinTarget::Repositories(Pattern::parse(named)?);
            return Ok(Self { target, options: LineOptions::parse(options)? });
        }
        let ImageLine { image, platforms, referrers } = ImageLine::parse(text)?;
        let options = LineOptions { platforms, referrers };
        Ok(Self { target: PinTarget::Image(image), options })
    }

    /// The platforms whose images are to stay; none: all.
    pub(crate) fn platforms(&self) -> Option<&WantedPlatforms> {
        self.options.platforms.as_ref()
    }

    /// Whether what is attached to an image stays with it.
    pub(crate) fn with_referrers(&self) -> bool {
        self.options.referrers.unwrap_or(true)
    }
}

impl PinTarget {
    /// Whether this is for some image of the repository.
    pub(crate) fn is_in(&self, name: &CanonicalName) -> bool {
        match self {
            Self::Image(image) => image.name() == name,
            Self::Repositories(pattern) => pattern.matches(&name.to_string()),
        }
    }

    /// Whether this is for the image.
    pub(crate) fn is_for(&self, name: &CanonicalName, tag: Option<&Tag>, digest: &Digest) -> bool {
        self.is_in(name)
            && match self {
                Self::Image(image) => match image.digest() {
                    Some(pinned) => pinned == digest,
                    None => image.tag() == tag,
                },
                Self::Repositories(_) => tag.is_some(),
            }
    }
}

/// As it is read.
impl fmt::Display for PinLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.target, self.options)
    }
}

impl fmt::Display for PinTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(image) => image.fmt(f),
            Self::Repositories(pattern) => f.write_str(pattern.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_written_as_they_are_read() {
        for (written, shown) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1 platform=linux/amd64", "docker.io/library/nginx:1 platform=linux/amd64"),
            (" quay.io/** ", "quay.io/**"),
            ("quay.io/*/a  referrers=false", "quay.io/*/a referrers=false"),
        ] {
            let pin = PinLine::parse(written).expect(written);
            assert_eq!(pin.to_string(), shown);
            assert_eq!(PinLine::parse(shown), Ok(pin));
        }
        for (written, told) in [
            ("", "lower-case"),
            ("quay.io/a*", "whole component"),
            ("quay.io/** platform=amd64", "a platform is"),
            ("nginx 1.27", "is not understood"),
        ] {
            let error = PinLine::parse(written).expect_err(written);
            assert!(error.contains(told), "{written}: {error}");
        }
    }

    #[test]
    fn a_pin_by_tag_follows_it_one_by_digest_does_not_and_a_pattern_means_every_tag() {
        let digests = ["a", "b"].map(|hex| format!("sha256:{}", hex.repeat(64)));
        let [first, other] = [0, 1].map(|n: usize| Digest::parse(&digests[n]).expect("a digest"));
        let name = CanonicalName::parse("docker.io/library/nginx").expect("a name");
        let tag = Tag::parse("1").expect("a tag");
        for (pin, is_for) in [
            ("nginx:1", [true, true, false]),
            ("nginx", [false, false, false]),
            (&format!("nginx:1@{first}"), [true, false, true]),
            ("docker.io/**", [true, true, false]),
            ("quay.io/**", [false, false, false]),
        ] {
            let target = PinLine::parse(pin).expect(pin).target;
            let found = [(Some(&tag), &first), (Some(&tag), &other), (None, &first)]
                .map(|(tag, digest)| target.is_for(&name, tag, digest));
            assert_eq!(found, is_for, "{pin}");
        }
    }
}
