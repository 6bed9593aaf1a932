//! The tests' own pushes, in docker's order: each blob by HEAD, POST, PATCH and PUT, then the
//! manifests.

use http::{HeaderMap, Method, StatusCode, header};
use reqwest::{Body, RequestBuilder, Response};
use url::Url;

use super::image::{Content, Image};

const OCTETS: &str = "application/octet-stream";

/// A client of the tests' own that pushes.
#[derive(Clone, Debug)]
pub(crate) struct PushClient {
    client: reqwest::Client,
    root: Url,
    /// The value of a header, if it takes a credential.
    authorization: Option<String>,
}

impl PushClient {
    /// `root` is scheme, host and port.
    pub(crate) fn to(root: &str, client: reqwest::Client, authorization: Option<String>) -> Self {
        Self { client, root: root.parse().expect("a URL"), authorization }
    }

    /// Every platform, and the index as `tag`.
    ///
    /// # Errors
    /// The path that it broke off at, and why.
    pub(crate) async fn push_image(
        &self,
        repository: &str,
        tag: &str,
        image: &Image,
    ) -> Result<(), String> {
        for platform in &image.platforms {
            for blob in platform.blobs() {
                self.push_blob(repository, blob).await?;
            }
            self.push_manifest(repository, platform.manifest.digest.as_str(), &platform.manifest)
                .await?;
        }
        self.push_manifest(repository, tag, &image.index).await.map(drop)
    }

    /// Nothing is sent if it is there already.
    pub(crate) async fn push_blob(&self, repository: &str, blob: &Content) -> Result<(), String> {
        let there =
            self.request(Method::HEAD, self.url(&format!("{repository}/blobs/{}", blob.digest)));
        if sent(there, None).await?.status() == StatusCode::OK {
            return Ok(());
        }
        let begin = self.request(Method::POST, self.url(&format!("{repository}/blobs/uploads/")));
        let upload = self.location(&sent(begin, Some(StatusCode::ACCEPTED)).await?);
        let pass = self.request(Method::PATCH, upload).header(header::CONTENT_TYPE, OCTETS);
        let passed = sent(pass.body(blob.bytes.clone()), Some(StatusCode::ACCEPTED)).await?;
        let mut whole = self.location(&passed);
        whole.query_pairs_mut().append_pair("digest", blob.digest.as_str());
        sent(self.request(Method::PUT, whole).body(Body::default()), Some(StatusCode::CREATED))
            .await
            .map(drop)
    }

    /// What the answer says in its headers.
    pub(crate) async fn push_manifest(
        &self,
        repository: &str,
        reference: &str,
        manifest: &Content,
    ) -> Result<HeaderMap, String> {
        let put =
            self.request(Method::PUT, self.url(&format!("{repository}/manifests/{reference}")));
        let put =
            put.header(header::CONTENT_TYPE, manifest.media_type).body(manifest.bytes.clone());
        sent(put, Some(StatusCode::CREATED)).await.map(|answer| answer.headers().clone())
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        let request = self.client.request(method, url);
        self.authorization
            .iter()
            .fold(request, |request, value| request.header(header::AUTHORIZATION, value))
    }

    fn url(&self, path: &str) -> Url {
        self.root.join(&format!("/v2/{path}")).expect("a path")
    }

    fn location(&self, answer: &Response) -> Url {
        let location = answer.headers()[header::LOCATION].to_str().expect("a Location is text");
        self.root.join(location).expect("a Location is a URL")
    }
}

/// The answer, which has to be of that status, if one is named.
async fn sent(request: RequestBuilder, expected: Option<StatusCode>) -> Result<Response, String> {
    let answer = request.send().await.map_err(|error| format!("{error:?}"))?;
    let status = answer.status();
    if expected.is_none_or(|expected| expected == status) {
        return Ok(answer);
    }
    let path = answer.url().path().to_owned();
    Err(format!("{path}: {status} {}", answer.text().await.unwrap_or_default()))
}
