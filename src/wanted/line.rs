//! One line of a list: `image[:tag][@digest] [platform=…] [referrers=…]`.

use std::collections::BTreeSet;
use std::fmt;

use super::place::quoted;
use crate::oci::{ImageReference, Platform};

const PLATFORM: &str = "platform=";
const REFERRERS: &str = "referrers=";

/// An image, and which of it is wanted; what is not said is for the command to decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageLine {
    pub(crate) image: ImageReference,
    pub(crate) platforms: Option<WantedPlatforms>,
    pub(crate) referrers: Option<bool>,
}

/// The platforms of an image that are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WantedPlatforms {
    All,
    /// At least one.
    Only(BTreeSet<Platform>),
}

impl ImageLine {
    /// Reads a line without its comment.
    ///
    /// # Errors
    /// What is wrong with it, and what would be right.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (image, options) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let line = Self::of(image)?;
        let LineOptions { platforms, referrers } = LineOptions::parse(options)?;
        Ok(Self { platforms, referrers, ..line })
    }

    /// The image alone.
    ///
    /// # Errors
    /// What is wrong with its name.
    pub(super) fn of(image: &str) -> Result<Self, String> {
        let read = ImageReference::parse(image);
        let image = read.map_err(|wrong| format!("{}: {wrong}", quoted(image)))?;
        Ok(Self { image, platforms: None, referrers: None })
    }

    /// Adds what another line wants of the same image: what is said counts more than what is not,
    /// and of what both say either is enough.
    pub(super) fn join(&mut self, other: Self) {
        self.platforms = match (self.platforms.take(), other.platforms) {
            (Some(WantedPlatforms::Only(mut ours)), Some(WantedPlatforms::Only(theirs))) => {
                ours.extend(theirs);
                Some(WantedPlatforms::Only(ours))
            }
            (Some(WantedPlatforms::All), Some(_)) | (Some(_), Some(WantedPlatforms::All)) => {
                Some(WantedPlatforms::All)
            }
            (said, None) | (None, said) => said,
        };
        self.referrers = match (self.referrers, other.referrers) {
            (Some(ours), Some(theirs)) => Some(ours || theirs),
            (said, None) | (None, said) => said,
        };
    }
}

/// What stands behind an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LineOptions {
    pub(super) platforms: Option<WantedPlatforms>,
    pub(super) referrers: Option<bool>,
}

impl LineOptions {
    /// # Errors
    /// What is wrong with them, and what would be right.
    pub(super) fn parse(options: &str) -> Result<Self, String> {
        let mut read = Self::default();
        for option in options.split_whitespace() {
            if let Some(names) = option.strip_prefix(PLATFORM) {
                let platforms = WantedPlatforms::parse(names);
                let platforms =
                    platforms.map_err(|right| format!("{}: {right}", quoted(option)))?;
                once(&mut read.platforms, platforms, PLATFORM)?;
            } else if let Some(flag) = option.strip_prefix(REFERRERS) {
                let right = || format!("{} is neither {REFERRERS}true nor =false", quoted(option));
                once(&mut read.referrers, flag.parse().map_err(|_| right())?, REFERRERS)?;
            } else {
                return Err(format!(
                    "{} is not understood; behind an image may stand {PLATFORM}linux/amd64,… or \
                     {PLATFORM}all, and {REFERRERS}true or =false",
                    quoted(option)
                ));
            }
        }
        Ok(read)
    }
}

fn once<T>(place: &mut Option<T>, value: T, option: &str) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{option} stands there twice; once is right")),
    }
}

impl WantedPlatforms {
    /// Reads what may stand behind `platform=`.
    ///
    /// # Errors
    /// What would be right.
    pub(crate) fn parse(names: &str) -> Result<Self, String> {
        if names == "all" {
            return Ok(Self::All);
        }
        let only = names.split(',').map(Platform::parse);
        let only = only.collect::<Result<BTreeSet<_>, _>>();
        only.map(Self::Only)
            .map_err(|right| format!("{right}; several are joined by commas; all is every one"))
    }

    /// As they stand in a list.
    pub(crate) fn words(&self) -> Vec<String> {
        match self {
            Self::All => vec!["all".to_owned()],
            Self::Only(platforms) => platforms.iter().map(Platform::to_string).collect(),
        }
    }
}

/// As it is read.
impl fmt::Display for ImageLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { image, platforms, referrers } = self;
        let options = LineOptions { platforms: platforms.clone(), referrers: *referrers };
        write!(f, "{image}{options}")
    }
}

/// With a space before each.
impl fmt::Display for LineOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(platforms) = &self.platforms {
            write!(f, " {PLATFORM}{}", platforms.words().join(","))?;
        }
        self.referrers.map_or(Ok(()), |referrers| write!(f, " {REFERRERS}{referrers}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_as_they_are_read() {
        for (written, shown) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx\tplatform=all", "docker.io/library/nginx:latest platform=all"),
            (
                "quay.io/a:1  referrers=false   platform=linux/arm64,linux/x86_64,linux/amd64",
                "quay.io/a:1 platform=linux/amd64,linux/arm64 referrers=false",
            ),
        ] {
            let line = ImageLine::parse(written).expect(written);
            assert_eq!(line.to_string(), shown);
            assert_eq!(ImageLine::parse(shown), Ok(line));
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_what_would_be_right() {
        for (written, told) in [
            ("Nginx", "\"Nginx\": a repository name is lower-case"),
            (
                "nginx linux/amd64",
                "\"linux/amd64\" is not understood; behind an image may stand platform=",
            ),
            ("nginx platforms=all", "\"platforms=all\" is not understood"),
            ("nginx platform=", "\"platform=\": a platform is OS/ARCHITECTURE"),
            ("nginx platform=amd64", "\"platform=amd64\": a platform is OS/ARCHITECTURE"),
            ("nginx platform=all,linux/amd64", "all is every one"),
            ("nginx platform=linux/amd64,", "a platform is OS/ARCHITECTURE"),
            ("nginx platform=all platform=all", "platform= stands there twice"),
            ("nginx referrers=yes", "\"referrers=yes\" is neither referrers=true nor =false"),
            ("nginx referrers=true referrers=true", "referrers= stands there twice"),
        ] {
            let error = ImageLine::parse(written).expect_err(written);
            assert!(error.contains(told), "{written}: {error}");
        }
    }

    #[test]
    fn what_is_said_of_an_image_is_joined() {
        for (one, other, both) in [
            ("a", "a", ""),
            ("a", "a platform=linux/amd64", " platform=linux/amd64"),
            (
                "a platform=linux/arm64",
                "a platform=linux/amd64",
                " platform=linux/amd64,linux/arm64",
            ),
            ("a platform=all", "a platform=linux/amd64", " platform=all"),
            ("a referrers=false", "a", " referrers=false"),
            ("a referrers=false", "a referrers=true", " referrers=true"),
        ] {
            let line = |text| ImageLine::parse(text).expect(text);
            for (first, second) in [(one, other), (other, one)] {
                let mut joined = line(first);
                joined.join(line(second));
                assert_eq!(joined.to_string(), format!("docker.io/library/a:latest{both}"));
            }
        }
    }
}
