//! What an origin holds, and the right answer to each request, as CNCF distribution gives it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use bytes::Bytes;
use roadstead::oci::Digest;
use serde_json::json;

use super::reply::Reply;
use super::request::{Kind, Request};
use super::uploads::Uploads;
use crate::support::content::{Blob, Content};
use crate::support::image::{Manifest, OCI_INDEX};

#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) manifests: HashMap<String, Manifest>,
    pub(super) tags: BTreeMap<String, String>,
    pub(super) blobs: BTreeSet<String>,
}

/// Repositories and blobs.
#[derive(Debug)]
pub(super) struct Registry {
    repositories: HashMap<String, Repository>,
    blobs: HashMap<String, Content>,
    /// Answers of the referrers API; `None`: this registry has none.
    referrers: Option<HashMap<String, Bytes>>,
    /// The largest page of tags.
    pub(super) page: usize,
    pub(super) absolute_links: bool,
    pub(super) uploads: Uploads,
}

impl Registry {
    pub(super) fn new() -> Self {
        Self {
            repositories: HashMap::new(),
            blobs: HashMap::new(),
            referrers: None,
            page: 1000,
            absolute_links: false,
            uploads: Uploads::default(),
        }
    }

    pub(super) fn repository(&mut self, name: &str) -> &mut Repository {
        self.repositories.entry(name.into()).or_default()
    }

    pub(super) fn put_blob(&mut self, repository: &str, blob: &Blob) {
        self.repository(repository).blobs.insert(blob.digest.to_string());
        self.blobs.insert(blob.digest.to_string(), blob.content.clone());
    }

    pub(super) fn remove_blob(&mut self, repository: &str, digest: &Digest) {
        self.repository(repository).blobs.remove(digest.as_str());
    }

    pub(super) fn put_manifest(&mut self, repository: &str, manifest: &Manifest) {
        self.repository(repository).manifests.insert(manifest.digest.to_string(), manifest.clone());
    }

    pub(super) fn remove_manifest(&mut self, repository: &str, digest: &Digest) {
        self.repository(repository).manifests.remove(digest.as_str());
    }

    pub(super) fn tag(&mut self, repository: &str, tag: &str, digest: &Digest) {
        self.repository(repository).tags.insert(tag.into(), digest.to_string());
    }

    pub(super) fn untag(&mut self, repository: &str, tag: &str) {
        self.repository(repository).tags.remove(tag);
    }

    pub(super) fn put_referrers(&mut self, subject: &Digest, index: Bytes) {
        self.referrers.get_or_insert_default().insert(subject.to_string(), index);
    }

    /// The right answer; `whole`: as if ranges were not known here.
    pub(super) fn answer(&self, request: &Request, authority: &str, whole: bool) -> Reply {
        let reply = match request.kind {
            Kind::Ping => Reply::typed(200, "application/json", "{}"),
            Kind::Manifest => self.manifest(request),
            Kind::Blob | Kind::Artifact => self.blob(request, whole),
            Kind::Storage if request.header("authorization").is_some() => {
                Reply::error(400, "INVALID_ARGUMENT")
            }
            Kind::Storage => self.stored(request, whole),
            Kind::Tags => self.tags(request, authority),
            Kind::Referrers => self.referrers(request),
            Kind::Upload | Kind::Token | Kind::Other => {
                Reply::typed(404, "text/plain", "404 page not found\n")
            }
        };
        reply.with("Docker-Distribution-API-Version", "registry/2.0")
    }

    fn manifest(&self, request: &Request) -> Reply {
        let Some(repository) = self.repositories.get(&request.repository) else {
            return Reply::error(404, "NAME_UNKNOWN");
        };
        let digest = repository.tags.get(&request.reference).unwrap_or(&request.reference);
        let Some(manifest) = repository.manifests.get(digest) else {
            return Reply::error(404, "MANIFEST_UNKNOWN");
        };
        let etag = format!("\"{digest}\"");
        let reply = if request.header("if-none-match") == Some(&etag) {
            Reply::new(304, Content::given(""))
        } else {
            Reply::typed(200, &manifest.media_type, manifest.bytes.clone())
        };
        reply.with("Docker-Content-Digest", digest).with("Etag", etag)
    }

    fn blob(&self, request: &Request, whole: bool) -> Reply {
        let known = self
            .repositories
            .get(&request.repository)
            .is_some_and(|r| r.blobs.contains(&request.reference));
        if known { self.stored(request, whole) } else { Reply::error(404, "BLOB_UNKNOWN") }
    }

    fn stored(&self, request: &Request, whole: bool) -> Reply {
        let Some(content) = self.blobs.get(&request.reference) else {
            return Reply::error(404, "BLOB_UNKNOWN");
        };
        let reply = Reply::new(200, content.clone())
            .with("Content-Type", "application/octet-stream")
            .with("Accept-Ranges", "bytes")
            .with("Cache-Control", "max-age=31536000")
            .with("Docker-Content-Digest", &request.reference)
            .with("Etag", format!("\"{}\"", request.reference));
        match request.header("range").filter(|_| !whole).map(|range| resolve(range, content.len()))
        {
            None => reply,
            Some(Some(range)) => reply.part(range),
            Some(None) => Reply::error(416, "RANGE_INVALID")
                .with("Content-Range", format!("bytes */{}", content.len())),
        }
    }

    fn tags(&self, request: &Request, authority: &str) -> Reply {
        let Some(repository) = self.repositories.get(&request.repository) else {
            return Reply::error(404, "NAME_UNKNOWN");
        };
        let wanted = request.parameter("n").and_then(|n| n.parse().ok()).unwrap_or(self.page);
        let size = self.page.min(wanted);
        let last = request.parameter("last").unwrap_or_default();
        let left: Vec<&String> = repository.tags.keys().filter(|tag| **tag > last).collect();
        let page = &left[..size.min(left.len())];
        let body = json!({ "name": request.repository, "tags": page }).to_string();
        let reply = Reply::typed(200, "application/json", body);
        match page.last().filter(|_| page.len() < left.len()) {
            None => reply,
            Some(last) => {
                let host =
                    if self.absolute_links { format!("http://{authority}") } else { String::new() };
                let next =
                    format!("{host}/v2/{}/tags/list?last={last}&n={size}", request.repository);
                reply.with("Link", format!("<{next}>; rel=\"next\""))
            }
        }
    }

    fn referrers(&self, request: &Request) -> Reply {
        let Some(referrers) = &self.referrers else {
            return Reply::typed(404, "text/plain; charset=utf-8", "404 page not found\n");
        };
        let empty =
            json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] }).to_string();
        let body = referrers.get(&request.reference).cloned().unwrap_or_else(|| empty.into());
        Reply::typed(200, OCI_INDEX, body)
    }
}

/// One byte range of a content of `len` bytes; `None` if it cannot be met.
fn resolve(header: &str, len: u64) -> Option<Range<u64>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.parse().ok(), last.parse::<u64>().ok()) {
        (None, Some(suffix)) => len.saturating_sub(suffix)..len,
        (Some(first), None) => first..len,
        (Some(first), Some(last)) => first..len.min(last + 1),
        (None, None) => return None,
    };
    (range.start < range.end).then_some(range)
}
