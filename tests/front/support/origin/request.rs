//! A request as an origin received it.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::body::Framing;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ping,
    Manifest,
    Blob,
    Tags,
    Referrers,
    /// Anything below `blobs/uploads`; the reference is the upload, if there is one yet.
    Upload,
    Token,
    /// `/storage/<digest>`: like a CDN, which answers 400 to a request with `Authorization`
    /// (RED-2).
    Storage,
    /// `/artifacts/<repository>/<digest>`: outside `/v2`, but with the registry's own authorization
    /// (RED-1).
    Artifact,
    Other,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    headers: Vec<(String, String)>,
    /// The whole body if it is small; nothing of an upload.
    pub(crate) body: Bytes,
    /// Bytes of the body.
    pub(crate) received: u64,
    pub(crate) kind: Kind,
    pub(crate) repository: String,
    /// Tag, digest, or nothing.
    pub(crate) reference: String,
}

impl Request {
    /// Reads the head of one request; `None` at the end of the connection.
    pub(super) async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if from.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let headers = read_headers(from).await?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (kind, repository, reference) = classify(path);
        Ok(Some(Self {
            method,
            query: query.into(),
            headers,
            body: Bytes::new(),
            received: 0,
            kind,
            repository: repository.into(),
            reference: reference.into(),
            path: path.into(),
        }))
    }

    /// The value of a header, named in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn framing(&self) -> Framing {
        let length = self.header("content-length").and_then(|length| length.parse().ok());
        Framing::new(length, self.header("transfer-encoding") == Some("chunked"))
    }

    /// A query parameter, decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        self.parameters(name).into_iter().next()
    }

    /// Every value of a query parameter, decoded.
    pub(crate) fn parameters(&self, name: &str) -> Vec<String> {
        let pairs =
            url::form_urlencoded::parse(self.query.as_bytes()).filter(|(key, _)| key == name);
        pairs.map(|(_, value)| value.into_owned()).collect()
    }

    /// Whether it changes something, or is about an upload.
    pub(crate) fn is_write(&self) -> bool {
        self.kind == Kind::Upload || matches!(self.method.as_str(), "PUT" | "DELETE" | "PATCH")
    }

    pub(crate) fn is_get(&self, kind: Kind) -> bool {
        self.kind == kind && self.method == "GET"
    }

    pub(crate) fn is_head(&self, kind: Kind) -> bool {
        self.kind == kind && self.method == "HEAD"
    }
}

async fn read_headers(from: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        from.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(':') else { return Ok(headers) };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn classify(path: &str) -> (Kind, &str, &str) {
    if matches!(path, "/v2/" | "/v2") {
        return (Kind::Ping, "", "");
    }
    if path == "/token" {
        return (Kind::Token, "", "");
    }
    if let Some(digest) = path.strip_prefix("/storage/") {
        return (Kind::Storage, "", digest);
    }
    if let Some((repository, digest)) =
        path.strip_prefix("/artifacts/").and_then(|rest| rest.rsplit_once('/'))
    {
        return (Kind::Artifact, repository, digest);
    }
    let Some((rest, reference)) = path.strip_prefix("/v2/").and_then(|rest| rest.rsplit_once('/'))
    else {
        return (Kind::Other, "", "");
    };
    if let Some(repository) = rest.strip_suffix("/blobs/uploads") {
        return (Kind::Upload, repository, reference);
    }
    match rest.rsplit_once('/') {
        Some((repository, "manifests")) => (Kind::Manifest, repository, reference),
        Some((repository, "blobs")) => (Kind::Blob, repository, reference),
        Some((repository, "referrers")) => (Kind::Referrers, repository, reference),
        Some((repository, "tags")) if reference == "list" => (Kind::Tags, repository, ""),
        Some(_) | None => (Kind::Other, "", ""),
    }
}
