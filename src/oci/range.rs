//! Byte ranges of blobs (RFC 9110 §14) and the validators that go with them.
//!
//! Scope: one range per request; several are recognised so that they can be refused (DESIGN §15,
//! BLOB-5).

use super::Digest;

/// A `Range` header, before the size of the blob is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeRequest {
    /// No header, or one that a server must ignore: another unit, or no grammar.
    None,
    One(ByteRange),
    /// More than one range; answered with 400 for now.
    Multiple,
    /// The end lies before the start: 416, as the conformance suite expects (BLOB-4).
    Unsatisfiable,
}

/// One range of `bytes=`. Numbers beyond 64 bits have been brought down to the largest: no blob
/// reaches either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `first-`
    From(u64),
    /// `first-last`, both inclusive
    Between(u64, u64),
    /// `-length`: the last bytes
    Suffix(u64),
}

/// What a [`RangeRequest`] means for a blob of known size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    Whole,
    Part(ByteSpan),
    Unsatisfiable,
}

impl RangeRequest {
    pub fn parse(header: Option<&str>) -> Self {
        header.and_then(parse_set).unwrap_or(Self::None)
    }

    /// The bytes to send of a blob of `size` bytes.
    ///
    /// [`RangeRequest::Multiple`] resolves to the whole, which a server may always send (RFC 9110
    /// §14.2).
    pub fn resolve(self, size: u64) -> Resolved {
        match self {
            Self::None | Self::Multiple => Resolved::Whole,
            Self::Unsatisfiable => Resolved::Unsatisfiable,
            Self::One(range) => range.resolve(size),
        }
    }
}

/// `None` if it is not of the grammar; empty list elements do not count (RFC 9110 §5.6.1).
fn parse_set(header: &str) -> Option<RangeRequest> {
    let (unit, set) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let elements = set.split(',').map(str::trim).filter(|element| !element.is_empty());
    let ranges = elements.map(ByteRange::parse).collect::<Option<Vec<_>>>()?;
    match ranges.as_slice() {
        [] => None,
        [ByteRange::Between(first, last)] if last < first => Some(RangeRequest::Unsatisfiable),
        [range] => Some(RangeRequest::One(*range)),
        [_, _, ..] => Some(RangeRequest::Multiple),
    }
}

impl ByteRange {
    fn parse(text: &str) -> Option<Self> {
        match text.split_once('-')? {
            ("", length) => Some(Self::Suffix(number(length)?)),
            (first, "") => Some(Self::From(number(first)?)),
            (first, last) => Some(Self::Between(number(first)?, number(last)?)),
        }
    }

    fn resolve(self, size: u64) -> Resolved {
        let Some(end) = size.checked_sub(1) else {
            return self.resolve_empty();
        };
        let (first, last) = match self {
            Self::From(first) => (first, end),
            Self::Between(first, last) => (first, last.min(end)),
            Self::Suffix(length) => (size.saturating_sub(length), end),
        };
        ByteSpan::new(first, last).map_or(Resolved::Unsatisfiable, Resolved::Part)
    }

    /// The end of nothing is satisfiable (RFC 9110 §14.1.2), but no `Content-Range` can say so.
    fn resolve_empty(self) -> Resolved {
        match self {
            Self::Suffix(1..) => Resolved::Whole,
            Self::Suffix(0) | Self::From(_) | Self::Between(..) => Resolved::Unsatisfiable,
        }
    }
}

/// Digits only, brought down to `u64::MAX` if there are too many.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

/// At least one byte: from `first` to `last`, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSpan {
    first: u64,
    last: u64,
}

impl ByteSpan {
    /// `None` if `last` lies before `first`, or if no blob could hold it.
    pub fn new(first: u64, last: u64) -> Option<Self> {
        (first <= last && last < u64::MAX).then_some(Self { first, last })
    }

    pub fn first(self) -> u64 {
        self.first
    }

    pub fn last(self) -> u64 {
        self.last
    }

    /// The first byte behind the span.
    pub fn end(self) -> u64 {
        self.last + 1
    }

    /// In bytes; never zero.
    #[expect(clippy::len_without_is_empty, reason = "a span is never empty")]
    pub fn len(self) -> u64 {
        self.end() - self.first
    }
}

/// The entity tag of everything that is named by a digest (MAN-2, BLOB-1).
pub fn entity_tag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether a `Range` holds under this `If-Range`: only for our own strong tag (RFC 9110 §13.1.5,
/// BLOB-6).
pub fn if_range_matches(header: &str, digest: &Digest) -> bool {
    header.trim() == entity_tag(digest)
}

/// Whether `If-None-Match` names `digest`, so that 304 is the answer: quoted, unquoted, weak, a
/// list, or `*` (MAN-7).
pub fn none_match(header: &str, digest: &Digest) -> bool {
    header.split(',').map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        let bare = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag);
        tag == "*" || bare == digest.as_str()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::{Algorithm, ContentRange};

    fn resolve(header: &str, size: u64) -> Resolved {
        RangeRequest::parse(Some(header)).resolve(size)
    }

    fn part(first: u64, last: u64) -> Resolved {
        Resolved::Part(ByteSpan::new(first, last).expect("in order"))
    }

    #[test]
    fn single_ranges_resolve_and_are_clipped_to_the_end() {
        for (header, size, expected) in [
            ("bytes=0-0", 10, part(0, 0)),
            ("bytes=500-1499", 2000, part(500, 1499)),
            ("bytes=500-", 2000, part(500, 1999)),
            ("bytes=-500", 2000, part(1500, 1999)),
            ("bytes=-5000", 2000, part(0, 1999)),
            ("bytes=1000-5000", 2000, part(1000, 1999)),
            ("bytes=0-", 10, part(0, 9)),
            ("bytes=9-9", 10, part(9, 9)),
            ("Bytes = 0-4 ,", 10, part(0, 4)),
            ("bytes=0-99999999999999999999", 10, part(0, 9)),
            ("bytes=-99999999999999999999", 10, part(0, 9)),
            ("bytes=0-", u64::MAX, part(0, u64::MAX - 1)),
            ("bytes=18446744073709551614-", u64::MAX, part(u64::MAX - 1, u64::MAX - 1)),
        ] {
            assert_eq!(resolve(header, size), expected, "{header} of {size}");
        }
    }

    #[test]
    fn ranges_outside_the_blob_are_unsatisfiable() {
        for (header, size) in [
            ("bytes=10-", 10),
            ("bytes=5000-10000", 2000),
            ("bytes=500-0", 2000),
            ("bytes=-0", 10),
            ("bytes=-0", 0),
            ("bytes=0-", 0),
            ("bytes=0-0", 0),
            ("bytes=99999999999999999999-", u64::MAX),
            ("bytes=99999999999999999999-99999999999999999999", u64::MAX),
        ] {
            assert_eq!(resolve(header, size), Resolved::Unsatisfiable, "{header} of {size}");
        }
        assert_eq!(
            resolve("bytes=-5", 0),
            Resolved::Whole,
            "no Content-Range can name an empty part"
        );
    }

    #[test]
    fn what_is_no_byte_range_is_ignored() {
        assert_eq!(RangeRequest::parse(None), RangeRequest::None);
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-b",
            "bytes=1-2-3",
            "bytes=+1-2",
            "bytes=1 - 2",
            "bytes=0x1-2",
            "bytes=--1",
            "lines=0-1",
            "bytes:0-1",
            "0-1",
            "bytes=0-1,x",
            "bytes=1",
            "bytes=\u{661}-",
        ] {
            assert_eq!(RangeRequest::parse(Some(header)), RangeRequest::None, "{header}");
        }
    }

    #[test]
    fn several_ranges_are_told_apart_from_one() {
        for header in ["bytes=0-0,2-3", "bytes=0-, -5", "bytes=5-0,1-2"] {
            assert_eq!(RangeRequest::parse(Some(header)), RangeRequest::Multiple, "{header}");
            assert_eq!(resolve(header, 10), Resolved::Whole);
        }
    }

    #[test]
    fn a_span_knows_its_length_and_says_its_place() {
        let span = ByteSpan::new(5, 9).expect("in order");
        assert_eq!((span.first(), span.last(), span.end(), span.len()), (5, 9, 10, 5));
        assert_eq!(ByteSpan::new(1, 0), None);
        assert_eq!(ByteSpan::new(0, u64::MAX), None);
        assert_eq!(ByteSpan::new(0, u64::MAX - 1).expect("the largest").len(), u64::MAX);
    }

    #[test]
    fn only_the_strong_tag_of_the_blob_keeps_a_range() {
        let digest = Digest::of(Algorithm::Sha256, b"a");
        let other = Digest::of(Algorithm::Sha256, b"b");
        assert!(if_range_matches(&format!(" \"{digest}\""), &digest));
        let date = "Wed, 21 Oct 2015 07:28:00 GMT".to_owned();
        for header in [
            format!("W/\"{digest}\""),
            format!("\"{other}\""),
            digest.to_string(),
            date,
            String::new(),
        ] {
            assert!(!if_range_matches(&header, &digest), "{header}");
        }
    }

    #[test]
    fn if_none_match_takes_every_spelling_that_clients_use() {
        let digest = Digest::of(Algorithm::Sha256, b"a");
        let other = Digest::of(Algorithm::Sha256, b"b");
        for header in [
            format!("\"{digest}\""),
            format!("{digest}"),
            format!("W/\"{digest}\""),
            format!("\"{other}\" , W/\"{digest}\""),
            format!("x,{digest}"),
            "*".to_owned(),
        ] {
            assert!(none_match(&header, &digest), "{header}");
        }
        for header in
            [String::new(), format!("\"{other}\""), format!("\"{digest}"), format!("\"{digest}x\"")]
        {
            assert!(!none_match(&header, &digest), "{header}");
        }
    }

    proptest! {
        #[test]
        fn a_part_always_lies_within_the_blob(first in any::<u64>(), last in any::<u64>(), size in any::<u64>()) {
            for range in [ByteRange::From(first), ByteRange::Between(first, last), ByteRange::Suffix(first)] {
                if let Resolved::Part(span) = RangeRequest::One(range).resolve(size) {
                    prop_assert!(span.len() >= 1 && span.end() <= size);
                    let told = ContentRange::Part { span, total: Some(size) };
                    prop_assert_eq!(ContentRange::parse(&told.to_string()), Some(told));
                }
            }
        }

        #[test]
        fn small_ranges_select_what_a_slice_would(first in 0_u64..20, last in 0_u64..20, size in 1_u64..20) {
            let expected = if last < first || first >= size { Resolved::Unsatisfiable } else { part(first, last.min(size - 1)) };
            prop_assert_eq!(resolve(&format!("bytes={first}-{last}"), size), expected);
            let expected = if first >= size { Resolved::Unsatisfiable } else { part(first, size - 1) };
            prop_assert_eq!(resolve(&format!("bytes={first}-"), size), expected);
            let expected = if last == 0 { Resolved::Unsatisfiable } else { part(size.saturating_sub(last), size - 1) };
            prop_assert_eq!(resolve(&format!("bytes=-{last}"), size), expected);
        }

        #[test]
        fn any_header_is_an_answer_and_never_a_panic(header in "\\PC*", tail in "[0-9, -]{0,24}", size in any::<u64>()) {
            for header in [header, format!("bytes={tail}"), format!("bytes {tail}/{tail}")] {
                let _ = resolve(&header, size);
                let _ = ContentRange::parse(&header);
            }
        }
    }
}
