//! Byte ranges of blobs (RFC 9110 §14) and the validators that go with them.
//!
//! Scope: one range per request; several are recognised so that they can be refused (DESIGN §15, BLOB-5).

use std::fmt;

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

/// One range of `bytes=`. Numbers beyond 64 bits have been brought down to the largest: no blob reaches either.
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
    /// [`RangeRequest::Multiple`] resolves to the whole, which a server may always send (RFC 9110 §14.2).
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
            Self::Suffix(0) => return Resolved::Unsatisfiable,
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

    /// The `Content-Range` of a 206 out of `total` bytes.
    pub fn content_range(self, total: u64) -> String {
        ContentRange { span: self, total: Some(total) }.to_string()
    }
}

/// The `Content-Range` of a 416 (RFC 9110 §14.4).
pub fn unsatisfied_content_range(total: u64) -> String {
    format!("bytes */{total}")
}

/// The `Content-Range` of a 206.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    pub span: ByteSpan,
    /// The size of the whole blob; `None` where it was sent as `*`.
    pub total: Option<u64>,
}

impl ContentRange {
    /// Parses `bytes first-last/total`; `None` if it says anything else or contradicts itself.
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, rest) = header.trim().split_once(' ')?;
        let (span, total) = rest.trim_start().split_once('/')?;
        let (first, last) = span.split_once('-')?;
        let span = ByteSpan::new(exact(first)?, exact(last)?)?;
        let total = if total == "*" { None } else { Some(exact(total)?) };
        let consistent = unit.eq_ignore_ascii_case("bytes") && total.is_none_or(|total| span.last < total);
        consistent.then_some(Self { span, total })
    }
}

/// Digits only; a number that does not fit would describe other bytes if it were brought down.
fn exact(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ByteSpan { first, last } = self.span;
        match self.total {
            Some(total) => write!(f, "bytes {first}-{last}/{total}"),
            None => write!(f, "bytes {first}-{last}/*"),
        }
    }
}

/// The entity tag of everything that is named by a digest (MAN-2, BLOB-1).
pub fn entity_tag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether a `Range` holds under this `If-Range`: only for our own strong tag (RFC 9110 §13.1.5, BLOB-6).
pub fn if_range_matches(header: &str, digest: &Digest) -> bool {
    header.trim() == entity_tag(digest)
}

/// Whether `If-None-Match` names `digest`, so that 304 is the answer: quoted, unquoted, weak, a list, or `*` (MAN-7).
pub fn none_match(header: &str, digest: &Digest) -> bool {
    header.split(',').map(str::trim).any(|tag| {
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        let bare = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag);
        tag == "*" || bare == digest.as_str()
    })
}
