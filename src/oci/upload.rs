//! Uploads of the distribution spec: what the query of one says, and the paths that are asked
//! upstream.

use super::query::{parameters, text_value};
use super::{Algorithm, Digest, ErrorCode, ParseError, Repository, Tag};

/// What a request below `blobs/uploads` says about the blob (end-4b, end-6, end-11).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UploadQuery {
    /// What the blob is, where the request ends its upload.
    pub digest: Option<Digest>,
    /// A blob that another repository may have.
    pub mount: Option<Digest>,
    /// That repository, as the client calls it.
    pub from: Option<Repository>,
    /// How the blob will be hashed, if not by SHA-256.
    pub algorithm: Option<Algorithm>,
}

impl UploadQuery {
    /// Reads a query; what it does not know is left out.
    ///
    /// # Errors
    /// `DIGEST_INVALID` or `NAME_INVALID` for a bad value, and for one that is given twice.
    pub fn parse(query: Option<&str>) -> Result<Self, ParseError> {
        let mut upload = Self::default();
        for (key, pair) in parameters(query) {
            let again = match &*key {
                "digest" => upload.digest.replace(Digest::parse(&text_value(pair))?).is_some(),
                "mount" => upload.mount.replace(Digest::parse(&text_value(pair))?).is_some(),
                "from" => upload.from.replace(Repository::parse(&text_value(pair))?).is_some(),
                "digest-algorithm" => {
                    upload.algorithm.replace(algorithm(&text_value(pair))?).is_some()
                }
                _ => false,
            };
            if again {
                return Err(ParseError::new(
                    ErrorCode::DigestInvalid,
                    format!("{key} is given twice"),
                ));
            }
        }
        Ok(upload)
    }
}

fn algorithm(text: &str) -> Result<Algorithm, ParseError> {
    let unknown = || {
        ParseError::new(ErrorCode::DigestInvalid, "the digest algorithm must be sha256 or sha512")
    };
    Algorithm::from_name(text).ok_or_else(unknown)
}

/// The tags that a manifest put by its digest is to have besides (spec-dev, `tag` parameters of
/// end-7).
///
/// # Errors
/// `MANIFEST_INVALID` for a tag that is none.
pub fn tag_parameters(query: Option<&str>) -> Result<Vec<Tag>, ParseError> {
    let tags = parameters(query).filter(|(key, _)| key == "tag").map(|(_, pair)| text_value(pair));
    let bad = |error: ParseError| ParseError::new(ErrorCode::ManifestInvalid, error.message());
    tags.map(|text| Tag::parse(&text).map_err(bad)).collect()
}

/// `/v2/<name>/blobs/uploads/`
pub fn uploads_path(repository: &Repository) -> String {
    format!("/v2/{repository}/blobs/uploads/")
}

/// The bytes of a chunk, as `Content-Range: 0-1023` says (end-5; without the unit that HTTP has
/// there).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRange {
    pub first: u64,
    /// Inclusive.
    pub last: u64,
}

impl ChunkRange {
    /// None if it is not a range; some clients write `bytes=` or `bytes ` before it, and a size
    /// behind.
    pub fn parse(text: &str) -> Option<Self> {
        let text =
            text.strip_prefix("bytes").map_or(text, |rest| rest.trim_start_matches(['=', ' ']));
        let text = text.split_once('/').map_or(text, |(range, _)| range);
        let (first, last) = text.trim().split_once('-')?;
        let digits = |text: &str| {
            text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
        };
        let (first, last) = (digits(first)?, digits(last)?);
        (first <= last).then_some(Self { first, last })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_query_says_what_the_blob_is_or_where_it_may_be() {
        let digest = Digest::parse(DIGEST).expect("valid");
        let parse = |query: &str| UploadQuery::parse(Some(query)).expect(query);
        let encoded = DIGEST.replace(':', "%3A");
        assert_eq!(parse(&format!("_state=x&digest={encoded}")).digest, Some(digest.clone()));
        let mount = parse(&format!("mount={DIGEST}&from=myapp%2Fbase&other=1"));
        assert_eq!(
            (mount.mount, mount.from.as_ref().map(Repository::as_str)),
            (Some(digest), Some("myapp/base"))
        );
        assert_eq!(parse("digest-algorithm=sha512").algorithm, Some(Algorithm::Sha512));
        assert_eq!(UploadQuery::parse(None), Ok(UploadQuery::default()));
        let repository = Repository::parse("myapp/api").expect("a repository");
        assert_eq!(uploads_path(&repository), "/v2/myapp/api/blobs/uploads/");
    }

    #[test]
    fn bad_and_repeated_values_are_refused() {
        let twice = format!("digest={DIGEST}&digest={DIGEST}");
        for (query, code) in [
            ("digest=sha256:x", ErrorCode::DigestInvalid),
            ("mount=", ErrorCode::DigestInvalid),
            ("from=A", ErrorCode::NameInvalid),
            ("from=a/../b", ErrorCode::NameInvalid),
            ("digest-algorithm=md5", ErrorCode::DigestInvalid),
            (twice.as_str(), ErrorCode::DigestInvalid),
        ] {
            assert_eq!(
                UploadQuery::parse(Some(query)).map_err(|error| error.code()),
                Err(code),
                "{query}"
            );
        }
    }

    #[test]
    fn further_tags_are_parameters() {
        let tags = tag_parameters(Some("tag=1.0&x=y&tag=latest")).expect("tags");
        assert_eq!(tags.iter().map(Tag::as_str).collect::<Vec<_>>(), ["1.0", "latest"]);
        assert_eq!(
            tag_parameters(Some("tag=%2F")).map_err(|error| error.code()),
            Err(ErrorCode::ManifestInvalid)
        );
    }

    #[test]
    fn a_chunk_says_where_it_belongs() {
        for (text, expected) in [
            ("0-1023", Some((0, 1023))),
            ("5-5", Some((5, 5))),
            ("bytes=0-9", Some((0, 9))),
            ("bytes 0-9/10", Some((0, 9))),
            ("9-0", None),
            ("-9", None),
            ("0-", None),
            ("+0-9", None),
            ("", None),
        ] {
            let range = ChunkRange::parse(text).map(|range| (range.first, range.last));
            assert_eq!(range, expected, "{text}");
        }
    }
}
