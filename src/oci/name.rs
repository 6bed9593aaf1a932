//! Names: upstream, repository, tag, and the canonical image name that policy and records speak of.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::{Digest, ErrorCode, ParseError};

/// The longest repository name that clients accept (`distribution/reference`).
const REPOSITORY_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// The name of a configured upstream: its host (with port, if any) as it stands in image
/// references.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamName(Arc<str>);

impl UpstreamName {
    /// Parses `host` or `host:port`, in lower case; an IPv6 address stands in brackets and in its
    /// shortest form (RFC 5952), so that it is written in one way only.
    ///
    /// # Errors
    /// `NAME_INVALID` if it is neither a lower-case host name nor an address, with an optional
    /// port.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let (host, port) = split_port(text);
        let label = |label: &str| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        let port_ok = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
        let host_ok = match ipv6_literal(host) {
            Some(address) => format!("[{address}]") == host,
            None => host.split('.').all(label),
        };
        if text.len() > REPOSITORY_MAX || !host_ok || !port_ok {
            return Err(ParseError::new(
                ErrorCode::NameInvalid,
                "an upstream is named by its host, as docker.io",
            ));
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Host and port of `host[:port]`. An IPv6 address keeps its brackets (RFC 3986 §3.2.2).
pub fn split_port(text: &str) -> (&str, Option<&str>) {
    let bracket = text.rfind(']').map_or(0, |at| at + 1);
    match text[bracket..].find(':') {
        Some(colon) => (&text[..bracket + colon], Some(&text[bracket + colon + 1..])),
        None => (text, None),
    }
}

/// The address in brackets that a host is.
pub fn ipv6_literal(host: &str) -> Option<Ipv6Addr> {
    host.strip_prefix('[')?.strip_suffix(']')?.parse().ok()
}

/// Whether DNS has no say in where the host leads: it is an IP address, `localhost` or a name below
/// it (RFC 6761 §6.3). Any other name may lead a browser to us that follows somebody else's page
/// (DNS rebinding).
pub fn needs_no_lookup(host: &str) -> bool {
    host.parse::<Ipv4Addr>().is_ok()
        || ipv6_literal(host).is_some()
        || host == "localhost"
        || host.ends_with(".localhost")
}

/// The spec's `<name>`: components of lower-case letters and digits, joined by slashes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

impl Repository {
    /// Parses a repository name (distribution-spec, "Pulling manifests").
    ///
    /// # Errors
    /// `NAME_INVALID` if a component is empty or malformed or the whole is longer than 255 bytes
    /// (NAME-2).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > REPOSITORY_MAX || !text.split('/').all(is_component) {
            return Err(ParseError::new(
                ErrorCode::NameInvalid,
                "a repository name is lower-case letters and digits, joined by . _ __ - and /",
            ));
        }
        Ok(Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first component, and the rest if there is one.
    pub fn split_first(&self) -> (&str, Option<Repository>) {
        match self.0.split_once('/') {
            Some((first, rest)) => (first, Some(Repository(rest.into()))),
            None => (&self.0, None),
        }
    }

    /// `prefix/self`; the result may be longer than a parsed name can be.
    #[must_use]
    pub fn under(&self, prefix: &str) -> Repository {
        Repository(format!("{prefix}/{}", self.0).into())
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators_ok =
        text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        });
    let bytes = text.as_bytes();
    separators_ok
        && bytes.first().is_some_and(|b| alphanumeric(*b))
        && bytes.last().is_some_and(|b| alphanumeric(*b))
}

/// A tag; case matters and is kept (NAME-3).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

impl Tag {
    /// Parses `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
    ///
    /// # Errors
    /// `MANIFEST_UNKNOWN` if it cannot be a tag: such a manifest cannot exist (NAME-2).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let bytes = text.as_bytes();
        let first_ok = bytes.first().is_some_and(|b| word(*b));
        if !first_ok
            || bytes.len() > TAG_MAX
            || !bytes.iter().all(|b| word(*b) || matches!(b, b'.' | b'-'))
        {
            return Err(ParseError::new(
                ErrorCode::ManifestUnknown,
                "a tag is up to 128 letters, digits, _ . and -, and starts with none of the last two",
            ));
        }
        Ok(Self(text.into()))
    }

    /// The tag under which clients list what refers to `subject` where a registry has no referrers
    /// API: algorithm and hex digits, cut at 32 and 64 characters (distribution-spec, "Referrers
    /// Tag Schema").
    pub fn of_referrers(subject: &Digest) -> Self {
        Self(format!("{:.32}-{:.64}", subject.algorithm().name(), subject.hex()).into())
    }

    /// Whether it has the form of such a tag.
    pub fn is_of_referrers(&self) -> bool {
        ["sha256-", "sha512-"].iter().any(|head| self.0.starts_with(head))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a manifest is asked by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reference {
    Tag(Tag),
    Digest(Digest),
}

impl Reference {
    /// Parses a digest if there is a colon, else a tag.
    ///
    /// # Errors
    /// Those of [`Digest::parse`] and [`Tag::parse`].
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.contains(':') {
            Digest::parse(text).map(Self::Digest)
        } else {
            Tag::parse(text).map(Self::Tag)
        }
    }

    pub fn as_str(&self) -> &str {
        match self {
            Self::Tag(tag) => tag.as_str(),
            Self::Digest(digest) => digest.as_str(),
        }
    }
}

/// `<upstream>/<repository>`: the one name of an image, whichever way a client wrote it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CanonicalName {
    pub upstream: UpstreamName,
    pub repository: Repository,
}

impl CanonicalName {
    /// Reads what `Display` has written.
    ///
    /// # Errors
    /// What is wrong with one of its parts.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let (upstream, repository) = text.split_once('/').unwrap_or((text, ""));
        Ok(Self {
            upstream: UpstreamName::parse(upstream)?,
            repository: Repository::parse(repository)?,
        })
    }

    /// Bytes of its texts.
    pub(crate) fn text_len(&self) -> usize {
        self.upstream.as_str().len() + self.repository.as_str().len()
    }
}

impl fmt::Display for CanonicalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.upstream.as_str(), self.repository.as_str())
    }
}

impl fmt::Debug for CanonicalName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

macro_rules! shown_as_text {
    ($($name:ty),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}
shown_as_text!(UpstreamName, Repository, Tag);

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Algorithm;

    #[test]
    fn repository_names_follow_the_spec_grammar() {
        for good in
            ["a", "library/nginx", "a.b/c_d/e__f/g---h", "0/manifests/blobs", &"a".repeat(255)]
        {
            assert_eq!(Repository::parse(good).expect(good).as_str(), good);
        }
        for bad in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "A",
            "a..b",
            "a___b",
            "a._b",
            "-a",
            "a-",
            "a/../b",
            "a%2fb",
            "a b",
            "é",
            &"a".repeat(256),
        ] {
            assert_eq!(Repository::parse(bad).expect_err(bad).code(), ErrorCode::NameInvalid);
        }
    }

    #[test]
    fn tags_keep_their_case_and_their_limits() {
        for good in ["latest", "V1.0_x-y", "_", &"t".repeat(128)] {
            assert_eq!(Tag::parse(good).expect(good).as_str(), good);
        }
        for bad in ["", ".a", "-a", "a/b", "a:b", "a b", "é", &"t".repeat(129)] {
            assert_eq!(Tag::parse(bad).expect_err(bad).code(), ErrorCode::ManifestUnknown);
        }
    }

    #[test]
    fn the_tag_of_referrers_is_a_tag_whatever_the_algorithm() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            let subject = Digest::of(algorithm, b"abc");
            let tag = Tag::of_referrers(&subject);
            assert_eq!(tag.as_str(), format!("{}-{}", algorithm.name(), &subject.hex()[..64]));
            assert_eq!(Tag::parse(tag.as_str()).as_ref(), Ok(&tag));
            assert!(tag.is_of_referrers() && !Tag::parse("1.0").expect("a tag").is_of_referrers());
        }
    }

    #[test]
    fn upstream_names_are_lower_case_hosts_with_an_optional_port() {
        for good in [
            "docker.io",
            "localhost:5000",
            "a-b.c",
            "127.0.0.1:5000",
            "[::1]",
            "[fd00::5]:5000",
            "[::ffff:10.0.0.1]",
        ] {
            assert_eq!(UpstreamName::parse(good).expect(good).as_str(), good);
        }
        for bad in [
            "",
            "Docker.io",
            "a/b",
            "a:",
            "a:0",
            "a:x",
            "a:70000",
            ".a",
            "a.",
            "-a",
            "a b",
            "a@b",
            "::1",
            "[::1",
            "::1]",
            "[::1]x",
            "[::1]x:5000",
            "[::1]:",
            "[0::1]",
            "[FD00::1]",
            "[fe80::1%eth0]",
            "[10.0.0.1]",
            "[]",
            "a]:5000",
            "a:1:2",
        ] {
            assert!(UpstreamName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_component_splits_off() {
        let name = Repository::parse("docker.io/library/nginx").expect("valid");
        let (first, rest) = name.split_first();
        assert_eq!((first, rest.expect("two are left").as_str()), ("docker.io", "library/nginx"));
        assert_eq!(Repository::parse("nginx").expect("valid").split_first(), ("nginx", None));
    }
}
