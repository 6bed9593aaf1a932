//! Writes: uploads, manifests and deletes are passed through to the private registry (PROTOCOL
//! §3.9, ACCESS §7).
//!
//! The right to write has been decided before. A client knows its upload by a sealed address, which
//! holds the registry's own and opens for the same identity, registry and repository alone
//! (ACCESS §7.2).
//!
//! Clients differ in how they upload. dockerd and podman send POST, PATCH with the bytes, PUT
//! without any; containerd sends POST and one PUT with all bytes; the spec also has a single POST.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use super::connection::discard::BodyWanted;
use super::error::{Extra, Refusal};
use super::notes::Notes;
use super::request::{WriteRequest, asker, header_text};
use super::respond::{self, Answer};
use super::service::Service;
use super::whole_body::{BodyTurn, UnreadBody};
use crate::oci::{
    ChunkRange, Digest, Endpoint, ErrorCode, MediaType, Reference, UploadQuery, tag_parameters,
};
use crate::push::{ClientChunk, DeleteTarget, NewManifest, Upload, UploadHandle, UploadStart};

/// A request about an upload that has begun.
struct UploadStep<'a> {
    /// The sealed address, as the client sent it back.
    session: &'a str,
    query: &'a UploadQuery,
    method: Method,
}

impl Service {
    /// Passes an allowed write on to the registry, and answers with what the registry says.
    pub(super) async fn serve_write(
        &self,
        write: WriteRequest<'_>,
        request: &mut Request<Incoming>,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let method = request.method().clone();
        notes.digest = write.to.target.endpoint.digest().cloned();
        if self.pull.is_sealed(&write.name) {
            return Err(Refusal::sealed());
        }
        match (&write.to.target.endpoint, method) {
            (Endpoint::Upload { session: None, query, .. }, Method::POST) => {
                self.begin_upload(&write, query, request).await
            }
            (Endpoint::Upload { session: Some(session), query, .. }, method) => {
                let step = UploadStep { session, query, method };
                self.continue_upload(&write, step, request).await
            }
            (Endpoint::Manifest { reference, .. }, Method::PUT) => {
                self.put_manifest(&write, reference, request, notes).await
            }
            (Endpoint::Manifest { reference, .. }, Method::DELETE) => {
                self.push.delete(&write.name, DeleteTarget::Manifest(reference.clone())).await?;
                Ok(respond::empty(StatusCode::ACCEPTED))
            }
            (Endpoint::Blob { digest, .. }, Method::DELETE) => {
                self.push.delete(&write.name, DeleteTarget::Blob(digest.clone())).await?;
                Ok(respond::empty(StatusCode::ACCEPTED))
            }
            (endpoint, _) => Err(method_not_allowed(endpoint)),
        }
    }

    /// POST: an upload begins (end-4a), a whole blob comes with it (end-4b), or a blob of another
    /// repository is mounted (end-11).
    async fn begin_upload(
        &self,
        write: &WriteRequest<'_>,
        query: &UploadQuery,
        request: &mut Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        // An empty blob comes with a digest and without a body.
        let has_blob = !request.body().is_end_stream() || query.digest.is_some();
        if has_blob {
            let chunk = client_chunk(write, request, query.digest.clone())?;
            let upload = self.push.upload_whole(&write.name, chunk).await?;
            return self.upload_answer(write, upload, StatusCode::ACCEPTED);
        }
        let mount = query
            .mount
            .clone()
            .and_then(|digest| Some((digest, write.mountable(query.from.as_ref()?)?)));
        let start = UploadStart { mount, algorithm: query.algorithm };
        let upload = self.push.begin_upload(&write.name, &start).await?;
        self.upload_answer(write, upload, StatusCode::ACCEPTED)
    }

    /// A request about an upload that has begun: more bytes (end-5), its end (end-6), its status
    /// (end-13), or its cancellation (end-14).
    async fn continue_upload(
        &self,
        write: &WriteRequest<'_>,
        step: UploadStep<'_>,
        request: &mut Request<Incoming>,
    ) -> Result<Answer, Refusal> {
        let UploadStep { session, query, method } = step;
        let opened =
            self.gatekeeper.unseal(session, &write.to.identified.caller.identity, &write.name);
        let handle =
            opened.and_then(|text| UploadHandle::parse(&text)).ok_or_else(unknown_upload)?;
        match method {
            Method::GET => {
                let upload = self.push.upload_status(&write.name, handle).await?;
                self.upload_answer(write, upload, StatusCode::NO_CONTENT)
            }
            Method::PATCH => {
                let upload = self
                    .push
                    .continue_upload(&write.name, handle, client_chunk(write, request, None)?)
                    .await?;
                self.upload_answer(write, upload, StatusCode::ACCEPTED)
            }
            Method::PUT => {
                let digest = query.digest.clone().ok_or_else(digest_missing)?;
                let chunk = client_chunk(write, request, Some(digest))?;
                let upload = self.push.continue_upload(&write.name, handle, chunk).await?;
                self.upload_answer(write, upload, StatusCode::ACCEPTED)
            }
            Method::DELETE => {
                self.push.cancel_upload(&write.name, &handle).await?;
                Ok(respond::empty(StatusCode::NO_CONTENT))
            }
            _ => Err(method_not_allowed(&write.to.target.endpoint)),
        }
    }

    /// The answer to a step of an upload; `open_status` is for one that goes on.
    fn upload_answer(
        &self,
        write: &WriteRequest<'_>,
        upload: Upload,
        open_status: StatusCode,
    ) -> Result<Answer, Refusal> {
        let name = write.route.visible_name();
        match upload {
            Upload::Done(digest) => {
                let location = write.route.visible_target(&format!("/v2/{name}/blobs/{digest}"));
                Ok(respond::blob_created(&location, &digest))
            }
            Upload::Open { handle, progress } => {
                let sealed = self.gatekeeper.seal(
                    &handle.to_text(),
                    &write.to.identified.caller.identity,
                    &write.name,
                );
                let sealed = sealed.ok_or_else(|| {
                    let message = "the system gives no randomness";
                    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown, message)
                })?;
                let location =
                    write.route.visible_target(&format!("/v2/{name}/blobs/uploads/{sealed}"));
                Ok(respond::upload(open_status, &location, progress))
            }
        }
    }

    /// PUT of a manifest (end-7).
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
        let media_type = header_text(request.headers(), CONTENT_TYPE)
            .and_then(MediaType::parse)
            .ok_or_else(media_type_missing)?;
        let bytes = self.read_manifest_body(request).await?;
        let manifest = NewManifest { reference: reference.clone(), tags, media_type, bytes };
        let taken = self.push.put_manifest(&write.name, manifest).await?;
        notes.digest = Some(taken.digest.clone());
        let name = write.route.visible_name();
        let location =
            write.route.visible_target(&format!("/v2/{name}/manifests/{}", taken.digest));
        Ok(respond::manifest_created(&location, &taken))
    }

    /// Reads a manifest as a whole: its digest decides, so it has to be known before anything is
    /// passed on.
    ///
    /// # Errors
    /// 413 beyond `limits.manifest`, before anything is read if its length is announced (MAN-8);
    /// 408 if it is not there within `limits.receive_idle` of its turn; 400 if the client breaks
    /// off; 503 if others take all memory, or its connection's turns.
    async fn read_manifest_body(&self, request: &mut Request<Incoming>) -> Result<Bytes, Refusal> {
        let limit = self.limits.manifest;
        let unread = |unread| match unread {
            UnreadBody::TooLong => manifest_too_large(limit),
            UnreadBody::BrokenOff => body_incomplete(),
            UnreadBody::NoMemory => Refusal::no_memory(),
        };
        let turn = BodyTurn::wait(request, limit, self.limits.body_turn).await.map_err(unread)?;
        set_body_requested(request);
        let read = tokio::time::timeout(self.limits.receive_idle, turn.read(request)).await;
        read.map_err(|_| body_timed_out())?.map_err(unread)
    }
}

/// The bytes of a request, with what its headers say of them. The caller reads them.
///
/// # Errors
/// 400 for a `Content-Range` that cannot be read.
fn client_chunk<'a>(
    write: &WriteRequest<'_>,
    request: &'a mut Request<Incoming>,
    digest: Option<Digest>,
) -> Result<ClientChunk<&'a mut Incoming>, Refusal> {
    let range = chunk_range(request.headers())?;
    set_body_requested(request);
    let length =
        header_text(request.headers(), CONTENT_LENGTH).and_then(|length| length.parse().ok());
    // A request without body and length has 0 bytes. dockerd sends the bytes of its PATCH chunked,
    // and these have no length.
    let length = length.or_else(|| request.body().is_end_stream().then_some(0));
    let asker = asker(&write.to.identified.caller);
    Ok(ClientChunk { body: request.body_mut(), length, range, digest, asker })
}

/// Notes that the body is about to be read: hyper then sends `100 Continue` to a client that waits
/// for it, and the body is on its way. A refusal from here on has to read some of the rest, so that
/// the client sees the answer (UPL-11); without `Expect` it does.
fn set_body_requested(request: &mut Request<Incoming>) {
    request.headers_mut().remove(EXPECT);
    request.extensions_mut().insert(BodyWanted);
}

fn chunk_range(headers: &HeaderMap) -> Result<Option<ChunkRange>, Refusal> {
    let Some(text) = header_text(headers, CONTENT_RANGE) else { return Ok(None) };
    let bad = || {
        Refusal::new(
            StatusCode::BAD_REQUEST,
            ErrorCode::BlobUploadInvalid,
            "Content-Range is written as 0-1023",
        )
    };
    ChunkRange::parse(text).map(Some).ok_or_else(bad)
}

/// The address belongs to somebody else or to another repository, was altered, or was sealed with a
/// key that is gone. All are answered alike, so that nothing can be found out by trying.
fn unknown_upload() -> Refusal {
    let message = "no such upload; begin it again";
    Refusal::new(StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown, message)
}

fn digest_missing() -> Refusal {
    let message = "an upload ends with digest=…, which says what the blob is";
    Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::DigestInvalid, message)
}

fn media_type_missing() -> Refusal {
    let message = "a manifest is put with its media type as Content-Type";
    Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::ManifestInvalid, message)
}

fn manifest_too_large(limit: usize) -> Refusal {
    let message = format!("a manifest has at most {limit} bytes");
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid, message).with(Extra::Close)
}

fn body_timed_out() -> Refusal {
    let message = "the request did not arrive in time";
    Refusal::new(StatusCode::REQUEST_TIMEOUT, ErrorCode::Unavailable, message).with(Extra::Close)
}

fn body_incomplete() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid, "the request broke off")
        .with(Extra::Close)
}

fn method_not_allowed(endpoint: &Endpoint) -> Refusal {
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
