//! The path grammar of the distribution spec, both ways: a request target becomes a typed [`Endpoint`], and typed
//! names become the paths that are asked upstream and written into `Link`.
//!
//! Scope: the method is the server's business, and a path says nothing about whether the repository may be used.

use super::query::{Ns, PageQuery};
use super::{Digest, ErrorCode, ParseError, Reference, Repository};

/// One request target, read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The component before `/v2`, in lower case (SEL-3).
    pub prefix: Option<String>,
    pub endpoint: Endpoint,
    pub ns: Ns,
}

/// What a path asks for. The repository is as the client wrote it: routing may still take a prefix off.
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
    Upload { repository: Repository },
}

impl Target {
    /// Parses a path and the query behind it.
    ///
    /// # Errors
    /// `NAME_UNKNOWN` if the path is none of the spec's; `NAME_INVALID`, `DIGEST_INVALID` or `MANIFEST_UNKNOWN` for a
    /// bad repository, digest or tag (NAME-2); `PAGINATION_NUMBER_INVALID` for a bad `n`.
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
    /// Reads from the right, because a repository may have components called `manifests` or `blobs` (NAME-1).
    fn parse(path: &str, query: Option<&str>) -> Result<Self, ParseError> {
        match path {
            "" => return Ok(Self::Ping),
            "_catalog" => return Ok(Self::Catalog),
            _ => {}
        }
        if let Some(name) = upload_repository(path) {
            return Ok(Self::Upload { repository: Repository::parse(name)? });
        }
        let (head, last) = path.rsplit_once('/').ok_or_else(no_such_path)?;
        let (name, keyword) = head.rsplit_once('/').ok_or_else(no_such_path)?;
        let repository = || Repository::parse(name);
        match (keyword, last) {
            ("manifests", _) => Ok(Self::Manifest { repository: repository()?, reference: reference(last)? }),
            ("blobs", _) => Ok(Self::Blob { repository: repository()?, digest: digest(last)? }),
            ("tags", "list") => Ok(Self::Tags { repository: repository()?, page: PageQuery::parse(query)? }),
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
            | Self::Upload { repository } => Some(repository),
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

/// `<name>` of `<name>/blobs/uploads`, with a slash or a session behind it or not.
fn upload_repository(path: &str) -> Option<&str> {
    let without_session = path.rsplit_once('/').map_or(path, |(head, _)| head);
    path.strip_suffix("/blobs/uploads").or_else(|| without_session.strip_suffix("/blobs/uploads"))
}

/// Some clients encode the colon of a digest; nothing else in a reference may be encoded.
fn decode_colon(text: &str) -> String {
    text.replace("%3A", ":").replace("%3a", ":")
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
