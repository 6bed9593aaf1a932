//! What is read from an upstream: manifests, blobs, tags and referrers; and what each answer must
//! look like.

use std::future::ready;

use bytes::Bytes;
use http::header::{HeaderMap, HeaderValue, RANGE};
use tokio::time::Instant;
use url::Url;

use super::answer;
use super::call::request::Call;
use super::call::response::CallResponse;
use super::client::UpstreamClient;
use super::error::{Error, Fault, Operation};
use super::transport::body::BlobBody;
use crate::oci::headers::OCI_FILTERS_APPLIED;
use crate::oci::{
    ACCEPT, Digest, Extent, MediaType, OCI_INDEX, PageQuery, Part, Reference, Repository,
    blob_path, manifest_path, referrers_path, tags_path,
};

/// A whole manifest, not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedManifest {
    /// The `Docker-Content-Digest` header.
    pub digest: Option<Digest>,
    pub media_type: MediaType,
    pub bytes: Bytes,
}

/// A blob whose body is still to be read.
#[derive(Debug)]
pub struct BlobResponse {
    /// Which bytes of the blob the body has.
    pub extent: Extent,
    /// It may be a login or error page: it is the upstream's word only once its digest is right.
    pub may_be_a_page: bool,
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
            let may_be_a_page = matches!(extent, Extent::Whole { .. })
                && answer::may_be_a_page(http.headers(), digest);
            // Whoever wants a part goes on with bytes that are there already.
            if may_be_a_page && part.is_some() {
                return Err(answer::web_page());
            }
            let body = BlobBody::new(http, self.name().clone());
            Ok(BlobResponse { extent, may_be_a_page, body })
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
        self.page(&call, self.page_room.large, deadline).await
    }

    /// Fetches one page of referrers (REF-1, REF-2). `None` if what answers has no such API.
    pub async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        page: &PageQuery,
        deadline: Instant,
    ) -> Result<Option<Page>, Error> {
        let path = referrers_path(repository, digest, page);
        let call = Call::get(Operation::Referrers, repository, self.runner.url(&path), OCI_INDEX);
        match self.page(&call, self.page_room.small, deadline).await {
            Err(error) if error.says_no_such_api() => Ok(None),
            page => page.map(Some),
        }
    }

    async fn page(&self, call: &Call<'_>, limit: usize, deadline: Instant) -> Result<Page, Error> {
        let whole = async |mut response: CallResponse| {
            let head = page_head(&response, &call.url)?;
            let bytes = not_empty(response.http.whole_in(limit, &self.page_room).await?)?;
            Ok(Page { bytes, ..head })
        };
        self.runner.run(call, deadline, whole).await
    }

    pub(super) fn manifest_call<'a>(
        &self,
        operation: Operation,
        repository: &'a Repository,
        reference: &Reference,
    ) -> Call<'a> {
        let url = self.runner.url(&manifest_path(repository, reference));
        // Every type, whatever the client accepts: what is cached depends on no client (MAN-3).
        Call::get(operation, repository, url, ACCEPT)
    }

    pub(super) fn blob_call<'a>(
        &self,
        operation: Operation,
        repository: &'a Repository,
        digest: &Digest,
    ) -> Call<'a> {
        let url = self.runner.url(&blob_path(repository, digest));
        Call::get(operation, repository, url, "*/*")
    }
}

pub(super) fn range_header(part: Part) -> HeaderMap {
    let value =
        HeaderValue::try_from(part.to_string()).expect("digits and dashes are visible ASCII");
    HeaderMap::from_iter([(RANGE, value)])
}

pub(super) async fn fetched_manifest(
    mut response: CallResponse,
    limit: usize,
) -> Result<FetchedManifest, Fault> {
    let headers = ok_headers(&response)?;
    answer::check_identity(headers)?;
    let (digest, media_type) = (answer::digest(headers), answer::manifest_type(headers)?);
    let bytes = not_empty(response.http.whole(limit).await?)?;
    Ok(FetchedManifest { digest, media_type, bytes })
}

/// All of a page but its bytes.
fn page_head(response: &CallResponse, requested: &Url) -> Result<Page, Fault> {
    let headers = ok_headers(response)?;
    answer::check_identity(headers)?;
    answer::check_no_web_page(headers)?;
    let (media_type, next) = (answer::media_type(headers), answer::next_page(headers, requested)?);
    let filters_applied = answer::text(headers, OCI_FILTERS_APPLIED).map(ToOwned::to_owned);
    Ok(Page { media_type, bytes: Bytes::new(), next, filters_applied })
}

/// The body of a document. An empty one is no answer: whatever stands in for a registry that is
/// gone may say 200 to everything (UP-10).
fn not_empty(bytes: Bytes) -> Result<Bytes, Fault> {
    if bytes.is_empty() { Err(Fault::protocol("an empty document")) } else { Ok(bytes) }
}

/// The headers of a 200; no other status carries a whole answer.
pub(super) fn ok_headers(response: &CallResponse) -> Result<&HeaderMap, Fault> {
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
