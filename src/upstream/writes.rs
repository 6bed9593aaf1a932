//! What is written to an upstream besides uploads: manifests and deletes (PROTOCOL §3.9).

use std::future::ready;

use bytes::Bytes;
use http::Method;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use tokio::time::Instant;

use super::answer::{digest, text, unexpected_status};
use super::call::request::Call;
use super::call::response::CallResponse;
use super::client::UpstreamClient;
use super::error::{Error, Fault, Operation};
use crate::oci::headers::{OCI_SUBJECT, OCI_TAG};
use crate::oci::{Digest, MediaType, Reference, Repository, Tag, blob_path, manifest_path};

/// A manifest to put.
#[derive(Clone, Debug)]
pub struct NewManifest {
    pub reference: Reference,
    /// Further tags for it, where it goes by its digest.
    pub tags: Vec<Tag>,
    pub media_type: MediaType,
    pub bytes: Bytes,
}

/// What is deleted from a repository.
#[derive(Clone, Debug)]
pub enum DeleteTarget {
    /// By a tag, only the tag goes.
    Manifest(Reference),
    Blob(Digest),
}

/// What the upstream says of a manifest that it has taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcceptedManifest {
    pub digest: Option<Digest>,
    /// Only a registry that keeps referrers says this (ACCESS §7.4).
    pub subject: Option<Digest>,
    /// Those of the further tags that it has set.
    pub tags: Vec<String>,
}

impl UpstreamClient {
    /// Puts a manifest (end-7), with further tags if it goes by its digest.
    pub async fn put_manifest(
        &self,
        repository: &Repository,
        manifest: &NewManifest,
        deadline: Instant,
    ) -> Result<AcceptedManifest, Error> {
        let NewManifest { reference, tags, media_type, bytes } = manifest;
        let tags: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
        let separator = if tags.is_empty() { "" } else { "?" };
        let path = format!("{}{separator}{}", manifest_path(repository, reference), tags.join("&"));
        let headers = HeaderValue::try_from(media_type.as_str()).map(|value| (CONTENT_TYPE, value));
        let headers = HeaderMap::from_iter(headers);
        let call = self.push_call(Operation::ManifestPut, Method::PUT, repository, &path);
        let call = Call { headers, content: Some(bytes.clone()), ..call };
        self.runner.run(&call, deadline, |response| ready(accepted_manifest(&response))).await
    }

    /// Deletes a manifest, a tag or a blob (end-9, end-10).
    pub async fn delete(
        &self,
        repository: &Repository,
        target: &DeleteTarget,
        deadline: Instant,
    ) -> Result<(), Error> {
        let path = match target {
            DeleteTarget::Manifest(reference) => manifest_path(repository, reference),
            DeleteTarget::Blob(digest) => blob_path(repository, digest),
        };
        let call = self.push_call(Operation::Delete, Method::DELETE, repository, &path);
        // distribution grants `delete` apart from `push`.
        let call = Call { scope: format!("repository:{repository}:delete"), ..call };
        self.runner.run(&call, deadline, |_| ready(Ok(()))).await
    }
}

fn accepted_manifest(response: &CallResponse) -> Result<AcceptedManifest, Fault> {
    let (status, headers) = (response.http.status(), response.http.headers());
    // The spec asks for 201; some answer 200, 202 or 204, which docker and containerd take, and
    // have the manifest all the same.
    if !matches!(status.as_u16(), 200 | 201 | 202 | 204) {
        return Err(unexpected_status(status));
    }
    let subject = text(headers, OCI_SUBJECT).and_then(|text| Digest::parse(text).ok());
    let tags = headers.get_all(OCI_TAG).iter();
    let tags = tags.filter_map(|value| value.to_str().ok().map(str::to_owned)).collect();
    Ok(AcceptedManifest { digest: digest(headers), subject, tags })
}
