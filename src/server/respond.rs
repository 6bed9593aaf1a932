//! Status and headers of every answer (PROTOCOL §3.11).

use bytes::Bytes;
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
    BlobAnswer, BlobHead, Content, ManifestAnswer, ManifestContent, Outcome, PieceMax, Referrers,
};
use crate::push::{TakenManifest, UploadHeaders};

const JSON: &str = "application/json";

/// `Cache-Control` of blobs. What has a digest never changes, so it may be kept for a year, which
/// stands for ever (BLOB-1). `private` keeps shared caches out: they would give it to clients that
/// have no right to it.
const CACHE_FOREVER: &str = "private, max-age=31536000, immutable";

/// The head of a response, and where its body comes from.
pub(super) type Answer = Response<Source>;

/// The answer to the ping (end-1): there is a registry here.
pub(super) fn ping() -> Answer {
    with_bytes(base(StatusCode::OK).header(CONTENT_TYPE, JSON), "{}".into())
}

/// The answer to GET of a blob: 200, or 206 for a part (end-2).
pub(super) fn blob(answer: BlobAnswer, digest: &Digest) -> Answer {
    let length = answer.part.map_or(answer.size, |part| Some(part.len()));
    let source = match answer.content {
        Content::Memory(bytes) => Source::Full(bytes),
        Content::Stored { blob, span } => Source::Stored { blob, left: span, loading: None },
        Content::Stream { stream, piece_max } => Source::Stream { stream, left: length, piece_max },
    };
    let mut builder = blob_headers(digest, length);
    if let (Some(part), Some(size)) = (answer.part, answer.size) {
        builder = builder.status(StatusCode::PARTIAL_CONTENT).header(
            CONTENT_RANGE,
            ContentRange::Part { span: part, total: Some(size) }.to_string(),
        );
    }
    with_body(builder, source)
}

/// The answer to HEAD of a blob (end-2).
pub(super) fn blob_head(head: BlobHead, digest: &Digest) -> Answer {
    with_body(blob_headers(digest, head.size), Source::Empty)
}

fn blob_headers(digest: &Digest, length: Option<u64>) -> Builder {
    let builder = content_head(StatusCode::OK, digest)
        .header(CONTENT_TYPE, "application/octet-stream")
        .header(ACCEPT_RANGES, "bytes")
        .header(CACHE_CONTROL, CACHE_FOREVER);
    match length {
        Some(length) => builder.header(CONTENT_LENGTH, length),
        None => builder,
    }
}

/// The answer to GET and HEAD of a manifest (end-3, MAN-2).
pub(super) fn manifest(answer: ManifestAnswer) -> Answer {
    let builder = content_head(StatusCode::OK, &answer.digest)
        .header(CONTENT_TYPE, answer.media_type.as_str())
        .header(CONTENT_LENGTH, answer.size);
    let source = match answer.content {
        ManifestContent::None => Source::Empty,
        ManifestContent::Memory(bytes) => Source::Full(bytes),
        ManifestContent::Stored(blob) => {
            Source::Stored { left: 0..blob.size(), blob, loading: None }
        }
    };
    let mut finished = with_body(builder, source);
    warn_if_stale(finished.headers_mut(), answer.outcome);
    finished
}

/// 304: the client has the content already (MAN-7).
pub(super) fn not_modified(digest: &Digest) -> Answer {
    with_body(content_head(StatusCode::NOT_MODIFIED, digest), Source::Empty)
}

/// A page of tags; `next` is where the following one is (TAG-3).
pub(super) fn tags(body: [Bytes; 3], next: Option<String>, outcome: Outcome) -> Answer {
    let builder = with_next_page(base(StatusCode::OK).header(CONTENT_TYPE, JSON), next);
    let length = body.iter().map(Bytes::len).sum::<usize>() as u64;
    let stream = Box::pin(futures_util::stream::iter(body.map(Ok)));
    let builder = builder.header(CONTENT_LENGTH, length);
    let piece_max = PieceMax::default();
    let mut answer = with_body(builder, Source::Stream { stream, left: Some(length), piece_max });
    warn_if_stale(answer.headers_mut(), outcome);
    answer
}

/// A page of referrers; `next` is where the following one is (REF-3).
pub(super) fn referrers(referrers: Referrers, next: Option<String>) -> Answer {
    let Referrers { index, filters_applied, outcome, .. } = referrers;
    let mut builder = with_next_page(base(StatusCode::OK).header(CONTENT_TYPE, OCI_INDEX), next);
    if let Some(filters) = filters_applied {
        builder = builder.header(OCI_FILTERS_APPLIED, filters);
    }
    let mut answer = with_bytes(builder, index);
    warn_if_stale(answer.headers_mut(), outcome);
    answer
}

/// The upload goes on at `location`. What the registry says of it is passed on (UPL-5).
pub(super) fn upload(status: StatusCode, location: &str, progress: UploadHeaders) -> Answer {
    let UploadHeaders { range, uuid, min_chunk } = progress;
    let builder = without_content(status).header(LOCATION, location);
    // What has arrived, in the plain form `0-N`, which dockerd needs after each PATCH. Nothing yet
    // is `0-0` as well: the form cannot say it.
    let builder = builder.header(RANGE, range.as_deref().unwrap_or("0-0"));
    let optional = [(DOCKER_UPLOAD_UUID, uuid), (OCI_CHUNK_MIN_LENGTH, min_chunk)];
    let present = optional.into_iter().filter_map(|(name, value)| Some((name, value?)));
    with_body(
        present.fold(builder, |builder, (name, value)| builder.header(name, value)),
        Source::Empty,
    )
}

/// 201: the repository has the blob, pushed or mounted.
pub(super) fn blob_created(location: &str, digest: &Digest) -> Answer {
    let builder = without_content(StatusCode::CREATED).header(LOCATION, location);
    with_body(builder.header(DOCKER_CONTENT_DIGEST, digest.as_str()), Source::Empty)
}

/// 201: the registry has the manifest. dockerd fails without its digest; subject and tags are only
/// what the registry has said (UPL-6).
pub(super) fn manifest_created(location: &str, taken: &TakenManifest) -> Answer {
    let builder = without_content(StatusCode::CREATED).header(LOCATION, location);
    let builder = builder.header(DOCKER_CONTENT_DIGEST, taken.digest.as_str());
    let subject = taken.subject.iter().map(|subject| (OCI_SUBJECT, subject.as_str()));
    let confirmed = subject.chain(taken.tags.iter().map(|tag| (OCI_TAG, tag.as_str())));
    with_body(
        confirmed.fold(builder, |builder, (name, value)| builder.header(name, value)),
        Source::Empty,
    )
}

/// An answer that is its status alone.
pub(super) fn empty(status: StatusCode) -> Answer {
    with_body(without_content(status), Source::Empty)
}

fn without_content(status: StatusCode) -> Builder {
    // 204 has no length (RFC 9110 §8.6).
    if status == StatusCode::NO_CONTENT {
        base(status)
    } else {
        base(status).header(CONTENT_LENGTH, 0)
    }
}

/// A refusal, with the error document of the spec (PROTOCOL §3.10).
pub(super) fn refusal(refusal: &Refusal) -> Answer {
    let mut builder = base(refusal.status).header(CONTENT_TYPE, JSON);
    builder = match &refusal.extra {
        Extra::Nothing => builder,
        Extra::RetryAfter(seconds) => builder.header(RETRY_AFTER, *seconds),
        Extra::Allow(methods) => builder.header(ALLOW, *methods),
        Extra::Challenge(challenge) => builder.header(WWW_AUTHENTICATE, challenge),
        Extra::Unsatisfied(range) => builder.header(CONTENT_RANGE, range.to_string()),
        Extra::Close => builder.header(CONNECTION, "close"),
    };
    with_bytes(builder, error_document(refusal.code, &refusal.message).into())
}

/// The document with an access token, which nobody on the way may keep (AUTH-9).
pub(super) fn token(document: String) -> Answer {
    let builder = base(StatusCode::OK).header(CONTENT_TYPE, JSON).header(CACHE_CONTROL, "no-store");
    with_bytes(builder, document.into())
}

fn warn_if_stale(headers: &mut HeaderMap, outcome: Outcome) {
    if outcome == Outcome::Stale {
        warn(headers, "the upstream registry does not answer; this tag may be out of date");
    }
}

/// A sentence for people, in the only form that clients print (ERR-5).
pub(super) fn warn(headers: &mut HeaderMap, sentence: &str) {
    // The name of a licence's issuer is free text. A sentence that cannot stand in a header is left
    // out: the answer itself is good.
    if let Ok(value) =
        HeaderValue::from_str(&format!("299 - \"{}\"", sentence.replace(['"', '\\'], "'")))
    {
        headers.append(WARNING, value);
    }
}

/// The answer to HEAD: everything that GET has but the bytes (MAN-2).
pub(super) fn without_body(answer: Answer) -> Answer {
    answer.map(|_| Source::Empty)
}

/// Tells the client that its `ns` selected the upstream, as it wrote it (SEL-10).
pub(super) fn echo_namespace(headers: &mut HeaderMap, ns: &str) {
    if let Ok(value) = HeaderValue::from_str(ns) {
        headers.insert(OCI_NAMESPACE, value);
    }
}

/// What every answer has. Docker engines up to 20.10 take a registry for one of version 2 by this
/// header alone.
fn base(status: StatusCode) -> Builder {
    Response::builder().status(status).header(DOCKER_API_VERSION, "registry/2.0")
}

fn content_head(status: StatusCode, digest: &Digest) -> Builder {
    base(status).header(DOCKER_CONTENT_DIGEST, digest.as_str()).header(ETAG, entity_tag(digest))
}

fn with_next_page(builder: Builder, next: Option<String>) -> Builder {
    match next {
        Some(next) => builder.header(LINK, format!("<{next}>; rel=\"next\"")),
        None => builder,
    }
}

fn with_bytes(builder: Builder, body: Bytes) -> Answer {
    with_body(builder.header(CONTENT_LENGTH, body.len()), Source::Full(body))
}

/// The builder fails if a header cannot be sent, such as an upstream's text with control bytes.
/// Then the client gets an empty 502.
fn with_body(builder: Builder, source: Source) -> Answer {
    builder.body(source).unwrap_or_else(|_| {
        let mut answer = Response::new(Source::Empty);
        *answer.status_mut() = StatusCode::BAD_GATEWAY;
        answer
    })
}
