//! Writes: uploads, manifests, deletes, passed through to the private registry (PROTOCOL §3.9,
//! ACCESS §7).
//!
//! Whoever comes here may do it. An upload is known to its client by a sealed address that opens
//! for the same identity, registry and repository alone.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::error::{Extra, Refusal};
use super::exchange::Notes;
use super::request::{WriteRequest, header};
use super::respond::{self, Answer};
use super::service::Service;
use crate::oci::{
    ChunkRange, Digest, Endpoint, ErrorCode, MediaType, Reference, UploadQuery, tag_parameters,
};
use crate::push::{DeleteTarget, NewManifest, Sent, Ticket, Upload, UploadStart};

/// A request about an upload that has begun.
struct UploadStep<'a> {
    /// The sealed address.
    session: &'a str,
    query: &'a UploadQuery,
    method: Method,
}

impl Service {
    pub(super) async fn serve_write(
        &self,
        write: WriteRequest<'_>,
        request: &mut Request<Incoming>,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let method = request.method().clone();
        notes.digest = write.to.target.endpoint.digest().cloned();
        match (&write.to.target.endpoint, method) {
            (Endpoint::Upload { session: None, query, .. }, Method::POST) => {
                self.begin(&write, query, request).await
            }
            (Endpoint::Upload { session: Some(session), query, .. }, method) => {
                let step = UploadStep { session, query, method };
                self.upload(&write, step, request).await
            }
            (Endpoint::Manifest { reference, .. }, Method::PUT) => {
                self.put_manifest(&write, reference, request, notes).await
            }
            (Endpoint::Manifest { reference, .. }, Method::DELETE) => {
                self.push.delete(&write.name, DeleteTarget::Manifest(reference.clone())).await?;
                Ok(respond::done(StatusCode::ACCEPTED))
            }
            (Endpoint::Blob { digest, .. }, Method::DELETE) => {
                self.push.delete(&write.name, DeleteTarget::Blob(digest.clone())).await?;
                Ok(respond::done(StatusCode::ACCEPTED))
            }
            (endpoint, _) => Err(no_such_write(endpoint)),
        }
    }

    /// POST: an upload begins, a blob is mounted, or comes as a whole (end-4a, end-4b, end-11).
    async fn begin(
        &self,
        write: &WriteRequest<'_>,
        query: &UploadQuery,
        request: &mut Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let whole = !request.body().is_end_stream() || query.digest.is_some();
        if whole {
            let sent = sent(request, query.digest.clone())?;
            let upload = self.push.whole(&write.name, sent).await?;
            return self.uploaded(write, upload, StatusCode::ACCEPTED);
        }
        let mount = query
            .mount
            .clone()
            .and_then(|digest| Some((digest, write.mountable(query.from.as_ref()?)?)));
        let start = UploadStart { mount, algorithm: query.algorithm };
        let upload = self.push.begin(&write.name, &start).await?;
        self.uploaded(write, upload, StatusCode::ACCEPTED)
    }

    /// What is done with an upload that has begun (end-5, end-6, end-13, end-14).
    async fn upload(
        &self,
        write: &WriteRequest<'_>,
        step: UploadStep<'_>,
        request: &mut Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let UploadStep { session, query, method } = step;
        let opened =
            self.gatekeeper.unseal(session, &write.to.identified.caller.identity, &write.name);
        let ticket = opened.and_then(|text| Ticket::parse(&text)).ok_or_else(unknown_upload)?;
        match method {
            Method::GET => {
                let upload = self.push.status(&write.name, ticket).await?;
                self.uploaded(write, upload, StatusCode::NO_CONTENT)
            }
            Method::PATCH => {
                let upload = self.push.go_on(&write.name, ticket, sent(request, None)?).await?;
                self.uploaded(write, upload, StatusCode::ACCEPTED)
            }
            Method::PUT => {
                let digest = query.digest.clone().ok_or_else(no_digest)?;
                let upload =
                    self.push.go_on(&write.name, ticket, sent(request, Some(digest))?).await?;
                self.uploaded(write, upload, StatusCode::ACCEPTED)
            }
            Method::DELETE => {
                self.push.cancel(&write.name, &ticket).await?;
                Ok(respond::done(StatusCode::NO_CONTENT))
            }
            _ => Err(no_such_write(&write.to.target.endpoint)),
        }
    }

    /// The answer to a step of an upload; `open` is its status while the upload goes on.
    fn uploaded(
        &self,
        write: &WriteRequest<'_>,
        upload: Upload,
        open: StatusCode,
    ) -> Result<Answer, Refusal> {
        let name = write.route.visible_name();
        match upload {
            Upload::Done(digest) => {
                let location = write.route.visible_target(&format!("/v2/{name}/blobs/{digest}"));
                Ok(respond::created(&location, &digest))
            }
            Upload::Open { ticket, progress } => {
                let sealed = self.gatekeeper.seal(
                    &ticket.to_text(),
                    &write.to.identified.caller.identity,
                    &write.name,
                );
                let sealed = sealed.ok_or_else(|| {
                    let message = "the system gives no randomness";
                    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown, message)
                })?;
                let location =
                    write.route.visible_target(&format!("/v2/{name}/blobs/uploads/{sealed}"));
                Ok(respond::upload(open, &location, progress))
            }
        }
    }

    async fn put_manifest(
        &self,
        write: &WriteRequest<'_>,
        reference: &Reference,
        request: &mut Request<Incoming>,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        if let Reference::Tag(tag) = reference {
            notes.tag = Some(tag.clone());
        }
        let tags = tag_parameters(request.uri().query())?;
        let media_type = header(request.headers(), CONTENT_TYPE)
            .and_then(MediaType::parse)
            .ok_or_else(no_type)?;
        let bytes = self.whole_manifest(request).await?;
        let manifest = NewManifest { reference: reference.clone(), tags, media_type, bytes };
        let taken = self.push.manifest(&write.name, manifest).await?;
        notes.digest = Some(taken.digest.clone());
        let name = write.route.visible_name();
        let location =
            write.route.visible_target(&format!("/v2/{name}/manifests/{}", taken.digest));
        Ok(respond::manifest_taken(&location, &taken))
    }

    async fn whole_manifest(&self, request: &mut Request<Incoming>) -> Result<Bytes, Refusal> {
        let limit = self.limits.manifest;
        if request.body().size_hint().lower() > limit as u64 {
            return Err(too_large(limit));
        }
        asks_for_it(request);
        let whole = Limited::new(request.body_mut(), limit).collect();
        let read =
            tokio::time::timeout(self.limits.receive_idle, whole).await.map_err(|_| late())?;
        read.map(http_body_util::Collected::to_bytes).map_err(|error| {
            let too_long = error.downcast_ref::<http_body_util::LengthLimitError>().is_some();
            if too_long { too_large(limit) } else { broken_off() }
        })
    }
}

/// The bytes of a request, with what its headers say of them.
fn sent(
    request: &mut Request<Incoming>,
    digest: Option<Digest>,
) -> Result<Sent<&mut Incoming>, Refusal> {
    let range = chunk_range(request.headers())?;
    asks_for_it(request);
    // Nothing at all is a length, too.
    let length = header(request.headers(), CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let length = length.or_else(|| request.body().is_end_stream().then_some(0));
    Ok(Sent { body: request.body_mut(), length, range, digest })
}

/// From here on the body is read, and its sender waits no more: whatever is refused now, the rest
/// is on its way.
fn asks_for_it(request: &mut Request<Incoming>) {
    request.headers_mut().remove(EXPECT);
}

fn chunk_range(headers: &HeaderMap) -> Result<Option<ChunkRange>, Refusal> {
    let Some(text) = header(headers, CONTENT_RANGE) else { return Ok(None) };
    let bad = || {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::BlobUploadInvalid,
            "Content-Range is written as 0-1023",
        )
    };
    ChunkRange::parse(text).map(Some).ok_or_else(bad)
}

/// Another's, another repository's, altered, or from before the key: nobody is told which.
fn unknown_upload() -> Refusal {
    let message = "no such upload; begin it again";
    Refusal::new(StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown, message)
}

fn no_digest() -> Refusal {
    let message = "an upload ends with digest=…, which says what the blob is";
    Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid, message)
}

fn no_type() -> Refusal {
    let message = "a manifest is put with its media type as Content-Type";
    Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid, message)
}

fn too_large(limit: usize) -> Refusal {
    let message = format!("a manifest has at most {limit} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid, message).with(Extra::Close)
}

fn late() -> Refusal {
    let message = "the request did not arrive in time";
    Refusal::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::Unavailable, message).with(Extra::Close)
}

fn broken_off() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid, "the request broke off")
        .with(Extra::Close)
}

fn no_such_write(endpoint: &Endpoint) -> Refusal {
    let allowed = match endpoint {
        Endpoint::Upload { session: None, .. } => "POST",
        Endpoint::Upload { session: Some(_), .. } => "GET, PATCH, PUT, DELETE",
        Endpoint::Manifest { .. } => "GET, HEAD, PUT, DELETE",
        Endpoint::Blob { .. } => "GET, HEAD, DELETE",
        Endpoint::Ping | Endpoint::Catalog | Endpoint::Tags { .. } | Endpoint::Referrers { .. } => {
            "GET, HEAD"
        }
    };
    let message = format!("the methods here are {allowed}");
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
        .with(Extra::Allow(allowed))
}
