//! Queries of the distribution spec: the `ns` that names a registry, and the paging parameters.
//!
//! Everything that roadstead does not read is kept byte for byte: only the upstream knows what it
//! means (TAG-3).

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::name::{ipv6_literal, split_port};
use super::{ErrorCode, ParseError};

/// The `ns` parameter: which registry the client believes it is talking to (distribution-spec,
/// "Proxying").
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ns {
    Absent,
    Named(Namespace),
    /// Given twice, or not a host name: it names no registry, and so never the default one.
    Unusable,
}

/// A host, with or without a port, as `ns` names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    received: String,
    normal: String,
}

impl Namespace {
    /// The value as it was sent, percent-decoded; safe in a header and in a query (SEL-10).
    pub fn as_received(&self) -> &str {
        &self.received
    }

    /// In lower case and without the trailing dot of a full domain name.
    pub fn normal(&self) -> &str {
        &self.normal
    }

    fn parse(text: &str) -> Option<Self> {
        let host_byte = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':');
        let valid = !text.is_empty() && text.bytes().all(host_byte);
        valid.then(|| Self { received: text.to_owned(), normal: normal_host(text) })
    }
}

/// `host[:port]` in lower case, without the trailing dot of a full domain name, and an IPv6 address
/// in its shortest form (SEL-2, SEL-5).
pub fn normal_host(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let (host, port) = split_port(&lower);
    let host = match ipv6_literal(host) {
        Some(address) => format!("[{address}]"),
        None => host.strip_suffix('.').unwrap_or(host).to_owned(),
    };
    port.map_or_else(|| host.clone(), |port| format!("{host}:{port}"))
}

impl Ns {
    /// Reads `ns` out of a query; percent-decoded once.
    pub fn parse(query: Option<&str>) -> Self {
        let mut values =
            parameters(query).filter(|(key, _)| key == "ns").map(|(_, pair)| value(pair));
        match (values.next(), values.next()) {
            (None, _) => Self::Absent,
            (Some(text), None) => {
                let decoded = percent_decode_str(text).decode_utf8().ok();
                decoded.and_then(|text| Namespace::parse(&text)).map_or(Self::Unusable, Self::Named)
            }
            (Some(_), Some(_)) => Self::Unusable,
        }
    }
}

/// What a list request asks for besides the list itself: `n`, and parameters that pass through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PageQuery {
    /// The largest number of entries wanted; zero asks for none (TAG-2).
    pub n: Option<u32>,
    opaque: String,
}

impl PageQuery {
    /// Reads a query; drops `ns`, keeps what it does not know.
    ///
    /// # Errors
    /// `PAGINATION_NUMBER_INVALID` if `n` is not one non-negative integer.
    pub fn parse(query: Option<&str>) -> Result<Self, ParseError> {
        let mut page = Self::default();
        for (key, pair) in parameters(query) {
            match &*key {
                "ns" => {}
                "n" if page.n.is_some() => return Err(bad_number()),
                "n" => page.n = Some(number(value(pair))?),
                _ => {
                    let separator = if page.opaque.is_empty() { "" } else { "&" };
                    page.opaque.push_str(separator);
                    page.opaque.push_str(pair);
                }
            }
        }
        Ok(page)
    }

    /// The same page, no larger than the upstream allows.
    #[must_use]
    pub fn at_most(&self, limit: Option<u32>) -> Self {
        let n = self.n.map(|n| limit.map_or(n, |limit| n.min(limit)));
        Self { n, opaque: self.opaque.clone() }
    }

    /// Everything but `n` and `ns`, as it was received.
    pub fn opaque(&self) -> &str {
        &self.opaque
    }

    /// Behind which entry the page begins, decoded (TAG-2).
    pub fn last(&self) -> Option<Cow<'_, str>> {
        let last = parameters(Some(&self.opaque)).filter(|(key, _)| key == "last").last();
        last.map(|(_, pair)| text_value(pair)).filter(|value| !value.is_empty())
    }

    /// The values of `artifactType`, decoded; a `+` stands for itself, as in a media type (REF-2).
    pub fn artifact_types(&self) -> Vec<Cow<'_, str>> {
        let named = parameters(Some(&self.opaque)).filter(|(key, _)| key == "artifactType");
        named.map(|(_, pair)| text_value(pair)).filter(|value| !value.is_empty()).collect()
    }

    /// `path` with this query behind it.
    pub(super) fn append_to(&self, path: String) -> String {
        let n = self.n.map(|n| format!("n={n}"));
        let parts: Vec<&str> =
            n.as_deref().into_iter().chain(Some(self.opaque()).filter(|o| !o.is_empty())).collect();
        if parts.is_empty() { path } else { format!("{path}?{}", parts.join("&")) }
    }
}

fn number(text: &str) -> Result<u32, ParseError> {
    // Digits only: parsing alone would take a sign.
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(bad_number)
}

fn bad_number() -> ParseError {
    ParseError::new(ErrorCode::PaginationNumberInvalid, "n is one non-negative integer")
}

/// Each `key=value` as it stands, with its key decoded: an encoded key must not slip past a rule.
pub(super) fn parameters(query: Option<&str>) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| {
        let key = pair.split('=').next().unwrap_or_default();
        (percent_decode_str(key).decode_utf8_lossy(), pair)
    })
}

fn value(pair: &str) -> &str {
    pair.split_once('=').map_or("", |(_, value)| value)
}

/// The value of a pair, decoded.
pub(super) fn text_value(pair: &str) -> Cow<'_, str> {
    percent_decode_str(value(pair)).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(query: &str) -> Option<(String, String)> {
        match Ns::parse(Some(query)) {
            Ns::Named(ns) => Some((ns.received, ns.normal)),
            Ns::Absent | Ns::Unusable => None,
        }
    }

    #[test]
    fn ns_is_decoded_once_and_normalised() {
        for (query, received, normal) in [
            ("ns=docker.io", "docker.io", "docker.io"),
            ("last=x&ns=Quay.IO.", "Quay.IO.", "quay.io"),
            ("ns=localhost%3A5000", "localhost:5000", "localhost:5000"),
            ("ns=a.test.:443", "a.test.:443", "a.test:443"),
            ("%6es=ghcr.io", "ghcr.io", "ghcr.io"),
        ] {
            assert_eq!(named(query), Some((received.to_owned(), normal.to_owned())), "{query}");
        }
    }

    #[test]
    fn an_ns_that_cannot_be_one_host_is_unusable_and_not_absent() {
        for query in [
            "ns=",
            "ns",
            "ns=a/b",
            "ns=a%2Fb",
            "ns=a%252Fb",
            "ns=u@a",
            "ns=a+b",
            "ns=a%20b",
            "ns=%0d%0aX",
            "ns=%ff",
            "ns=a&ns=a",
            "ns=a&%6Es=b",
            "ns=\u{e9}",
        ] {
            assert_eq!(Ns::parse(Some(query)), Ns::Unusable, "{query}");
        }
        assert_eq!(Ns::parse(None), Ns::Absent);
        assert_eq!(Ns::parse(Some("nsx=a&x=ns")), Ns::Absent);
    }

    #[test]
    fn n_is_read_and_the_rest_passes_byte_for_byte() {
        let page = PageQuery::parse(Some("last=V1.0%2b&ns=docker.io&n=10&next_page=a%3D%3d&flag"))
            .expect("valid");
        assert_eq!((page.n, page.opaque()), (Some(10), "last=V1.0%2b&next_page=a%3D%3d&flag"));
        assert_eq!(page.append_to("/x".into()), "/x?n=10&last=V1.0%2b&next_page=a%3D%3d&flag");
        assert_eq!(PageQuery::default().append_to("/x".into()), "/x");
        assert_eq!(
            PageQuery::parse(Some("last=a")).expect("valid").append_to("/x".into()),
            "/x?last=a"
        );
        assert_eq!(PageQuery::parse(Some("n=0")).expect("valid").append_to("/x".into()), "/x?n=0");
    }

    #[test]
    fn artifact_types_are_decoded_and_empty_ones_are_none() {
        let page =
            PageQuery::parse(Some("artifactType=a%2Fb+c&last=x&artifactType=d%2Be&artifactType="))
                .expect("valid");
        assert_eq!(page.artifact_types(), ["a/b+c", "d+e"]);
        assert!(
            PageQuery::parse(Some("artifacttype=a&artifactType"))
                .expect("valid")
                .artifact_types()
                .is_empty()
        );
    }

    #[test]
    fn n_must_be_one_non_negative_integer() {
        for query in [
            "n=",
            "n",
            "n=-1",
            "n=+1",
            "n=1.0",
            "n=ten",
            "n=1&n=1",
            "n=%31",
            "n=1 ",
            "n=99999999999999999999",
        ] {
            let error = PageQuery::parse(Some(query)).expect_err(query);
            assert_eq!(error.code(), ErrorCode::PaginationNumberInvalid);
        }
    }
    #[test]
    fn a_page_shrinks_to_the_upstream_limit_and_never_grows() {
        let page = |n| PageQuery { n, opaque: String::new() };
        assert_eq!(page(Some(500)).at_most(Some(100)).n, Some(100));
        assert_eq!(page(Some(5)).at_most(Some(100)).n, Some(5));
        assert_eq!(page(Some(500)).at_most(None).n, Some(500));
        assert_eq!(page(None).at_most(Some(100)).n, None);
    }
}
