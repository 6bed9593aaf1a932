//! What is written to an upstream: uploads, manifests, deletes (PROTOCOL §3.9).
//!
//! An upload's address is the upstream's own, path and query as it wrote them; whatever host it
//! names with them, the registry that is configured is asked and no other (ACCESS §7.2).

use std::fmt;
use std::future::ready;

use bytes::Bytes;
use http::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION,
    RANGE,
};
use http::{Method, StatusCode};
use http_body::Body as _;
use tokio::time::Instant;
use url::Url;

use super::answer::digest;
use super::call::attempt::{Arrival, Ask};
use super::error::{Error, ErrorKind, Failure, Operation, Symptom};
use super::reads::Upstream;
use super::transport::feed::UploadBody;
use crate::oci::headers::{DOCKER_UPLOAD_UUID, OCI_CHUNK_MIN_LENGTH, OCI_SUBJECT, OCI_TAG};
use crate::oci::{
    Algorithm, ChunkRange, Digest, MediaType, Reference, Repository, Tag, manifest_path,
    uploads_path,
};

/// Some registries answer 411 to a POST or PUT that says nothing of its length, and hyper says
/// nothing of an empty one.
const NOTHING: (HeaderName, HeaderValue) = (CONTENT_LENGTH, HeaderValue::from_static("0"));

/// Bytes of an upload's address; distribution's take about 500.
const LONGEST_ADDRESS: usize = 4 * 1024;

/// Where an upload goes on: path and query at the upstream, as it wrote them. May hold what only
/// the upstream's clients should see, so it has no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct UploadAddress(String);

impl UploadAddress {
    /// Takes back what [`UploadAddress::as_str`] gave.
    pub fn new(path_and_query: String) -> Self {
        Self(path_and_query)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same, saying what the blob is (UPL-4).
    fn ending_with(&self, digest: &Digest) -> String {
        let separator = if self.0.contains('?') { '&' } else { '?' };
        format!("{}{separator}digest={digest}", self.0)
    }
}

impl fmt::Debug for UploadAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("UploadAddress(…)")
    }
}

/// How an upload begins.
#[derive(Clone, Debug, Default)]
pub struct Beginning {
    /// A blob, and a repository of this upstream that it may be mounted from.
    pub mount: Option<(Digest, Repository)>,
    pub algorithm: Option<Algorithm>,
}

/// Bytes to send, and what the client says of them.
#[derive(Debug)]
pub struct Chunk {
    pub range: Option<ChunkRange>,
    /// What the upload becomes with them.
    pub digest: Option<Digest>,
    pub body: UploadBody,
}

/// A manifest to put.
#[derive(Clone, Debug)]
pub struct NewManifest {
    pub reference: Reference,
    /// Further tags for it, where it goes by its digest.
    pub tags: Vec<Tag>,
    pub media_type: MediaType,
    pub bytes: Bytes,
}

/// What the upstream says of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uploaded {
    /// It goes on.
    Open(Progress),
    /// A blob is there: it was mounted, or is complete. Under this digest, if the upstream says;
    /// some hash anew by an algorithm of their own.
    Done(Option<Digest>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub address: UploadAddress,
    /// `Range`, as sent: what has arrived, in the form `0-1023` (UPL-5).
    pub range: Option<String>,
    pub uuid: Option<String>,
    pub min_chunk: Option<String>,
}

/// What the upstream says of a manifest that it has taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    pub digest: Option<Digest>,
    /// Only a registry that keeps referrers says this (ACCESS §7.4).
    pub subject: Option<Digest>,
    pub tags: Vec<String>,
}

impl Upstream {
    /// Begins an upload, or mounts a blob.
    pub async fn begin_upload(
        &self,
        repository: &Repository,
        beginning: &Beginning,
        deadline: Instant,
    ) -> Result<Uploaded, Error> {
        let (path, scope) = (uploads_path(repository), push_scope(repository));
        let (path, scope) = match (&beginning.mount, beginning.algorithm) {
            (Some((digest, from)), _) => (
                format!("{path}?mount={digest}&from={from}"),
                format!("repository:{from}:pull {scope}"),
            ),
            (None, Some(algorithm)) => {
                (format!("{path}?digest-algorithm={}", algorithm.name()), scope)
            }
            (None, None) => (path, scope),
        };
        let ask = self.write(Operation::UploadBegin, Method::POST, repository, &path);
        let ask = Ask {
            scope,
            headers: HeaderMap::from_iter([NOTHING]),
            content: Some(Bytes::new()),
            ..ask
        };
        self.run(&ask, deadline, |arrival| ready(uploaded(&arrival, &ask.url))).await
    }

    /// What has arrived of an upload (end-13).
    pub async fn upload_status(
        &self,
        repository: &Repository,
        address: &UploadAddress,
        deadline: Instant,
    ) -> Result<Uploaded, Error> {
        let ask = self.write(Operation::UploadStatus, Method::GET, repository, address.as_str());
        self.run(&ask, deadline, |arrival| ready(uploaded(&arrival, &ask.url))).await
    }

    /// Gives an upload up (end-14).
    pub async fn cancel_upload(
        &self,
        repository: &Repository,
        address: &UploadAddress,
        deadline: Instant,
    ) -> Result<(), Error> {
        let ask = self.write(Operation::UploadCancel, Method::DELETE, repository, address.as_str());
        // distribution takes the right from the method.
        let ask = Ask { scope: format!("repository:{repository}:pull,push,delete"), ..ask };
        self.run(&ask, deadline, |_| ready(Ok(()))).await
    }

    /// Begins an upload with all of its bytes (end-4b).
    pub async fn send_whole(
        &self,
        repository: &Repository,
        chunk: Chunk,
    ) -> Result<Uploaded, Error> {
        let path = match &chunk.digest {
            Some(digest) => format!("{}?digest={digest}", uploads_path(repository)),
            None => uploads_path(repository),
        };
        self.stream(self.write(Operation::UploadBegin, Method::POST, repository, &path), chunk)
            .await
    }

    /// Adds to an upload (end-5), or ends it (end-6). Nothing is sent twice; the caller sets the
    /// deadline.
    pub async fn send_chunk(
        &self,
        repository: &Repository,
        address: &UploadAddress,
        chunk: Chunk,
    ) -> Result<Uploaded, Error> {
        let (method, path) = match &chunk.digest {
            Some(digest) => (Method::PUT, address.ending_with(digest)),
            None => (Method::PATCH, address.as_str().to_owned()),
        };
        self.stream(self.write(Operation::UploadSend, method, repository, &path), chunk).await
    }

    /// Puts a manifest (end-7), with further tags if it goes by its digest.
    pub async fn put_manifest(
        &self,
        repository: &Repository,
        manifest: &NewManifest,
        deadline: Instant,
    ) -> Result<Taken, Error> {
        let NewManifest { reference, tags, media_type, bytes } = manifest;
        let tags: Vec<String> = tags.iter().map(|tag| format!("tag={tag}")).collect();
        let separator = if tags.is_empty() { "" } else { "?" };
        let path = format!("{}{separator}{}", manifest_path(repository, reference), tags.join("&"));
        let headers = HeaderMap::from_iter(header(CONTENT_TYPE, media_type.as_str()));
        let ask = self.write(Operation::ManifestPut, Method::PUT, repository, &path);
        let ask = Ask { headers, content: Some(bytes.clone()), ..ask };
        self.run(&ask, deadline, |arrival| ready(taken(&arrival))).await
    }

    /// Deletes a manifest, a tag or a blob, which `path` names (end-9, end-10).
    pub async fn delete(
        &self,
        repository: &Repository,
        path: &str,
        deadline: Instant,
    ) -> Result<(), Error> {
        let ask = self.write(Operation::Delete, Method::DELETE, repository, path);
        let ask = Ask { scope: format!("repository:{repository}:delete"), ..ask };
        self.run(&ask, deadline, |_| ready(Ok(()))).await
    }

    async fn stream(&self, ask: Ask<'_>, chunk: Chunk) -> Result<Uploaded, Error> {
        let octets = header(CONTENT_TYPE, "application/octet-stream");
        let range = chunk.range.map(|range| format!("{}-{}", range.first, range.last));
        let range = range.and_then(|range| header(CONTENT_RANGE, &range));
        let empty = (chunk.body.size_hint().exact() == Some(0)).then_some(NOTHING);
        let headers = octets.into_iter().chain(range).chain(empty).collect();
        let ask = Ask { headers, ..ask };
        let arrival = self.run_once(&ask, reqwest::Body::wrap(chunk.body)).await?;
        uploaded(&arrival, &ask.url)
            .map_err(|failure| failure.during(self.name(), ask.operation, 1))
    }

    fn write<'a>(
        &self,
        operation: Operation,
        method: Method,
        repository: &'a Repository,
        path: &str,
    ) -> Ask<'a> {
        let (url, scope, headers) = (self.url(path), push_scope(repository), HeaderMap::new());
        Ask { operation, method, url, repository, scope, accept: "*/*", headers, content: None }
    }
}

fn push_scope(repository: &Repository) -> String {
    format!("repository:{repository}:pull,push")
}

/// None if the text cannot stand in a header; no range or media type is such a text.
fn header(name: HeaderName, text: &str) -> Option<(HeaderName, HeaderValue)> {
    Some((name, HeaderValue::try_from(text).ok()?))
}

fn uploaded(arrival: &Arrival, asked: &Url) -> Result<Uploaded, Failure> {
    let (status, headers) = (arrival.incoming.status(), arrival.incoming.headers());
    match status {
        StatusCode::CREATED => Ok(Uploaded::Done(digest(headers))),
        StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Ok(Uploaded::Open(Progress {
            address: address(headers, asked)?,
            range: text(headers, &RANGE),
            uuid: text(headers, &DOCKER_UPLOAD_UUID),
            min_chunk: text(headers, &OCI_CHUNK_MIN_LENGTH),
        })),
        other => Err(unexpected(other)),
    }
}

fn address(headers: &HeaderMap, asked: &Url) -> Result<UploadAddress, Failure> {
    let location = text(headers, &LOCATION)
        .ok_or_else(|| Failure::protocol("an upload without a usable Location"))?;
    let url = asked
        .join(&location)
        .map_err(|_| Failure::protocol("an upload whose Location is no URL"))?;
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let address = format!("{}{query}", url.path());
    if address.len() > LONGEST_ADDRESS {
        return Err(Failure::protocol(format!(
            "an upload whose Location is longer than {LONGEST_ADDRESS} bytes"
        )));
    }
    Ok(UploadAddress(address))
}

fn taken(arrival: &Arrival) -> Result<Taken, Failure> {
    let (status, headers) = (arrival.incoming.status(), arrival.incoming.headers());
    if status != StatusCode::CREATED && status != StatusCode::ACCEPTED && status != StatusCode::OK {
        return Err(unexpected(status));
    }
    let subject = text(headers, &OCI_SUBJECT).and_then(|text| Digest::parse(&text).ok());
    let tags = headers
        .get_all(OCI_TAG)
        .iter()
        .filter_map(|value| value.to_str().ok().map(str::to_owned))
        .collect();
    Ok(Taken { digest: digest(headers), subject, tags })
}

fn unexpected(status: StatusCode) -> Failure {
    let status = status.as_u16();
    Failure::new(
        ErrorKind::Protocol,
        Symptom::Status(status),
        format!("the upstream answered a write with {status}"),
    )
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(location: &str) -> Option<String> {
        let headers = HeaderMap::from_iter(header(LOCATION, location));
        let asked = Url::parse("https://registry.test:5000/v2/a/b/blobs/uploads/").expect("a URL");
        address(&headers, &asked).ok().map(|address| address.as_str().to_owned())
    }

    #[test]
    fn an_address_is_path_and_query_as_the_upstream_wrote_them() {
        for (location, expected) in [
            (
                "/v2/a/b/blobs/uploads/1?_state=a%3D%2Bb==",
                "/v2/a/b/blobs/uploads/1?_state=a%3D%2Bb==",
            ),
            ("http://other.test/up/1?x=/?&y", "/up/1?x=/?&y"),
            ("2?x", "/v2/a/b/blobs/uploads/2?x"),
            ("https://registry.test:5000/v2/a/b/blobs/uploads/1", "/v2/a/b/blobs/uploads/1"),
        ] {
            assert_eq!(read(location).as_deref(), Some(expected), "{location}");
        }
        assert_eq!(read("http://["), None);
        assert_eq!(read(&format!("/{}", "x".repeat(LONGEST_ADDRESS))), None);
        assert!(address(&HeaderMap::new(), &Url::parse("https://a.test").expect("a URL")).is_err());
    }

    #[test]
    fn what_the_blob_is_joins_the_query() {
        let digest = Digest::of(Algorithm::Sha256, b"");
        for (path, separator) in [("/u/1?_state=x", '&'), ("/u/1", '?')] {
            let whole = UploadAddress::new(path.to_owned()).ending_with(&digest);
            assert_eq!(whole, format!("{path}{separator}digest={digest}"));
        }
    }
}
