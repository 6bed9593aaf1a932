//! HEAD of a manifest and of a blob. Its answer has no text, so that what it does not tell by its
//! headers is asked again by GET (UP-10, UP-11).

use std::future::ready;

use http::{Method, StatusCode};
use tokio::time::Instant;

use super::answer;
use super::call::request::Call;
use super::call::response::CallResponse;
use super::client::UpstreamClient;
use super::error::{Error, ErrorKind, Fault, Operation};
use super::reads::{FetchedManifest, fetched_manifest, ok_headers, range_header};
use super::transport::body::too_large;
use crate::oci::{Algorithm, Digest, MediaType, Reference, Repository};

/// What a HEAD on a manifest tells; everything in it is the upstream's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    pub digest: Option<Digest>,
    pub media_type: Option<MediaType>,
    /// Bytes.
    pub size: Option<u64>,
}

impl ManifestHead {
    /// Whether it says enough to be taken for an answer about `reference`: a page with status 200
    /// names no digest.
    fn is_of(&self, reference: &Reference) -> bool {
        matches!(reference, Reference::Tag(_)) || self.digest.is_some()
    }
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

impl UpstreamClient {
    /// Asks for a manifest's digest, type and size without spending a pull: Docker Hub does not
    /// count HEAD (PROTOCOL §3.10). Where the upstream knows no HEAD, or its answer is not believed
    /// without a text, the manifest is fetched for it (MAN-5, UP-11).
    pub async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<ManifestHead, Error> {
        let mut is_method_refused = false;
        if !self.manifest_head_refused.is_believed() {
            let get = self.manifest_call(Operation::ManifestHead, repository, reference);
            let call = Call { method: Method::HEAD, ..get };
            let told = |response| ready(manifest_head(&response, self.manifest_max));
            match self.runner.run(&call, deadline, told).await {
                Ok(head) if head.is_of(reference) => return Ok(head),
                Err(error) if !needs_get(&error) => return Err(error),
                Ok(_) => {}
                Err(error) => is_method_refused = is_method_refusal(&error),
            }
        }
        let head = self.get_as_head(repository, reference, deadline).await?;
        // Only now: where GET is refused as well, it was not the method.
        if is_method_refused {
            self.manifest_head_refused.learn();
        }
        Ok(head)
    }

    /// As [`UpstreamClient::head_manifest`], for a manifest that is known. That it is gone by now
    /// is believed only if GET says so as well: some registries answer HEAD with 404 (UP-11).
    pub async fn head_known_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<ManifestHead, Error> {
        match self.head_manifest(repository, reference, deadline).await {
            Err(error) if *error.kind() == ErrorKind::NotFound && error.is_of_head() => {
                self.get_as_head(repository, reference, deadline).await
            }
            head => head,
        }
    }

    /// What a HEAD would tell, by a GET; costs a pull.
    async fn get_as_head(
        &self,
        repository: &Repository,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<ManifestHead, Error> {
        let call = self.manifest_call(Operation::ManifestGet, repository, reference);
        let limit = self.manifest_max;
        let fetched = async |response| {
            let fetched = fetched_manifest(response, limit).await?;
            // It stands for a HEAD, which proves what a repository has.
            match reference {
                Reference::Digest(digest)
                    if Digest::of(digest.algorithm(), &fetched.bytes) != *digest =>
                {
                    Err(Fault::protocol("something else than the manifest that was asked for"))
                }
                Reference::Digest(_) | Reference::Tag(_) => Ok(fetched.into()),
            }
        };
        self.runner.run(&call, deadline, fetched).await
    }

    /// Whether the repository has the blob, and its size in bytes if the upstream tells. A refused
    /// HEAD becomes a GET of one byte (BLOB-13, RED-3), and so does one that may be a web page's:
    /// no page has the first byte of a blob alone.
    pub async fn head_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Option<u64>, Error> {
        let get = self.blob_call(Operation::BlobHead, repository, digest);
        let mut is_method_refused = false;
        if !self.blob_head_refused.is_believed() {
            let head = Call { method: Method::HEAD, ..get.clone() };
            let told = |response| ready(blob_head(&response, digest));
            match self.runner.run(&head, deadline, told).await {
                Err(error) if needs_get(&error) => is_method_refused = is_method_refusal(&error),
                // An empty page, or a registry that does not tell; the first byte does.
                Ok(Some(0) | None) => {}
                size => return size,
            }
        }
        let first_byte = Call { headers: range_header(answer::first_byte()), ..get };
        let probed = |response| ready(probed(&response, digest));
        let size = self.runner.run(&first_byte, deadline, probed);
        let size = size.await?;
        if is_method_refused {
            self.blob_head_refused.learn();
        }
        Ok(size)
    }
}

/// Whether a HEAD has failed with a status that only a GET can explain, since a HEAD has no text: a
/// 404 that may be a proxy's, a refusal that may be of the method, a failure of the code behind it
/// (UP-11). Not a pause that was asked for, nor a login that would be rejected once more, unless
/// that is final: then only the text of a GET says why (UP-13).
fn needs_get(error: &Error) -> bool {
    let is_plain = matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::RateLimited { .. } | ErrorKind::CredentialRejected
    );
    error.status().is_some() && !is_plain
}

/// Statuses with which the method itself is refused, for whatever is asked: 405 says so, ECR Public
/// answers 401, presigned URLs 403 (PROTOCOL §2.3, RED-3). Others may be of the moment, or of the
/// thing: to learn from them would turn each HEAD into a pull.
fn is_method_refusal(error: &Error) -> bool {
    matches!(error.status(), Some(400 | 401 | 403 | 405 | 406 | 501))
}

fn manifest_head(response: &CallResponse, limit: usize) -> Result<ManifestHead, Fault> {
    let headers = ok_headers(response)?;
    answer::check_identity(headers)?;
    // No manifest is empty: a length of 0 is one that was not told.
    let size = answer::length(headers).filter(|size| *size > 0);
    // As GET would be refused (MAN-8).
    if size.is_some_and(|size| size > limit as u64) {
        return Err(too_large(limit));
    }
    // A HEAD without a usable type is still good for its digest.
    let media_type = answer::manifest_type(headers).ok();
    Ok(ManifestHead { digest: answer::digest(headers), media_type, size })
}

/// The size that a HEAD on a blob tells; `None` if the answer may be about a web page.
fn blob_head(response: &CallResponse, digest: &Digest) -> Result<Option<u64>, Fault> {
    let headers = ok_headers(response)?;
    let is_page = answer::may_be_a_page(headers, digest);
    Ok(answer::length(headers).filter(|_| !is_page))
}

fn probed(response: &CallResponse, digest: &Digest) -> Result<Option<u64>, Fault> {
    let (status, headers) = (response.http.status(), response.http.headers());
    if status == StatusCode::OK && answer::may_be_a_page(headers, digest) {
        return Err(answer::web_page());
    }
    let size = answer::probed_size(status, headers)?;
    if size == Some(0) && Digest::of(digest.algorithm(), b"") != *digest {
        return Err(Fault::protocol("nothing where a blob was due"));
    }
    Ok(size)
}
