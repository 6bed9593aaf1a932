//! Which bytes of a blob are asked of a source, and which of them an answer holds (RFC 9110 §14).

use std::fmt;

use super::ByteSpan;

/// The part of a blob that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Everything from this byte on.
    From(u64),
    Span(ByteSpan),
}

impl Part {
    /// Whether an answer that holds `span` begins where it was asked to, and holds nothing behind.
    pub fn is_met_by(self, span: ByteSpan) -> bool {
        match self {
            Self::From(first) => span.first() == first,
            Self::Span(asked) => span.first() == asked.first() && span.last() <= asked.last(),
        }
    }
}

/// The value of a `Range` header.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::From(first) => write!(f, "bytes={first}-"),
            Self::Span(span) => write!(f, "bytes={}-{}", span.first(), span.last()),
        }
    }
}

/// Which bytes of the blob an answer holds. A request for a part may be answered with the whole
/// (RFC 9110 §14.2). Sizes in bytes; `None` if the source does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Whole { size: Option<u64> },
    Part { span: ByteSpan, total: Option<u64> },
}

/// A `Content-Range` that makes sense (RFC 9110 §14.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentRange {
    /// Of a 206. `total` is the size of the whole blob, `None` where it was sent as `*`.
    Part { span: ByteSpan, total: Option<u64> },
    /// Of a 416: the size of a blob that does not have the range.
    Unsatisfied { size: u64 },
}

impl ContentRange {
    /// `None` if it says anything else, or contradicts itself.
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, rest) = header.trim().split_once(' ')?;
        let (span, total) = rest.trim_start().split_once('/')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let total = if total == "*" { None } else { Some(exact(total)?) };
        if span == "*" {
            return Some(Self::Unsatisfied { size: total? });
        }
        let (first, last) = span.split_once('-')?;
        let span = ByteSpan::new(exact(first)?, exact(last)?)?;
        total.is_none_or(|total| span.last() < total).then_some(Self::Part { span, total })
    }
}

/// Digits only. A number that does not fit is refused: clipped, it would describe other bytes.
fn exact(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part { span, total: Some(total) } => {
                write!(f, "bytes {}-{}/{total}", span.first(), span.last())
            }
            Self::Part { span, total: None } => {
                write!(f, "bytes {}-{}/*", span.first(), span.last())
            }
            Self::Unsatisfied { size } => write!(f, "bytes */{size}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(first: u64, last: u64) -> ByteSpan {
        ByteSpan::new(first, last).expect("in order")
    }

    #[test]
    fn content_ranges_are_read_as_they_are_written() {
        let (known, unknown) = (Some(10), None);
        for (header, expected) in [
            ("bytes 5-9/10", ContentRange::Part { span: span(5, 9), total: known }),
            ("bytes 0-0/*", ContentRange::Part { span: span(0, 0), total: unknown }),
            ("bytes */10", ContentRange::Unsatisfied { size: 10 }),
        ] {
            assert_eq!(ContentRange::parse(header), Some(expected));
            assert_eq!(expected.to_string(), header);
        }
        assert!(ContentRange::parse("Bytes 5-9/10").is_some(), "the unit's case does not matter");
    }

    #[test]
    fn content_ranges_must_not_contradict_themselves() {
        for header in [
            "",
            "bytes",
            "bytes */*",
            "bytes 5-9",
            "bytes 9-5/10",
            "bytes 5-10/10",
            "bytes 5-9/",
            "bytes -5/10",
            "bytes 5-/10",
            "bytes=5-9/10",
            "lines 5-9/10",
            "bytes +5-9/10",
            "bytes 0-18446744073709551615/*",
            "bytes 0-99999999999999999999/*",
            "bytes 0-1/99999999999999999999",
        ] {
            assert_eq!(ContentRange::parse(header), None, "{header}");
        }
    }

    #[test]
    fn a_part_is_met_by_what_begins_there_and_ends_no_later() {
        assert!(Part::From(5).is_met_by(span(5, 9)));
        assert!(!Part::From(5).is_met_by(span(4, 9)));
        assert!(Part::Span(span(5, 9)).is_met_by(span(5, 8)), "clipped to a shorter blob");
        assert!(!Part::Span(span(5, 9)).is_met_by(span(5, 10)));
        assert_eq!(Part::From(5).to_string(), "bytes=5-");
        assert_eq!(Part::Span(span(5, 9)).to_string(), "bytes=5-9");
    }
}
