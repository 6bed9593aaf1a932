//! The path grammar of the distribution spec, both ways: a request target becomes a typed
//! [`Endpoint`], and typed names become the paths that are asked upstream and written into `Link`.
//!
//! Scope: the method is the server's business, and a path says nothing about whether the repository
//! may be used.

use std::borrow::Cow;

use super::query::{Ns, PageQuery};
use super::upload::UploadQuery;
use super::{Digest, ErrorCode, ParseError, Reference, Repository};

/// One request target, read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The component before `/v2`, in lower case (SEL-3).
    pub prefix: Option<String>,
    pub endpoint: Endpoint,
    pub ns: Ns,
}

/// What a path asks for. The repository is as the client wrote it: routing may still take a prefix
/// off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// end-1: `/v2/`
    Ping,
    /// end-3
    Manifest { repository: Repository, reference: Reference },
    /// end-2
    Blob { repository: Repository, digest: Digest },
    /// end-8
    Tags { repository: Repository, page: PageQuery },
    /// end-12
    Referrers { repository: Repository, digest: Digest, page: PageQuery },
    /// `/v2/_catalog`, which is not in the spec (TAG-6).
    Catalog,
    /// end-4 to end-6, end-11, end-13 and end-14: anything below `blobs/uploads`.
    Upload { repository: Repository, session: Option<String>, query: UploadQuery },
}

impl Target {
    /// Parses a path and the query behind it.
    ///
    /// # Errors
    /// `NAME_UNKNOWN` if the path is none of the spec's; `NAME_INVALID`, `DIGEST_INVALID` or
    /// `MANIFEST_UNKNOWN` for a bad repository, digest or tag (NAME-2); `PAGINATION_NUMBER_INVALID`
    /// for a bad `n`.
    pub fn parse(path: &str, query: Option<&str>) -> Result<Self, ParseError> {
        let (prefix, rest) = split_version(path).ok_or_else(no_such_path)?;
        let endpoint = Endpoint::parse(rest, query)?;
        Ok(Self { prefix: prefix.map(str::to_ascii_lowercase), endpoint, ns: Ns::parse(query) })
    }
}

/// The component before `/v2`, if there is one, and what stands behind `/v2/`.
fn split_version(path: &str) -> Option<(Option<&str>, &str)> {
    let path = path.strip_prefix('/')?;
    if let Some(rest) = after_version(path) {
        return Some((None, rest));
    }
    let (prefix, path) = path.split_once('/')?;
    after_version(path).map(|rest| (Some(prefix), rest))
}

fn after_version(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("v2")?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

impl Endpoint {
    /// Reads from the right, because a repository may have components called `manifests` or `blobs`
    /// (NAME-1).
    fn parse(path: &str, query: Option<&str>) -> Result<Self, ParseError> {
        match path {
            "" => return Ok(Self::Ping),
            "_catalog" => return Ok(Self::Catalog),
            _ => {}
        }
        if let Some((name, session)) = upload(path) {
            let (repository, query) = (Repository::parse(name)?, UploadQuery::parse(query)?);
            return Ok(Self::Upload { repository, session: session.map(str::to_owned), query });
        }
        let (head, last) = path.rsplit_once('/').ok_or_else(no_such_path)?;
        let (name, keyword) = head.rsplit_once('/').ok_or_else(no_such_path)?;
        let repository = || Repository::parse(name);
        match (keyword, last) {
            ("manifests", _) => {
                Ok(Self::Manifest { repository: repository()?, reference: reference(last)? })
            }
            ("blobs", _) => Ok(Self::Blob { repository: repository()?, digest: digest(last)? }),
            ("tags", "list") => {
                Ok(Self::Tags { repository: repository()?, page: PageQuery::parse(query)? })
            }
            ("referrers", _) => {
                let (repository, digest) = (repository()?, digest(last)?);
                Ok(Self::Referrers { repository, digest, page: PageQuery::parse(query)? })
            }
            _ => Err(no_such_path()),
        }
    }

    /// The repository as the client wrote it; `None` where the endpoint has none.
    pub fn repository(&self) -> Option<&Repository> {
        match self {
            Self::Ping | Self::Catalog => None,
            Self::Manifest { repository, .. }
            | Self::Blob { repository, .. }
            | Self::Tags { repository, .. }
            | Self::Referrers { repository, .. }
            | Self::Upload { repository, .. } => Some(repository),
        }
    }

    /// The digest that it names, or that an upload ends with.
    pub fn digest(&self) -> Option<&Digest> {
        match self {
            Self::Blob { digest, .. }
            | Self::Referrers { digest, .. }
            | Self::Manifest { reference: Reference::Digest(digest), .. } => Some(digest),
            Self::Upload { query, .. } => query.digest.as_ref(),
            Self::Ping | Self::Catalog | Self::Tags { .. } | Self::Manifest { .. } => None,
        }
    }

    /// Whether it asks what a tag means, or which there are.
    pub fn is_about_tags(&self) -> bool {
        match self {
            Self::Tags { .. } => true,
            Self::Manifest { reference, .. } => matches!(reference, Reference::Tag(_)),
            Self::Ping
            | Self::Blob { .. }
            | Self::Referrers { .. }
            | Self::Catalog
            | Self::Upload { .. } => false,
        }
    }

    /// The value of the metric label `route`.
    pub fn route_label(&self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Manifest { .. } => "manifest",
            Self::Blob { .. } => "blob",
            Self::Tags { .. } => "tags",
            Self::Referrers { .. } => "referrers",
            Self::Catalog => "catalog",
            Self::Upload { .. } => "upload",
        }
    }
}

/// `<name>` and `<session>` of `<name>/blobs/uploads/<session>`; the session and the slash before
/// it may be missing.
fn upload(path: &str) -> Option<(&str, Option<&str>)> {
    if let Some(name) = path.strip_suffix("/blobs/uploads") {
        return Some((name, None));
    }
    let (head, session) = path.rsplit_once('/')?;
    Some((
        head.strip_suffix("/blobs/uploads")?,
        Some(session).filter(|session| !session.is_empty()),
    ))
}

/// Some clients encode the colon of a digest; nothing else in a reference may be encoded.
fn decode_colon(text: &str) -> Cow<'_, str> {
    if text.contains('%') {
        text.replace("%3A", ":").replace("%3a", ":").into()
    } else {
        text.into()
    }
}

fn reference(text: &str) -> Result<Reference, ParseError> {
    Reference::parse(&decode_colon(text))
}

fn digest(text: &str) -> Result<Digest, ParseError> {
    Digest::parse(&decode_colon(text))
}

fn no_such_path() -> ParseError {
    ParseError::new(ErrorCode::NameUnknown, "no such path; registry requests start with /v2/")
}

/// `/v2/<name>/manifests/<reference>`
pub fn manifest_path(repository: &Repository, reference: &Reference) -> String {
    format!("/v2/{repository}/manifests/{reference}")
}

/// `/v2/<name>/blobs/<digest>`
pub fn blob_path(repository: &Repository, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// `/v2/<name>/tags/list`, with its query.
pub fn tags_path(repository: &Repository, page: &PageQuery) -> String {
    page.append_to(format!("/v2/{repository}/tags/list"))
}

/// `/v2/<name>/referrers/<digest>`, with its query.
pub fn referrers_path(repository: &Repository, digest: &Digest, page: &PageQuery) -> String {
    page.append_to(format!("/v2/{repository}/referrers/{digest}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::oci::{Algorithm, Tag};

    const DIGEST: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn repository(text: &str) -> Repository {
        Repository::parse(text).expect(text)
    }

    fn parse(path: &str) -> Result<Endpoint, ParseError> {
        Target::parse(path, None).map(|target| target.endpoint)
    }

    fn manifest(name: &str, reference: &str) -> Endpoint {
        Endpoint::Manifest {
            repository: repository(name),
            reference: Reference::parse(reference).expect(reference),
        }
    }

    fn blob(name: &str) -> Endpoint {
        Endpoint::Blob {
            repository: repository(name),
            digest: Digest::parse(DIGEST).expect("valid"),
        }
    }

    fn tags(name: &str) -> Endpoint {
        Endpoint::Tags { repository: repository(name), page: PageQuery::default() }
    }

    #[test]
    fn names_are_read_from_the_right() {
        for (path, expected) in [
            ("nginx/manifests/latest", manifest("nginx", "latest")),
            ("library/nginx/manifests/V1.0", manifest("library/nginx", "V1.0")),
            ("a/manifests/b/manifests/c", manifest("a/manifests/b", "c")),
            ("manifests/manifests/manifests", manifest("manifests", "manifests")),
            ("a/tags/list/manifests/x", manifest("a/tags/list", "x")),
            ("a/blobs/uploads/manifests/x", manifest("a/blobs/uploads", "x")),
            ("a/manifests/tags/list", tags("a/manifests")),
            ("tags/tags/list", tags("tags")),
            ("a/blobs/tags/list", tags("a/blobs")),
            (&format!("a/manifests/{DIGEST}"), manifest("a", DIGEST)),
            (&format!("a/blobs/b/blobs/{DIGEST}"), blob("a/blobs/b")),
            (&format!("blobs/uploads/blobs/{DIGEST}"), blob("blobs/uploads")),
        ] {
            assert_eq!(parse(&format!("/v2/{path}")).as_ref(), Ok(&expected), "{path}");
        }
    }

    #[test]
    fn ping_catalog_and_uploads_are_known() {
        for (path, label, name) in [
            ("/v2", "ping", None),
            ("/v2/", "ping", None),
            ("/docker.io/v2", "ping", None),
            ("/v2/_catalog", "catalog", None),
            ("/v2/a/b/blobs/uploads", "upload", Some("a/b")),
            ("/v2/a/b/blobs/uploads/", "upload", Some("a/b")),
            ("/v2/a/b/blobs/uploads/some-id=", "upload", Some("a/b")),
            ("/v2/a/blobs/blobs/uploads/", "upload", Some("a/blobs")),
            ("/v2/a/tags/list", "tags", Some("a")),
            ("/v2/a/manifests/b", "manifest", Some("a")),
        ] {
            let endpoint = parse(path).expect(path);
            assert_eq!(
                (endpoint.route_label(), endpoint.repository().map(Repository::as_str)),
                (label, name),
                "{path}"
            );
        }
    }

    #[test]
    fn what_an_endpoint_is_about_is_a_digest_or_tags() {
        let blob = format!("/v2/a/blobs/{DIGEST}");
        let (by_digest, referrers) =
            (format!("/v2/a/manifests/{DIGEST}"), format!("/v2/a/referrers/{DIGEST}"));
        for (path, has_digest, is_about_tags) in [
            (blob.as_str(), true, false),
            (&by_digest, true, false),
            (&referrers, true, false),
            ("/v2/a/manifests/latest", false, true),
            ("/v2/a/tags/list", false, true),
            ("/v2/a/blobs/uploads/", false, false),
            ("/v2/", false, false),
        ] {
            let endpoint = parse(path).expect(path);
            let digest = endpoint.digest().map(Digest::as_str);
            assert_eq!(digest, has_digest.then_some(DIGEST), "{path}");
            assert_eq!(endpoint.is_about_tags(), is_about_tags, "{path}");
        }
        let query = format!("digest={DIGEST}");
        let ended = Target::parse("/v2/a/blobs/uploads/x", Some(&query)).expect("an upload");
        assert_eq!(ended.endpoint.digest().map(Digest::as_str), Some(DIGEST));
    }

    #[test]
    fn one_component_before_the_version_is_a_prefix_in_lower_case() {
        for (path, prefix) in [
            ("/v2/a/manifests/b", None),
            ("/Quay.IO/v2/a/manifests/b", Some("quay.io")),
            ("/v2/v2/manifests/b", None),
            ("/hub/v2/v2/manifests/b", Some("hub")),
        ] {
            assert_eq!(Target::parse(path, None).expect(path).prefix.as_deref(), prefix, "{path}");
        }
    }

    #[test]
    fn paths_that_are_none_of_the_spec_are_unknown() {
        for path in [
            "",
            "/",
            "v2/",
            "/v1/",
            "/v22/a/manifests/b",
            "/a/b/v2/",
            "/v2//",
            "/v2/a",
            "/v2/manifests/latest",
            "/v2/a/manifests",
            "/v2/a/manifests/b/",
            "/v2/a/tags/list/",
            "/v2/a/tags/other",
            "/v2/_catalog/",
            "/V2/a/manifests/b",
            "/v2/../v2/",
        ] {
            assert_eq!(parse(path).expect_err(path).code(), ErrorCode::NameUnknown);
        }
    }

    #[test]
    fn bad_names_digests_and_tags_have_their_own_codes() {
        for (path, code) in [
            ("/v2//manifests/a", ErrorCode::NameInvalid),
            ("/v2/Nginx/manifests/a", ErrorCode::NameInvalid),
            ("/v2/a/../b/manifests/a", ErrorCode::NameInvalid),
            ("/v2/a%2fb/manifests/a", ErrorCode::NameInvalid),
            ("/v2/a%3Ab/manifests/a", ErrorCode::NameInvalid),
            ("/v2/a\0/manifests/a", ErrorCode::NameInvalid),
            ("/v2/A/tags/list", ErrorCode::NameInvalid),
            ("/v2/A/blobs/uploads/", ErrorCode::NameInvalid),
            ("/v2/a/manifests/.a", ErrorCode::ManifestUnknown),
            ("/v2/a/manifests/", ErrorCode::ManifestUnknown),
            ("/v2/a/manifests/%41", ErrorCode::ManifestUnknown),
            ("/v2/a/manifests/a%2Fb", ErrorCode::ManifestUnknown),
            ("/v2/a/manifests/sha256:abc", ErrorCode::DigestInvalid),
            ("/v2/a/manifests/a%3Ab", ErrorCode::DigestInvalid),
            ("/v2/a/blobs/latest", ErrorCode::DigestInvalid),
            ("/v2/a/blobs/", ErrorCode::DigestInvalid),
            ("/v2/a/referrers/sha256:%61", ErrorCode::DigestInvalid),
        ] {
            assert_eq!(parse(path).expect_err(path).code(), code, "{path}");
        }
        let error = Target::parse("/v2/a/tags/list", Some("n=-1")).expect_err("negative");
        assert_eq!(error.code(), ErrorCode::PaginationNumberInvalid);
    }

    #[test]
    fn only_the_colon_of_a_reference_may_be_encoded() {
        for colon in ["%3A", "%3a"] {
            let encoded = DIGEST.replace(':', colon);
            assert_eq!(parse(&format!("/v2/a/blobs/{encoded}")), Ok(blob("a")));
            assert_eq!(parse(&format!("/v2/a/manifests/{encoded}")), Ok(manifest("a", DIGEST)));
        }
        let twice = DIGEST.replace(':', "%253A");
        assert_eq!(
            parse(&format!("/v2/a/blobs/{twice}")).expect_err("twice").code(),
            ErrorCode::DigestInvalid
        );
    }

    #[test]
    fn ns_is_read_for_every_endpoint_and_stays_out_of_the_page() {
        let target =
            Target::parse("/v2/a/tags/list", Some("ns=docker.io&last=b&n=2")).expect("valid");
        assert!(matches!(target.ns, Ns::Named(ns) if ns.normal() == "docker.io"));
        let Endpoint::Tags { repository, page } = target.endpoint else { panic!("a tag list") };
        assert_eq!(tags_path(&repository, &page), "/v2/a/tags/list?n=2&last=b");
        assert!(matches!(Target::parse("/v2/", Some("ns=a/b")).expect("a ping").ns, Ns::Unusable));
    }

    fn any_repository() -> impl Strategy<Value = Repository> {
        let component =
            "(manifests|blobs|tags|list|referrers|uploads|v2|[a-z0-9]{1,8}([._-][a-z0-9]{1,4})?)";
        prop::collection::vec(component, 1..5).prop_map(|parts| repository(&parts.join("/")))
    }

    fn any_digest() -> impl Strategy<Value = Digest> {
        let algorithm = prop_oneof![Just(Algorithm::Sha256), Just(Algorithm::Sha512)];
        (algorithm, any::<u64>())
            .prop_map(|(algorithm, seed)| Digest::of(algorithm, &seed.to_be_bytes()))
    }

    fn any_page() -> impl Strategy<Value = PageQuery> {
        "(n=[0-9]{1,7}&)?(last=[a-zA-Z0-9%._-]{0,9}&)?(x=[a-z]{1,3})?"
            .prop_map(|query| PageQuery::parse(Some(&query)).expect("valid"))
    }

    /// What a formatted path parses to.
    fn reparse(formatted: &str) -> Endpoint {
        let (path, query) = formatted
            .split_once('?')
            .map_or((formatted, None), |(path, query)| (path, Some(query)));
        Target::parse(path, query).expect(formatted).endpoint
    }

    proptest! {
        #[test]
        fn what_is_formatted_parses_back_to_itself(
            repository in any_repository(),
            digest in any_digest(),
            tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}",
            page in any_page(),
        ) {
            let by_tag = Reference::Tag(Tag::parse(&tag).expect("a tag"));
            for reference in [by_tag, Reference::Digest(digest.clone())] {
                let path = manifest_path(&repository, &reference);
                prop_assert_eq!(reparse(&path), Endpoint::Manifest { repository: repository.clone(), reference });
            }
            let expected = Endpoint::Blob { repository: repository.clone(), digest: digest.clone() };
            prop_assert_eq!(reparse(&blob_path(&repository, &digest)), expected);
            let expected = Endpoint::Tags { repository: repository.clone(), page: page.clone() };
            prop_assert_eq!(reparse(&tags_path(&repository, &page)), expected);
            let path = referrers_path(&repository, &digest, &page);
            prop_assert_eq!(reparse(&path), Endpoint::Referrers { repository, digest, page });
        }

        #[test]
        fn any_text_is_an_answer_and_never_a_panic(path in "\\PC*", query in "\\PC*", tail in "(/|v2|manifests|blobs|uploads|tags|list|%3A|\\.\\.|a){0,9}") {
            for path in [path.clone(), format!("/v2/{path}"), format!("/v2{tail}"), format!("/{path}/v2/{tail}")] {
                if let Ok(target) = Target::parse(&path, Some(&query)) {
                    let name = target.endpoint.repository().map(Repository::as_str);
                    prop_assert!(name.is_none_or(|name| Repository::parse(name).is_ok()));
                }
            }
        }
    }
}
