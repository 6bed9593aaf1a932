//! Names of licences and applications.

use std::fmt;

/// How a licence is called in logs, rules and revocations: `[a-z0-9][a-z0-9._-]{0,62}` (ACCESS
/// §4.2).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LicenceId(Box<str>);

impl LicenceId {
    /// # Errors
    /// A sentence that says what an id looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        let first =
            text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if first && text.len() <= 63 && text.bytes().all(inner) {
            return Ok(Self(text.into()));
        }
        Err(format!(
            "{text:?} is no licence id; use at most 63 of a-z 0-9 . _ - and begin with a letter \
             or digit, as acme-prod"
        ))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LicenceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of an application: one component of an image name, without a dot, so that it is never a
/// registry (ACCESS §2.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slug(Box<str>);

/// The first component of names of the form `proxy/<application>/…` and `proxy/<upstream>/…`. It is
/// for hosts that also serve images of their own, beside what they proxy (ACCESS §2.1).
pub const APPLICATION_PREFIX: &str = "proxy";

impl Slug {
    /// # Errors
    /// A sentence that says what a slug looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let whole = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if text.len() <= 63 && text.split(['-', '_']).all(whole) {
            return Ok(Self(text.into()));
        }
        Err(format!(
            "{text:?} is no application name; use at most 63 of a-z 0-9, joined by single - or _, \
             as billing-api"
        ))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_lower_case_words() {
        let longest = "a".repeat(63);
        for good in ["a", "0", "acme-prod", "acme.prod_2", "a--b", longest.as_str()] {
            assert_eq!(LicenceId::parse(good).map(|id| id.to_string()), Ok(good.to_owned()));
        }
        let too_long = "a".repeat(64);
        for bad in ["", "-a", ".a", "A", "a b", "a/b", "a:b", "ä", "a\n", too_long.as_str()] {
            assert!(LicenceId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn slugs_are_components_without_a_dot() {
        for good in ["a", "myapp", "billing-api", "app_2"] {
            assert_eq!(Slug::parse(good).map(|slug| slug.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "a.b", "quay.io", "A", "-a", "a-", "a--b", "a/b", "a:b", "localhost:5000"] {
            assert!(Slug::parse(bad).is_err(), "{bad:?}");
        }
    }
}
