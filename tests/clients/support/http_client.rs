//! The tests' own HTTP: a plain client, and a pull the way clients do it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use roadstead::oci::{Algorithm, Digest};

use super::image::{Content, INDEX, Image, MANIFEST};
use super::process::PATIENCE;

/// A client without proxies and redirects, whose every request has a deadline.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .timeout(PATIENCE)
        .build()
        .expect("a client without certificates can be built")
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

impl Answer {
    /// What the first error says.
    pub(crate) fn message(&self) -> String {
        let document: serde_json::Value =
            serde_json::from_slice(&self.body).expect("errors come as JSON");
        document["errors"][0]["message"].as_str().expect("an error has a message").to_owned()
    }
}

/// GET, to the end of the body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> reqwest::Result<Answer> {
    let request = client().request(Method::GET, format!("http://{address}{path}"));
    let response = request.header("accept", format!("{INDEX}, {MANIFEST}, */*")).send().await?;
    Ok(Answer { status: response.status(), body: response.bytes().await? })
}

/// The status of a GET, or nothing if nobody answers.
pub(crate) async fn status(address: SocketAddr, path: &str) -> Option<StatusCode> {
    get(address, path).await.ok().map(|answer| answer.status)
}

/// Pulls tag, index, manifest and all blobs at once, and compares every byte with `image`. `prefix`
/// ends the path before the manifests: `/v2/quay.io/acme/app`.
pub(crate) async fn pull(
    address: SocketAddr,
    prefix: &str,
    tag: &str,
    image: &Image,
) -> Result<(), String> {
    let platform = image.native();
    get_exactly(address, &format!("{prefix}/manifests/{tag}"), &image.index).await?;
    get_exactly(
        address,
        &format!("{prefix}/manifests/{}", platform.manifest.digest),
        &platform.manifest,
    )
    .await?;
    let blobs = platform.blobs();
    let pulls = blobs.iter().map(async |blob| {
        get_exactly(address, &format!("{prefix}/blobs/{}", blob.digest), blob).await
    });
    join_all(pulls).await.into_iter().collect()
}

/// Fetches one path that must hold `content`. Wrong bytes in a complete answer panic, at any time;
/// anything less is an error.
pub(crate) async fn get_exactly(
    address: SocketAddr,
    path: &str,
    content: &Content,
) -> Result<(), String> {
    let answer = get(address, path).await.map_err(|error| format!("{path}: {error:?}"))?;
    if answer.status != StatusCode::OK {
        return Err(format!("{path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body)));
    }
    assert_eq!(Digest::of(Algorithm::Sha256, &answer.body), content.digest, "{path}: wrong bytes");
    Ok(())
}
