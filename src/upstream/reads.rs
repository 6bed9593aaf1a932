//! What is read from an upstream: manifests, blobs, tags and referrers; and what each answer must
//! look like.

use std::future::ready;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::Method;
use http::header::{HeaderMap, HeaderValue, RANGE};
use tokio::time::Instant;
use url::Url;

use super::answer;
use super::call::attempt::{Call, CallResponse};
use super::client::UpstreamClient;
use super::error::{Error, Fault, Operation};
use super::transport::body::BlobBody;
use crate::oci::headers::OCI_FILTERS_APPLIED;
use crate::oci::{
    ACCEPT, Algorithm, Digest, Extent, MediaType, OCI_INDEX, PageQuery, Part, Reference,
    Repository, blob_path, manifest_path, referrers_path, tags_path,
};

/// What a HEAD on a manifest tells; everything in it is the upstream's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    pub digest: Option<Digest>,
    pub media_type: Option<MediaType>,
    /// Bytes.
    pub size: Option<u64>,
}

/// A whole manifest, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedManifest {
    /// The `Docker-Content-Digest` header.
    pub digest: Option<Digest>,
    pub media_type: MediaType,
    pub bytes: Bytes,
}

impl From<FetchedManifest> for ManifestHead {
    fn from(fetched: FetchedManifest) -> Self {
        let computed = || Digest::of(Algorithm::Sha256, &fetched.bytes);
        Self {
            digest: Some(fetched.digest.clone().unwrap_or_else(computed)),
            size: Some(fetched.bytes.len() as u64),
            media_type: Some(fetched.media_type),
        }
    }
}

/// A blob whose body is still to be read.
#[derive(Debug)]
pub struct BlobResponse {
    /// Which bytes of the blob the body has.
    pub extent: Extent,
    pub body: BlobBody,
}

/// One page of tags or referrers, as the upstream sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub media_type: Option<MediaType>,
    pub bytes: Bytes,
    /// The query of the next page, raw; the host and path that the upstream named are dropped
    /// (TAG-3).
    pub next: Option<String>,
    /// `OCI-Filters-Applied` (REF-2).
    pub filters_applied: Option<String>,
}

impl UpstreamClient {
    /// Asks for a manifest's digest, type and size without spending a pull: Docker Hub does not
    /// count HEAD (PROTOCOL §3.10). Where the upstream knows no HEAD the manifest is fetched for it
    /// (MAN-5).
    pub async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<ManifestHead, Error> {
        let get = self.manifest_call(Operation::ManifestHead, repository, reference);
        let call = Call { method: Method::HEAD, ..get };
        let head = self.runner.run(&call, deadline, |response| ready(manifest_head(&response)));
        match head.await {
            // Costs a pull, but only where there is no other way.
            Err(error) if error.status() == Some(405) => {
                Ok(self.get_manifest(repository, reference, deadline).await?.into())
            }
            head => head,
        }
    }

    /// Fetches a whole manifest, of at most `limits.manifest` bytes.
    pub async fn get_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<FetchedManifest, Error> {
        let call = self.manifest_call(Operation::ManifestGet, repository, reference);
        let limit = self.manifest_max;
        self.runner.run(&call, deadline, |response| fetched_manifest(response, limit)).await
    }

    /// Whether the repository has the blob, and its size in bytes if the upstream tells. A refused
    /// HEAD becomes a GET of one byte (BLOB-13, RED-3).
    pub async fn head_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Option<u64>, Error> {
        let get = self.blob_call(Operation::BlobHead, repository, digest);
        if !self.refuses_blob_head.load(Ordering::Relaxed) {
            let head = Call { method: Method::HEAD, ..get.clone() };
            let size = self.runner.run(&head, deadline, |response| ready(blob_head(&response)));
            match size.await {
                Err(error) if is_head_refused(&error) => {}
                size => return size,
            }
        }
        let first_byte = Call { headers: range_header(answer::first_byte()), ..get };
        let size = self.runner.run(&first_byte, deadline, |response| ready(probed(&response)));
        let size = size.await?;
        // Only now: where GET is refused as well, it was not the method.
        self.refuses_blob_head.store(true, Ordering::Relaxed);
        Ok(size)
    }

    /// Starts fetching a blob or a part of it; the deadline ends with the response headers. An
    /// answer with the whole where a part was requested is left to the caller.
    pub async fn get_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        part: Option<Part>,
        deadline: Instant,
    ) -> Result<BlobResponse, Error> {
        // No If-Range: the digest is the validator, and an upstream may forget its tags between
        // two requests (DESIGN §14.6).
        let headers = part.map(range_header).unwrap_or_default();
        let call = Call { headers, ..self.blob_call(Operation::BlobGet, repository, digest) };
        let started = |CallResponse { http, .. }: CallResponse| {
            let extent = answer::extent(http.status(), http.headers(), part)?;
            Ok(BlobResponse { extent, body: BlobBody::new(http, self.name().clone()) })
        };
        self.runner.run(&call, deadline, |response| ready(started(response))).await
    }

    /// Fetches one page of tags, no larger than the upstream gives (TAG-2).
    pub async fn list_tags(
        &self,
        repository: &Repository,
        page: &PageQuery,
        deadline: Instant,
    ) -> Result<Page, Error> {
        let path = tags_path(repository, &page.at_most(self.page_limit));
        let call =
            Call::get(Operation::Tags, repository, self.runner.url(&path), "application/json");
        self.page(&call, deadline).await
    }

    /// Fetches one page of referrers (REF-1, REF-2).
    pub async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        page: &PageQuery,
        deadline: Instant,
    ) -> Result<Page, Error> {
        let path = referrers_path(repository, digest, page);
        let call = Call::get(Operation::Referrers, repository, self.runner.url(&path), OCI_INDEX);
        self.page(&call, deadline).await
    }

    async fn page(&self, call: &Call<'_>, deadline: Instant) -> Result<Page, Error> {
        let limit = self.page_max;
        self.runner.run(call, deadline, |response| page(response, call.url.clone(), limit)).await
    }

    fn manifest_call<'a>(
        &self,
        operation: Operation,
        repository: &'a Repository,
        reference: &Reference,
    ) -> Call<'a> {
        let url = self.runner.url(&manifest_path(repository, reference));
        // Every type, whatever the client accepts: what is cached depends on no client (MAN-3).
        Call::get(operation, repository, url, ACCEPT)
    }

    fn blob_call<'a>(
        &self,
        operation: Operation,
        repository: &'a Repository,
        digest: &Digest,
    ) -> Call<'a> {
        let url = self.runner.url(&blob_path(repository, digest));
        Call::get(operation, repository, url, "*/*")
    }
}

/// Statuses with which HEAD is refused where GET may work: 405 says so, ECR Public answers 401,
/// presigned URLs 403 (PROTOCOL §2.3, RED-3). A HEAD has no text that would say what a 400 means.
fn is_head_refused(error: &Error) -> bool {
    matches!(error.status(), Some(400 | 401 | 403 | 405))
}

fn range_header(part: Part) -> HeaderMap {
    let value =
        HeaderValue::try_from(part.to_string()).expect("digits and dashes are visible ASCII");
    HeaderMap::from_iter([(RANGE, value)])
}

fn manifest_head(response: &CallResponse) -> Result<ManifestHead, Fault> {
    let headers = ok_headers(response)?;
    answer::check_identity(headers)?;
    // A HEAD without a usable type is still good for its digest.
    let media_type = answer::manifest_type(headers).ok();
    Ok(ManifestHead { digest: answer::digest(headers), media_type, size: answer::length(headers) })
}

async fn fetched_manifest(
    mut response: CallResponse,
    limit: usize,
) -> Result<FetchedManifest, Fault> {
    let headers = ok_headers(&response)?;
    answer::check_identity(headers)?;
    let (digest, media_type) = (answer::digest(headers), answer::manifest_type(headers)?);
    Ok(FetchedManifest { digest, media_type, bytes: response.http.whole(limit).await? })
}

fn blob_head(response: &CallResponse) -> Result<Option<u64>, Fault> {
    let headers = ok_headers(response)?;
    answer::extent(response.http.status(), headers, None)?;
    Ok(answer::length(headers))
}

fn probed(response: &CallResponse) -> Result<Option<u64>, Fault> {
    answer::probed_size(response.http.status(), response.http.headers())
}

async fn page(mut response: CallResponse, requested: Url, limit: usize) -> Result<Page, Fault> {
    let headers = ok_headers(&response)?;
    answer::check_identity(headers)?;
    let (media_type, next) = (answer::media_type(headers), answer::next_page(headers, &requested)?);
    let filters_applied = answer::text(headers, OCI_FILTERS_APPLIED).map(ToOwned::to_owned);
    Ok(Page { media_type, next, filters_applied, bytes: response.http.whole(limit).await? })
}

/// The headers of a 200; no other status carries a whole answer.
fn ok_headers(response: &CallResponse) -> Result<&HeaderMap, Fault> {
    let status = response.http.status().as_u16();
    if status == 200 {
        Ok(response.http.headers())
    } else {
        Err(Fault::protocol(format!("status {status} where 200 was due")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_asked_for_with_both_ends_inclusive() {
        assert_eq!(range_header(Part::From(5))[RANGE], "bytes=5-");
        assert_eq!(range_header(answer::first_byte())[RANGE], "bytes=0-0");
    }
}
