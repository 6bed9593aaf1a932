//! What the headers of an answer say, checked against what was requested. Pure.

use http::StatusCode;
use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LINK,
};
use url::Url;

use super::error::{ErrorKind, Fault, Symptom};
use crate::oci::headers::{DOCKER_CONTENT_DIGEST, RATELIMIT_LIMIT, RATELIMIT_REMAINING};
use crate::oci::{
    ByteSpan, ContentRange, Digest, ErrorCode, Extent, MediaType, Part, message_of_document,
};

/// Bytes of the query of a next page that is passed on.
const NEXT_QUERY_MAX: usize = 4096;

/// The first value of a header, if it is visible ASCII.
pub(super) fn text(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// `Docker-Content-Digest`, if it is a digest that can be verified. Anything else counts as absent:
/// the bytes decide in the end.
pub(super) fn digest(headers: &HeaderMap) -> Option<Digest> {
    text(headers, DOCKER_CONTENT_DIGEST).and_then(|value| Digest::parse(value).ok())
}

pub(super) fn media_type(headers: &HeaderMap) -> Option<MediaType> {
    text(headers, CONTENT_TYPE).and_then(MediaType::parse)
}

/// `Content-Length`, which the body of a HEAD answer does not show.
pub(super) fn length(headers: &HeaderMap) -> Option<u64> {
    text(headers, CONTENT_LENGTH).and_then(|value| value.parse().ok())
}

/// The number before the window in `ratelimit-remaining: 76;w=21600` (PROTOCOL §3.10).
pub(super) fn rate_limit_remaining(headers: &HeaderMap) -> Option<i64> {
    text(headers, RATELIMIT_REMAINING)?.split(';').next()?.trim().parse().ok()
}

/// The number, and the window in seconds, of `ratelimit-limit: 100;w=21600` (PROTOCOL §3.10).
pub(super) fn rate_limit(headers: &HeaderMap) -> Option<(i64, Option<i64>)> {
    let mut parts = text(headers, RATELIMIT_LIMIT)?.split(';').map(str::trim);
    let limit = parts.next()?.parse().ok()?;
    let window = parts.find_map(|part| part.strip_prefix("w=")?.parse().ok());
    Some((limit, window))
}

/// The codings that change the bytes (RFC 9110 §8.4.1). What else storage puts into
/// `Content-Encoding` (`aws-chunked`, `none`, `utf-8`, `binary`) means nothing.
const CODINGS: [&str; 7] = ["gzip", "x-gzip", "deflate", "compress", "x-compress", "br", "zstd"];

/// Fails if the body is encoded: it would be read as it comes, and nobody may have said which
/// digest it has (BLOB-3).
pub(super) fn check_identity(headers: &HeaderMap) -> Result<(), Fault> {
    let values = headers.get_all(CONTENT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut words = values.flat_map(|value| value.split(',')).map(str::trim);
    if words.any(|word| CODINGS.iter().any(|coding| word.eq_ignore_ascii_case(coding))) {
        return Err(Fault::protocol("the body is encoded although identity was asked for"));
    }
    Ok(())
}

/// Whether an answer with 200 may be a login or error page instead of the blob: it is labelled as
/// one, and says nothing of the digest. Some storage guesses such a label for a layer, so what is
/// behind it is judged by size and digest; until then it is nobody's word (BLOB-3).
pub(super) fn may_be_a_page(headers: &HeaderMap, wanted: &Digest) -> bool {
    media_type(headers).is_some_and(|media_type| media_type.as_str() == "text/html")
        && digest(headers).is_none_or(|digest| digest != *wanted)
}

/// The fault of a page where a blob was due.
pub(super) fn web_page() -> Fault {
    Fault::protocol("a web page instead of a blob")
}

/// Fails on a login or error page with status 200.
pub(super) fn check_no_web_page(headers: &HeaderMap) -> Result<(), Fault> {
    if media_type(headers).is_some_and(|media_type| media_type.as_str() == "text/html") {
        return Err(Fault::protocol("a web page instead of content"));
    }
    Ok(())
}

/// The type of a manifest, which clients cannot do without. Types that are never a manifest's are
/// refused: an error page with status 200 is one (MAN-4).
pub(super) fn manifest_type(headers: &HeaderMap) -> Result<MediaType, Fault> {
    let media_type =
        media_type(headers).ok_or_else(|| Fault::protocol("a manifest without a media type"))?;
    if media_type.as_str().starts_with("text/") || media_type.as_str() == "application/octet-stream"
    {
        return Err(Fault::protocol(format!("a manifest of type {media_type}")));
    }
    Ok(media_type)
}

/// Which bytes of a blob an answer holds. An answer with the whole is good for any part (RFC 9110
/// §14.2). What it says of type and encoding does not matter, since its digest decides (BLOB-3).
///
/// # Errors
/// `Protocol` if it is not a blob's answer, or holds another part than was requested.
pub(super) fn extent(
    status: StatusCode,
    headers: &HeaderMap,
    part: Option<Part>,
) -> Result<Extent, Fault> {
    match (status, part) {
        (StatusCode::OK, _) => Ok(Extent::Whole { size: length(headers) }),
        (StatusCode::PARTIAL_CONTENT, Some(part)) => part_extent(headers, part),
        (StatusCode::PARTIAL_CONTENT, None) => {
            Err(Fault::protocol("a part of the blob although all was asked for"))
        }
        (other, _) => Err(Fault::protocol(format!("status {} for a blob", other.as_u16()))),
    }
}

fn part_extent(headers: &HeaderMap, part: Part) -> Result<Extent, Fault> {
    let Some(ContentRange::Part { span, total }) = content_range(headers) else {
        return Err(Fault::protocol("a part of the blob without a usable Content-Range"));
    };
    if !part.is_met_by(span) {
        return Err(Fault::protocol("another part of the blob than was asked for"));
    }
    // Framing by one and placing by the other would put bytes where they do not belong.
    if length(headers).is_some_and(|length| length != span.len()) {
        return Err(Fault::protocol("Content-Length and Content-Range differ"));
    }
    Ok(Extent::Part { span, total })
}

fn content_range(headers: &HeaderMap) -> Option<ContentRange> {
    text(headers, CONTENT_RANGE).and_then(ContentRange::parse)
}

/// The first byte of a blob: requested where HEAD is refused.
pub(super) fn first_byte() -> Part {
    Part::Span(ByteSpan::new(0, 0).expect("a span of one byte is in order"))
}

/// The size of a blob from the answer to a GET of its first byte (BLOB-13). An empty blob has no
/// first byte: its answer is a 416 that names the size 0.
pub(super) fn probed_size(status: StatusCode, headers: &HeaderMap) -> Result<Option<u64>, Fault> {
    if status == StatusCode::RANGE_NOT_SATISFIABLE
        && content_range(headers) == Some(ContentRange::Unsatisfied { size: 0 })
    {
        return Ok(Some(0));
    }
    match extent(status, headers, Some(first_byte()))? {
        Extent::Whole { size } => Ok(size),
        Extent::Part { total, .. } => Ok(total),
    }
}

/// The query of `Link: <…>; rel="next"` in the answer to `requested`. Its host and path are
/// dropped, so that it leads nowhere else (TAG-3).
pub(super) fn next_page(headers: &HeaderMap, requested: &Url) -> Result<Option<String>, Fault> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    // One line may hold several links; each begins with a bracket.
    let Some(target) = links.flat_map(|line| line.split('<').skip(1)).find_map(next_target) else {
        return Ok(None);
    };
    let next = requested
        .join(target)
        .map_err(|_| Fault::protocol("the Link to the next page is not a URL"))?;
    match next.query() {
        Some(query) if query.len() > NEXT_QUERY_MAX => {
            Err(Fault::protocol("the Link to the next page is too long"))
        }
        query => Ok(query.map(ToOwned::to_owned)),
    }
}

/// The target of a link, after its opening bracket, if the link is the next page's.
fn next_target(link: &str) -> Option<&str> {
    let (target, parameters) = link.split_once('>')?;
    let is_next = |parameter: &str| {
        let (name, value) = parameter.split_once('=').unwrap_or_default();
        name.trim().eq_ignore_ascii_case("rel")
            && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
    };
    parameters.split([';', ',']).any(is_next).then_some(target)
}

/// The fault of a write that succeeded with a status that the specification does not have for it.
pub(super) fn unexpected_status(status: StatusCode) -> Fault {
    let status = status.as_u16();
    let reason = format!("the upstream answered a write with {status}");
    Fault::new(ErrorKind::Protocol, Symptom::Status(status), reason)
}

/// Whether a refusal without a challenge says that the login or token is no longer good: ECR says
/// so with 403, ECR Public with 400, both with `DENIED` and a message that begins like this
/// (PROTOCOL §2.3). Words further on say nothing: they may be a repository's name.
pub(super) fn says_expired(body: &[u8]) -> bool {
    let is_code = ErrorCode::of_document(body)
        .is_some_and(|code| matches!(code, ErrorCode::Denied | ErrorCode::Unauthorized));
    let message = message_of_document(body).unwrap_or_default().to_ascii_lowercase();
    let what = message.strip_prefix("your authorization token ");
    is_code
        && what.is_some_and(|what| {
            ["has expired", "is invalid"].iter().any(|end| what.starts_with(end))
        })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn span(first: u64, last: u64) -> ByteSpan {
        ByteSpan::new(first, last).expect("in order")
    }

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (
                name.parse::<http::HeaderName>().expect("a name"),
                value.parse::<HeaderValue>().expect("a value"),
            )
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_part_starts_where_it_was_asked_to() {
        let extent = |range: &str, part| {
            extent(StatusCode::PARTIAL_CONTENT, &headers(&[("content-range", range)]), part)
        };
        let good = Extent::Part { span: span(5, 9), total: Some(10) };
        assert_eq!(extent("bytes 5-9/10", Some(Part::From(5))).expect("as asked"), good);
        assert_eq!(extent("bytes 5-9/10", Some(Part::Span(span(5, 20)))).expect("clipped"), good);
        assert_eq!(
            extent("bytes 5-9/*", Some(Part::From(5))).expect("no total"),
            Extent::Part { span: span(5, 9), total: None }
        );
        for (range, part) in [
            ("bytes 5-9/10", None),
            ("bytes 4-9/10", Some(Part::From(5))),
            ("bytes 5-9/10", Some(Part::Span(span(5, 8)))),
            ("bytes 9-5/10", Some(Part::From(9))),
            ("bytes 5-10/10", Some(Part::From(5))),
            ("bytes */10", Some(Part::From(5))),
            ("items 5-9/10", Some(Part::From(5))),
            ("bytes 5-18446744073709551615/*", Some(Part::From(5))),
            ("", Some(Part::From(5))),
        ] {
            assert!(extent(range, part).is_err(), "{range} for {part:?}");
        }
    }

    #[test]
    fn a_lying_length_of_a_part_is_refused() {
        let headers = headers(&[("content-range", "bytes 0-4/10"), ("content-length", "9")]);
        assert!(extent(StatusCode::PARTIAL_CONTENT, &headers, Some(Part::From(0))).is_err());
    }

    #[test]
    fn a_whole_answers_any_question_and_other_statuses_none() {
        let ten =
            headers(&[("content-length", "10"), ("content-type", "application/octet-stream")]);
        let whole = Extent::Whole { size: Some(10) };
        assert_eq!(extent(StatusCode::OK, &ten, None).expect("asked for"), whole);
        assert_eq!(extent(StatusCode::OK, &ten, Some(Part::From(5))).expect("allowed"), whole);
        for status in
            [StatusCode::NO_CONTENT, StatusCode::ACCEPTED, StatusCode::RANGE_NOT_SATISFIABLE]
        {
            assert!(extent(status, &ten, Some(Part::From(5))).is_err(), "{status}");
        }
    }

    #[test]
    fn an_encoding_counts_only_if_it_changes_the_bytes() {
        for (value, good) in [
            ("", true),
            ("Identity", true),
            ("aws-chunked", true),
            ("none", true),
            ("utf-8", true),
            ("binary", true),
            ("GZIP", false),
            ("aws-chunked, gzip", false),
            ("br", false),
            ("zstd", false),
        ] {
            assert_eq!(
                check_identity(&headers(&[("content-encoding", value)])).is_ok(),
                good,
                "{value}"
            );
        }
    }

    #[test]
    fn a_page_is_what_is_labelled_as_one_and_names_no_digest() {
        let wanted = Digest::of(crate::oci::Algorithm::Sha256, b"blob");
        let other = Digest::of(crate::oci::Algorithm::Sha256, b"other");
        let page = ("content-type", "text/html; charset=x");
        assert!(may_be_a_page(&headers(&[page]), &wanted));
        let named = |digest: &Digest| headers(&[page, ("docker-content-digest", digest.as_str())]);
        assert!(!may_be_a_page(&named(&wanted), &wanted));
        assert!(may_be_a_page(&named(&other), &wanted));
        assert!(!may_be_a_page(&headers(&[("content-type", "text/plain")]), &wanted));
        assert!(!may_be_a_page(&headers(&[]), &wanted));
    }

    #[test]
    fn the_size_of_an_empty_blob_comes_from_the_refusal_of_its_first_byte() {
        let size = |status, range| probed_size(status, &headers(&[("content-range", range)]));
        assert_eq!(size(StatusCode::PARTIAL_CONTENT, "bytes 0-0/77").expect("part"), Some(77));
        assert_eq!(size(StatusCode::RANGE_NOT_SATISFIABLE, "bytes */0").expect("empty"), Some(0));
        assert!(size(StatusCode::RANGE_NOT_SATISFIABLE, "bytes */9").is_err());
    }

    #[test]
    fn a_manifest_has_a_type_that_could_be_one() {
        for (value, good) in [
            ("application/vnd.oci.image.manifest.v1+json", true),
            ("application/json", true),
            ("text/html", false),
            ("text/plain; charset=utf-8", false),
            ("application/octet-stream", false),
            ("nonsense", false),
        ] {
            assert_eq!(
                manifest_type(&headers(&[("content-type", value)])).is_ok(),
                good,
                "{value}"
            );
        }
        assert!(manifest_type(&headers(&[])).is_err());
    }

    #[test]
    fn the_next_page_is_a_query_whoever_it_points_to() {
        let requested = Url::parse("https://acme.test/v2/a/tags/list?n=2").expect("valid");
        let next = |link: &str| next_page(&headers(&[("link", link)]), &requested).expect(link);
        assert_eq!(
            next(r#"</v2/a/tags/list?n=2&last=b>; rel="next""#).as_deref(),
            Some("n=2&last=b")
        );
        assert_eq!(
            next("<https://evil.example/x?next_page=abc>; rel=next").as_deref(),
            Some("next_page=abc")
        );
        assert_eq!(next(r#"<?last=c>; REL="NEXT""#).as_deref(), Some("last=c"));
        assert_eq!(next(r#"</p?x>; rel="prev", </n?y,z>; rel="next""#).as_deref(), Some("y,z"));
        assert_eq!(next(r#"</v2/a/tags/list>; rel="next""#), None);
        assert_eq!(next(r#"</v2/a/tags/list?n=2>; rel="prev""#), None);
        let long = format!("</v2/?last={}>; rel=\"next\"", "x".repeat(NEXT_QUERY_MAX));
        assert!(next_page(&headers(&[("link", &long)]), &requested).is_err());
    }

    #[test]
    fn the_rate_limit_is_the_number_before_the_window() {
        let remaining = |value| rate_limit_remaining(&headers(&[("ratelimit-remaining", value)]));
        assert_eq!(remaining("76;w=21600"), Some(76));
        assert_eq!(remaining("0"), Some(0));
        assert_eq!(remaining("many"), None);
        assert_eq!(rate_limit_remaining(&headers(&[])), None);
    }

    #[test]
    fn aws_says_that_a_token_has_expired_in_two_ways() {
        assert!(says_expired(
            br#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired."}]}"#
        ));
        assert!(says_expired(
            br#"{"errors":[{"code":"DENIED","message":"Your Authorization Token is invalid."}]}"#
        ));
        for other in [
            br#"{"errors":[{"code":"DENIED","message":"requested access is denied"}]}"#.as_slice(),
            br#"{"errors":[{"code":"DENIED","message":"repository token-service is invalid"}]}"#,
            br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"Your authorization token has expired"}]}"#,
            b"Your authorization token has expired.",
            b"",
        ] {
            assert!(!says_expired(other), "{}", String::from_utf8_lossy(other));
        }
    }
}
