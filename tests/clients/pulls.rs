//! Every client, from every kind of upstream: cold, and warm with new storage. The registry's log is the witness.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use crate::image::Image;
use crate::process::{Need, ready};
use crate::proxy::{Proxy, Settings};
use crate::registry::{self, Auth, Logged, Registry};
use crate::tools;

const DOCKER: &[Need] = &[registry::NEED, Need::Root, Need::Program("dockerd"), Need::Program("docker")];
const CONTAINERD: &[Need] = &[registry::NEED, Need::Root, Need::Program("containerd"), Need::Program("ctr")];
const PODMAN: &[Need] = &[registry::NEED, Need::Root, Need::Program("podman")];
const SKOPEO: &[Need] = &[registry::NEED, Need::Program("skopeo")];

#[tokio::test]
async fn docker_pulls_from_an_anonymous_upstream() {
    cold_then_warm(Auth::Anonymous, DOCKER, tools::docker).await;
}

#[tokio::test]
async fn docker_pulls_from_an_htpasswd_upstream() {
    cold_then_warm(Auth::Basic, DOCKER, tools::docker).await;
}

#[tokio::test]
async fn docker_pulls_from_a_token_upstream() {
    cold_then_warm(Auth::Bearer, DOCKER, tools::docker).await;
}

#[tokio::test]
async fn containerd_pulls_from_an_anonymous_upstream() {
    cold_then_warm(Auth::Anonymous, CONTAINERD, tools::containerd).await;
}

#[tokio::test]
async fn containerd_pulls_from_an_htpasswd_upstream() {
    cold_then_warm(Auth::Basic, CONTAINERD, tools::containerd).await;
}

#[tokio::test]
async fn containerd_pulls_from_a_token_upstream() {
    cold_then_warm(Auth::Bearer, CONTAINERD, tools::containerd).await;
}

#[tokio::test]
async fn podman_pulls_from_an_anonymous_upstream() {
    cold_then_warm(Auth::Anonymous, PODMAN, tools::podman).await;
}

#[tokio::test]
async fn podman_pulls_from_an_htpasswd_upstream() {
    cold_then_warm(Auth::Basic, PODMAN, tools::podman).await;
}

#[tokio::test]
async fn podman_pulls_from_a_token_upstream() {
    cold_then_warm(Auth::Bearer, PODMAN, tools::podman).await;
}

#[tokio::test]
async fn skopeo_pulls_from_an_anonymous_upstream() {
    cold_then_warm(Auth::Anonymous, SKOPEO, tools::skopeo).await;
}

#[tokio::test]
async fn skopeo_pulls_from_an_htpasswd_upstream() {
    cold_then_warm(Auth::Basic, SKOPEO, tools::skopeo).await;
}

#[tokio::test]
async fn skopeo_pulls_from_a_token_upstream() {
    cold_then_warm(Auth::Bearer, SKOPEO, tools::skopeo).await;
}

async fn cold_then_warm(auth: Auth, needs: &[Need], client: impl AsyncFn(SocketAddr, &Path, &Image)) {
    if !ready(needs) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let image = Image::make(scratch.path(), 1, &[20_000, 8 << 20]).await;
    let images = [("library/app", &image), ("acme/app", &image)];
    let registry = Registry::holding(scratch.path(), auth, &images).await;
    let proxy = Proxy::start(&Settings::mirroring(scratch.path(), &registry)).await;

    client(proxy.clients, &folder(&scratch, "cold"), &image).await;
    let cold = registry.log("cold").await;
    for blob in image.native().blobs() {
        assert_eq!(fetches(&cold, blob), 1, "{} in the first pull: {cold:#?}", blob.digest);
    }

    client(proxy.clients, &folder(&scratch, "warm"), &image).await;
    let both = registry.log("warm").await;
    let more: Vec<_> = both[cold.len()..].iter().filter(|logged| logged.carries_content()).collect();
    assert!(more.is_empty(), "fetched again for the second pull: {more:#?}");
}

fn fetches(log: &[Logged], content: &crate::image::Content) -> usize {
    log.iter().filter(|logged| logged.fetches(content)).count()
}

fn folder(scratch: &TempDir, name: &str) -> std::path::PathBuf {
    let folder = scratch.path().join(name);
    fs::create_dir(&folder).expect("the folder is the test's own");
    folder
}
