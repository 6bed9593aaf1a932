//! Uploads: how they begin, what is added, how they end (PROTOCOL §3.9).
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

use super::answer::{digest, text, unexpected_status};
use super::call::request::Call;
use super::call::response::CallResponse;
use super::client::UpstreamClient;
use super::error::{Error, Fault, Operation};
use super::transport::feed::UploadBody;
use crate::oci::headers::{DOCKER_UPLOAD_UUID, OCI_CHUNK_MIN_LENGTH};
use crate::oci::{Algorithm, ChunkRange, Digest, Repository, uploads_path};

/// Some registries answer 411 to a POST or PUT that says nothing of its length, and hyper says
/// nothing of an empty one.
const NO_CONTENT: (HeaderName, HeaderValue) = (CONTENT_LENGTH, HeaderValue::from_static("0"));

/// Bytes of an upload's address; distribution's take about 500.
const ADDRESS_MAX: usize = 4 * 1024;

/// Where an upload goes on: path and query at the upstream, as it wrote them. May hold what only
/// the upstream's clients should see, so `Debug` does not show it.
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

    /// The address with the digest that ends the upload (UPL-4).
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
pub struct UploadStart {
    /// A blob, and a repository of this upstream that it may be mounted from.
    pub mount: Option<(Digest, Repository)>,
    /// What the registry shall hash the blob with.
    pub algorithm: Option<Algorithm>,
}

/// Bytes to send, and what the client says of them.
#[derive(Debug)]
pub struct UploadChunk {
    pub range: Option<ChunkRange>,
    /// Of the whole blob; ends the upload.
    pub digest: Option<Digest>,
    pub body: UploadBody,
}

/// What the upstream says of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UploadStatus {
    /// It goes on.
    Open(UploadProgress),
    /// A blob is there: it was mounted, or is complete. Under this digest, if the upstream says;
    /// some hash anew by an algorithm of their own.
    Complete(Option<Digest>),
}

/// An upload that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadProgress {
    pub address: UploadAddress,
    /// How many bytes the upstream has, if it says so. Registries that have nothing say one byte:
    /// `0-0` is the least that the form can express.
    pub received: Option<u64>,
    /// The `Range` header that says so, for the client to read (UPL-5).
    pub range: Option<String>,
    /// `Docker-Upload-UUID`, as sent.
    pub uuid: Option<String>,
    /// `OCI-Chunk-Min-Length`, as sent.
    pub min_chunk: Option<String>,
}

impl UpstreamClient {
    /// Begins an upload (end-4a), or mounts a blob (end-11).
    pub async fn begin_upload(
        &self,
        repository: &Repository,
        start: &UploadStart,
        deadline: Instant,
    ) -> Result<UploadStatus, Error> {
        let query = match (&start.mount, start.algorithm) {
            (Some((digest, from)), _) => format!("?mount={digest}&from={from}"),
            (None, Some(algorithm)) => format!("?digest-algorithm={}", algorithm.name()),
            (None, None) => String::new(),
        };
        let path = format!("{}{query}", uploads_path(repository));
        let call = self.push_call(Operation::UploadBegin, Method::POST, repository, &path);
        let scope = match &start.mount {
            // A mount reads from the other repository, so the token has to allow that as well.
            Some((_, from)) => format!("repository:{from}:pull {}", call.scope),
            None => call.scope,
        };
        let headers = HeaderMap::from_iter([NO_CONTENT]);
        let call = Call { scope, headers, content: Some(Bytes::new()), ..call };
        let status = |response: CallResponse| ready(begun(&response, &call.url));
        self.runner.run(&call, deadline, status).await
    }

    /// What has arrived of an upload (end-13).
    pub async fn upload_status(
        &self,
        repository: &Repository,
        address: &UploadAddress,
        deadline: Instant,
    ) -> Result<UploadStatus, Error> {
        let (operation, path) = (Operation::UploadStatus, address.as_str());
        let call = self.push_call(operation, Method::GET, repository, path);
        let status = |response: CallResponse| ready(open(&response, &call.url));
        self.runner.run(&call, deadline, status).await
    }

    /// Gives an upload up (end-14).
    pub async fn cancel_upload(
        &self,
        repository: &Repository,
        address: &UploadAddress,
        deadline: Instant,
    ) -> Result<(), Error> {
        let (operation, path) = (Operation::UploadCancel, address.as_str());
        let call = self.push_call(operation, Method::DELETE, repository, path);
        // distribution derives the right that is needed from the method, so a token to push is not
        // enough.
        let call = Call { scope: format!("repository:{repository}:pull,push,delete"), ..call };
        self.runner.run(&call, deadline, |_| ready(Ok(()))).await
    }

    /// Begins an upload with all of its bytes (end-4b). Nothing is sent twice. `login_deadline`
    /// ends the wait for ping, login and token; the caller sets the deadline of the sending itself.
    pub async fn send_whole(
        &self,
        repository: &Repository,
        chunk: UploadChunk,
        login_deadline: Instant,
    ) -> Result<UploadStatus, Error> {
        let path = match &chunk.digest {
            Some(digest) => format!("{}?digest={digest}", uploads_path(repository)),
            None => uploads_path(repository),
        };
        let call = self.push_call(Operation::UploadBegin, Method::POST, repository, &path);
        let (response, call) = self.stream(call, chunk, login_deadline).await?;
        self.told(&call, begun(&response, &call.url))
    }

    /// Adds to an upload (end-5), or ends it (end-6); the rest as for
    /// [`UpstreamClient::send_whole`].
    pub async fn send_chunk(
        &self,
        repository: &Repository,
        address: &UploadAddress,
        chunk: UploadChunk,
        login_deadline: Instant,
    ) -> Result<UploadStatus, Error> {
        let is_last = chunk.digest.is_some();
        let (method, path) = match &chunk.digest {
            Some(digest) => (Method::PUT, address.ending_with(digest)),
            None => (Method::PATCH, address.as_str().to_owned()),
        };
        let call = self.push_call(Operation::UploadSend, method, repository, &path);
        let (response, call) = self.stream(call, chunk, login_deadline).await?;
        let read = if is_last { ended } else { open };
        self.told(&call, read(&response, &call.url))
    }

    async fn stream<'a>(
        &self,
        call: Call<'a>,
        chunk: UploadChunk,
        login_deadline: Instant,
    ) -> Result<(CallResponse, Call<'a>), Error> {
        let octets = (CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        let range = chunk.range.map(|range| {
            let text = format!("{}-{}", range.first, range.last);
            let value = HeaderValue::try_from(text).expect("digits and a dash are visible ASCII");
            (CONTENT_RANGE, value)
        });
        let empty = (chunk.body.size_hint().exact() == Some(0)).then_some(NO_CONTENT);
        let headers = [octets].into_iter().chain(range).chain(empty).collect();
        let call = Call { headers, ..call };
        Ok((self.runner.run_once(&call, chunk.body, login_deadline).await?, call))
    }

    fn told(
        &self,
        call: &Call<'_>,
        status: Result<UploadStatus, Fault>,
    ) -> Result<UploadStatus, Error> {
        status.map_err(|fault| fault.during(self.name(), call.operation, 1))
    }
}

/// What a POST has come to: an upload goes on, or a blob is there.
fn begun(response: &CallResponse, requested: &Url) -> Result<UploadStatus, Fault> {
    match response.http.status() {
        StatusCode::CREATED => Ok(UploadStatus::Complete(digest(response.http.headers()))),
        _ => open(response, requested),
    }
}

/// What the last bytes of an upload have come to. The spec asks for 201; docker and containerd take
/// 200 and 204 for it too, and 202 (PROTOCOL §3.9). A 202 that says where the upload goes on is
/// left to the client.
fn ended(response: &CallResponse, requested: &Url) -> Result<UploadStatus, Fault> {
    let headers = response.http.headers();
    match response.http.status() {
        StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => {
            Ok(UploadStatus::Complete(digest(headers)))
        }
        StatusCode::ACCEPTED if !headers.contains_key(LOCATION) => {
            Ok(UploadStatus::Complete(digest(headers)))
        }
        _ => open(response, requested),
    }
}

/// An upload that goes on. The spec asks for 202, or 204 where its status was asked for; docker and
/// containerd take 200 and 204 for both, as long as it is said where the upload goes on.
fn open(response: &CallResponse, requested: &Url) -> Result<UploadStatus, Fault> {
    let (status, headers) = (response.http.status(), response.http.headers());
    match status {
        StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
            let owned = |name| text(headers, name).map(ToOwned::to_owned);
            Ok(UploadStatus::Open(UploadProgress {
                address: address(headers, requested)?,
                received: text(headers, RANGE).and_then(received),
                range: owned(RANGE),
                uuid: owned(DOCKER_UPLOAD_UUID),
                min_chunk: owned(OCI_CHUNK_MIN_LENGTH),
            }))
        }
        other => Err(unexpected_status(other)),
    }
}

/// How many bytes have arrived by a `Range` of the form `0-1023`, to which some put `bytes=` in
/// front.
fn received(range: &str) -> Option<u64> {
    let (_, last) = range.rsplit_once('-')?;
    Some(last.parse::<u64>().ok()?.saturating_add(1))
}

fn address(headers: &HeaderMap, requested: &Url) -> Result<UploadAddress, Fault> {
    let location = text(headers, LOCATION)
        .ok_or_else(|| Fault::protocol("an upload without a usable Location"))?;
    let url = requested
        .join(location)
        .map_err(|_| Fault::protocol("an upload whose Location is no URL"))?;
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let address = format!("{}{query}", url.path());
    if address.len() > ADDRESS_MAX {
        let reason = format!("an upload whose Location is longer than {ADDRESS_MAX} bytes");
        return Err(Fault::protocol(reason));
    }
    Ok(UploadAddress(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(location: &str) -> Option<String> {
        let location = HeaderValue::try_from(location).expect("a header value");
        let headers = HeaderMap::from_iter([(LOCATION, location)]);
        let requested =
            Url::parse("https://registry.test:5000/v2/a/b/blobs/uploads/").expect("a URL");
        address(&headers, &requested).ok().map(|address| address.as_str().to_owned())
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
        assert_eq!(read(&format!("/{}", "x".repeat(ADDRESS_MAX))), None);
        assert!(address(&HeaderMap::new(), &Url::parse("https://a.test").expect("a URL")).is_err());
    }

    #[test]
    fn what_has_arrived_is_the_number_behind_the_last_byte() {
        for (range, bytes) in [
            ("0-0", Some(1)),
            ("0-1023", Some(1024)),
            ("bytes=0-1023", Some(1024)),
            ("0-18446744073709551615", Some(u64::MAX)),
            ("0-18446744073709551616", None),
            ("1023", None),
            ("0-", None),
            ("", None),
        ] {
            assert_eq!(received(range), bytes, "{range:?}");
        }
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
