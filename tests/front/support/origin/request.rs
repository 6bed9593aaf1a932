//! A request as an origin received it.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Ping,
    Manifest,
    Blob,
    Tags,
    Referrers,
    Token,
    /// `/storage/<digest>`: like a CDN, which answers 400 to a request with `Authorization` (RED-2).
    Storage,
    /// `/artifacts/<repository>/<digest>`: outside `/v2`, but with the registry's own authorization (RED-1).
    Artifact,
    Other,
}

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) query: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) kind: Kind,
    pub(crate) repository: String,
    /// Tag, digest, or nothing.
    pub(crate) reference: String,
}

impl Request {
    /// Reads one request; `None` at the end of the connection.
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
        let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, v)| v.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        from.read_exact(&mut body).await?;
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let (kind, repository, reference) = classify(path);
        Ok(Some(Self {
            method,
            query: query.into(),
            headers,
            body: body.into(),
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

    /// A query parameter, decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes()).find(|(key, _)| key == name).map(|(_, v)| v.into_owned())
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
    if let Some((repository, digest)) = path.strip_prefix("/artifacts/").and_then(|rest| rest.rsplit_once('/')) {
        return (Kind::Artifact, repository, digest);
    }
    let Some((rest, reference)) = path.strip_prefix("/v2/").and_then(|rest| rest.rsplit_once('/')) else {
        return (Kind::Other, "", "");
    };
    match rest.rsplit_once('/') {
        Some((repository, "manifests")) => (Kind::Manifest, repository, reference),
        Some((repository, "blobs")) => (Kind::Blob, repository, reference),
        Some((repository, "referrers")) => (Kind::Referrers, repository, reference),
        Some((repository, "tags")) if reference == "list" => (Kind::Tags, repository, ""),
        Some(_) | None => (Kind::Other, "", ""),
    }
}
