//! Status and headers of every answer (PROTOCOL §3.11).

use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, LINK, LOCATION, RANGE, RETRY_AFTER, WARNING, WWW_AUTHENTICATE,
};
use http::response::Builder;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::connection::body::Source;
use super::error::{Extra, Refusal};
use crate::oci::headers::{
    DOCKER_API_VERSION, DOCKER_CONTENT_DIGEST, DOCKER_UPLOAD_UUID, OCI_CHUNK_MIN_LENGTH,
    OCI_FILTERS_APPLIED, OCI_NAMESPACE, OCI_SUBJECT, OCI_TAG,
};
use crate::oci::{ContentRange, Digest, OCI_INDEX, entity_tag, error_document};
use crate::pull::{
    BlobAnswer, BlobHead, Content, ManifestAnswer, ManifestContent, Outcome, Referrers,
};
use crate::push::{TakenManifest, UploadHeaders};

const JSON: &str = "application/json";

/// Content under a digest never changes; it is private, because others may not be allowed to have
/// it.
const FOREVER: &str = "private, max-age=31536000, immutable";

pub(super) type Answer = Response<Source>;

/// end-1: the registry is here.
pub(super) fn ping() -> Answer {
    full(ok(StatusCode::OK).header(CONTENT_TYPE, JSON), "{}".into())
}

pub(super) fn blob(answer: BlobAnswer, digest: &Digest) -> Answer {
    let length = answer.part.map_or(answer.size, |part| Some(part.len()));
    let source = match answer.content {
        Content::Memory(bytes) => Source::Full(bytes),
        Content::Stored(blob, left) => Source::Stored { blob, left, loading: None },
        Content::Stream(stream) => Source::Stream { stream, left: length },
    };
    let mut builder = blob_head_lines(digest, length);
    if let (Some(part), Some(size)) = (answer.part, answer.size) {
        builder = builder.status(StatusCode::PARTIAL_CONTENT).header(
            CONTENT_RANGE,
            ContentRange::Part { span: part, total: Some(size) }.to_string(),
        );
    }
    finish(builder, source)
}

pub(super) fn blob_head(head: BlobHead, digest: &Digest) -> Answer {
    finish(blob_head_lines(digest, head.size), Source::Empty)
}

fn blob_head_lines(digest: &Digest, length: Option<u64>) -> Builder {
    let builder = content(StatusCode::OK, digest)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(ACCEPT_RANGES, "bytes")
        .header(CACHE_CONTROL, FOREVER);
    match length {
        Some(length) => builder.header(CONTENT_LENGTH, length),
        None => builder,
    }
}

pub(super) fn manifest(answer: ManifestAnswer) -> Answer {
    let builder = content(StatusCode::OK, &answer.digest)
        .header(CONTENT_TYPE, answer.media_type.as_str())
        .header(CONTENT_LENGTH, answer.size);
    let source = match answer.content {
        ManifestContent::None => Source::Empty,
        ManifestContent::Memory(bytes) => Source::Full(bytes),
        ManifestContent::Stored(blob) => {
            Source::Stored { left: 0..blob.size(), blob, loading: None }
        }
    };
    let mut finished = finish(builder, source);
    warn_if_stale(finished.headers_mut(), answer.outcome);
    finished
}

/// The client has it already (MAN-7).
pub(super) fn not_modified(digest: &Digest) -> Answer {
    finish(content(StatusCode::NOT_MODIFIED, digest), Source::Empty)
}

pub(super) fn tags(body: String, next: Option<String>) -> Answer {
    full(linked(ok(StatusCode::OK).header(CONTENT_TYPE, JSON), next), body.into())
}

pub(super) fn referrers(referrers: Referrers, next: Option<String>) -> Answer {
    let Referrers { index, filters_applied, outcome, .. } = referrers;
    let mut builder = linked(ok(StatusCode::OK).header(CONTENT_TYPE, OCI_INDEX), next);
    if let Some(filters) = filters_applied {
        builder = builder.header(OCI_FILTERS_APPLIED, filters);
    }
    let mut answer = full(builder, index);
    warn_if_stale(answer.headers_mut(), outcome);
    answer
}

/// An upload goes on at `location` (UPL-5). `Range` is what has arrived, in the plain form that
/// dockerd needs.
pub(super) fn upload(status: StatusCode, location: &str, progress: UploadHeaders) -> Answer {
    let UploadHeaders { range, uuid, min_chunk } = progress;
    let builder = done_head(status).header(LOCATION, location);
    let builder = builder.header(RANGE, range.as_deref().unwrap_or("0-0"));
    let optional = [(DOCKER_UPLOAD_UUID, uuid), (OCI_CHUNK_MIN_LENGTH, min_chunk)];
    let given = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
    finish(given.fold(builder, |builder, (name, value)| builder.header(name, value)), Source::Empty)
}

/// The blob is there.
pub(super) fn created(location: &str, digest: &Digest) -> Answer {
    let builder = done_head(StatusCode::CREATED).header(LOCATION, location);
    finish(builder.header(DOCKER_CONTENT_DIGEST, digest.as_str()), Source::Empty)
}

/// The registry has the manifest (UPL-6).
pub(super) fn manifest_taken(location: &str, taken: &TakenManifest) -> Answer {
    let builder = done_head(StatusCode::CREATED).header(LOCATION, location);
    let builder = builder.header(DOCKER_CONTENT_DIGEST, taken.digest.as_str());
    let subject = taken.subject.iter().map(|subject| (OCI_SUBJECT, subject.as_str()));
    let said = subject.chain(taken.tags.iter().map(|tag| (OCI_TAG, tag.as_str())));
    finish(said.fold(builder, |builder, (name, value)| builder.header(name, value)), Source::Empty)
}

/// It is done, and there is nothing to say about it.
pub(super) fn done(status: StatusCode) -> Answer {
    finish(done_head(status), Source::Empty)
}

fn done_head(status: StatusCode) -> Builder {
    // 204 has no length (RFC 9110 §8.6).
    if status == StatusCode::NO_CONTENT { ok(status) } else { ok(status).header(CONTENT_LENGTH, 0) }
}

pub(super) fn refusal(refusal: &Refusal) -> Answer {
    let mut builder = ok(refusal.status).header(CONTENT_TYPE, JSON);
    builder = match &refusal.extra {
        Extra::Nothing => builder,
        Extra::RetryAfter(seconds) => builder.header(RETRY_AFTER, *seconds),
        Extra::Allow(methods) => builder.header(ALLOW, *methods),
        Extra::Challenge(challenge) => builder.header(WWW_AUTHENTICATE, challenge),
        Extra::Unsatisfied(range) => builder.header(CONTENT_RANGE, range.to_string()),
        Extra::Close => builder.header(CONNECTION, "close"),
    };
    full(builder, error_document(refusal.code, &refusal.message).into())
}

/// An access token, or the form of it that a POST is answered with; never kept by anybody in
/// between (AUTH-9).
pub(super) fn token(document: String) -> Answer {
    let builder = ok(StatusCode::OK).header(CONTENT_TYPE, JSON).header(CACHE_CONTROL, "no-store");
    full(builder, document.into())
}

fn warn_if_stale(headers: &mut HeaderMap, outcome: Outcome) {
    if outcome == Outcome::Stale {
        warn(headers, "the upstream registry does not answer; this tag may be out of date");
    }
}

/// A sentence for people, in the only form that clients print (ERR-5).
pub(super) fn warn(headers: &mut HeaderMap, sentence: &str) {
    // Names in licences are free text; what cannot stand in a header is not said.
    if let Ok(value) =
        HeaderValue::from_str(&format!("299 - \"{}\"", sentence.replace(['"', '\\'], "'")))
    {
        headers.append(WARNING, value);
    }
}

/// What `HEAD` leaves of an answer: everything but the bytes.
pub(super) fn without_body(answer: Answer) -> Answer {
    answer.map(|_| Source::Empty)
}

/// Says that `ns` decided (SEL-10).
pub(super) fn echo_namespace(headers: &mut HeaderMap, ns: &str) {
    if let Ok(value) = HeaderValue::from_str(ns) {
        headers.insert(OCI_NAMESPACE, value);
    }
}

fn ok(status: StatusCode) -> Builder {
    Response::builder().status(status).header(DOCKER_API_VERSION, "registry/2.0")
}

fn content(status: StatusCode, digest: &Digest) -> Builder {
    ok(status).header(DOCKER_CONTENT_DIGEST, digest.as_str()).header(ETAG, entity_tag(digest))
}

fn linked(builder: Builder, next: Option<String>) -> Builder {
    match next {
        Some(next) => builder.header(LINK, format!("<{next}>; rel=\"next\"")),
        None => builder,
    }
}

fn full(builder: Builder, body: bytes::Bytes) -> Answer {
    finish(builder.header(CONTENT_LENGTH, body.len()), Source::Full(body))
}

/// A header that cannot be sent (an upstream's text with control bytes) costs the answer, not the
/// process.
fn finish(builder: Builder, source: Source) -> Answer {
    builder.body(source).unwrap_or_else(|_| {
        let mut answer = Response::new(Source::Empty);
        *answer.status_mut() = StatusCode::BAD_GATEWAY;
        answer
    })
}
