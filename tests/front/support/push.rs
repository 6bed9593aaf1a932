//! A client that pushes, and registries that it may push to.

use std::convert::Infallible;

use bytes::Bytes;
use http::Method;
use http_body::Frame;
use http_body_util::StreamBody;
use roadstead::config::{Allow, Writes};
use roadstead::oci::Digest;

use super::client::Answer;
use super::content::{Blob, Content};
use super::image::{Image, Manifest};
use super::origin::{Origin, Request};
use super::proxy::{Proxy, Setup, manifest};

pub(crate) const ALL: Allow = Allow { pull: true, list: true, push: true, delete: true };

/// Everybody may do everything at `origin`, which is the default.
pub(crate) fn open_to_all(origin: &Origin, writes: Writes) -> Setup {
    let mut setup = Setup::new();
    setup.upstream("registry.test", origin).writes = writes;
    setup.config.access.rules[0].allow = ALL;
    setup
}

/// A proxy that everybody may push through, and that keeps what passes.
pub(crate) async fn proxy_keeping_pushes(origin: &Origin) -> Proxy {
    open_to_all(origin, Writes::Kept).start().await
}

/// A client that pushes.
#[derive(Clone, Copy)]
pub(crate) struct Client<'a> {
    pub(crate) proxy: &'a Proxy,
    pub(crate) authorization: Option<&'a str>,
}

pub(crate) fn anyone(proxy: &Proxy) -> Client<'_> {
    Client { proxy, authorization: None }
}

impl Client<'_> {
    pub(crate) async fn send(
        self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let own = self.authorization.map(|value| ("authorization", value));
        let headers: Vec<_> = headers.iter().copied().chain(own).collect();
        self.proxy.send(method, path, &headers, body).await
    }

    pub(crate) async fn post(self, path: &str) -> Answer {
        self.send(Method::POST, path, &[], Bytes::new()).await
    }

    /// Begins an upload; where it goes on.
    pub(crate) async fn begin(self, repository: &str) -> String {
        let begun = self.post(&uploads(repository)).await;
        assert_eq!(begun.status, 202, "{begun:?}");
        location(&begun)
    }

    pub(crate) async fn patch(self, location: &str, body: impl Into<reqwest::Body>) -> Answer {
        self.send(Method::PATCH, location, &[], body).await
    }

    pub(crate) async fn put(
        self,
        location: &str,
        digest: &Digest,
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        self.send(Method::PUT, &ending(location, digest), &[], body).await
    }

    /// As containerd does: POST, and a PUT with all of it.
    pub(crate) async fn blob(self, repository: &str, blob: &Blob) -> Answer {
        let location = self.begin(repository).await;
        self.put(&location, &blob.digest, blob.bytes()).await
    }

    pub(crate) async fn manifest(
        self,
        repository: &str,
        reference: &str,
        pushed: &Manifest,
    ) -> Answer {
        let headers = [("content-type", pushed.media_type.as_str())];
        self.send(Method::PUT, &manifest(repository, reference), &headers, pushed.bytes.clone())
            .await
    }

    pub(crate) async fn image(self, repository: &str, tag: &str, image: &Image) {
        for blob in image.layers.iter().chain([&image.config]) {
            assert_eq!(self.blob(repository, blob).await.status, 201);
        }
        let taken = self.manifest(repository, tag, &image.manifest).await;
        assert_eq!(taken.status, 201, "{taken:?}");
    }

    pub(crate) async fn delete(self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], Bytes::new()).await
    }
}

pub(crate) fn uploads(repository: &str) -> String {
    format!("/v2/{repository}/blobs/uploads/")
}

pub(crate) fn location(answer: &Answer) -> String {
    answer.header("location").unwrap_or_else(|| panic!("no Location: {answer:?}")).to_owned()
}

pub(crate) fn ending(location: &str, digest: &Digest) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}digest={}", digest.as_str().replace(':', "%3A"))
}

/// A body of unknown length.
pub(crate) fn streamed(content: &Content) -> reqwest::Body {
    let pieces: Vec<_> = content
        .pieces(0..content.len())
        .map(|piece| Ok::<_, Infallible>(Frame::data(piece)))
        .collect();
    reqwest::Body::wrap(StreamBody::new(futures_util::stream::iter(pieces)))
}

/// Requests that change something or are about an upload.
pub(crate) fn writes(origin: &Origin) -> usize {
    origin.count(Request::is_write)
}
