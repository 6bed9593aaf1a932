//! Every client, from every kind of upstream: cold, and warm with new storage. The registry's log
//! is the witness.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::image::Image;
use crate::support::process::{Need, ready};
use crate::support::proxy::{Proxy, Settings};
use crate::support::registry::{self, Auth, PASSWORD, Registry, every_blob_was_fetched_once};
use crate::support::tools::{self, Client as _, Containerd, Docker, Podman};

const SKOPEO: &[Need] = &[registry::NEED, Need::Program("skopeo")];

#[tokio::test]
async fn docker_pulls_from_an_anonymous_upstream() {
    cold_then_warm(Auth::Anonymous, Docker::NEEDS, tools::docker).await;
}

#[tokio::test]
async fn docker_pulls_from_an_htpasswd_upstream() {
    cold_then_warm(Auth::Basic(PASSWORD), Docker::NEEDS, tools::docker).await;
}

#[tokio::test]
async fn docker_pulls_from_a_token_upstream() {
    cold_then_warm(Auth::Bearer, Docker::NEEDS, tools::docker).await;
}

#[tokio::test]
async fn containerd_pulls_from_an_anonymous_upstream() {
    cold_then_warm(Auth::Anonymous, Containerd::NEEDS, tools::containerd).await;
}

#[tokio::test]
async fn containerd_pulls_from_an_htpasswd_upstream() {
    cold_then_warm(Auth::Basic(PASSWORD), Containerd::NEEDS, tools::containerd).await;
}

#[tokio::test]
async fn containerd_pulls_from_a_token_upstream() {
    cold_then_warm(Auth::Bearer, Containerd::NEEDS, tools::containerd).await;
}

#[tokio::test]
async fn podman_pulls_from_an_anonymous_upstream() {
    cold_then_warm(Auth::Anonymous, Podman::NEEDS, tools::podman).await;
}

#[tokio::test]
async fn podman_pulls_from_an_htpasswd_upstream() {
    cold_then_warm(Auth::Basic(PASSWORD), Podman::NEEDS, tools::podman).await;
}

#[tokio::test]
async fn podman_pulls_from_a_token_upstream() {
    cold_then_warm(Auth::Bearer, Podman::NEEDS, tools::podman).await;
}

#[tokio::test]
async fn skopeo_pulls_from_an_anonymous_upstream() {
    cold_then_warm(Auth::Anonymous, SKOPEO, tools::skopeo).await;
}

#[tokio::test]
async fn skopeo_pulls_from_an_htpasswd_upstream() {
    cold_then_warm(Auth::Basic(PASSWORD), SKOPEO, tools::skopeo).await;
}

#[tokio::test]
async fn skopeo_pulls_from_a_token_upstream() {
    cold_then_warm(Auth::Bearer, SKOPEO, tools::skopeo).await;
}

#[tokio::test]
async fn three_clients_at_once_cost_the_upstream_one_transfer() {
    if ![Containerd::NEEDS, Podman::NEEDS, SKOPEO].iter().all(|needs| ready(needs)) {
        return;
    }
    let mirror = Mirror::start(Auth::Bearer).await;
    let [first, second, third] = ["first", "second", "third"].map(|name| mirror.folder(name));
    let (address, image) = (mirror.proxy.clients, &mirror.image);
    tokio::join!(
        tools::containerd(address, &first, image),
        tools::podman(address, &second, image),
        tools::skopeo(address, &third, image),
    );
    every_blob_was_fetched_once(&mirror.registry.log("all").await, &mirror.image);
}

async fn cold_then_warm(
    auth: Auth,
    needs: &[Need],
    client: impl AsyncFn(SocketAddr, &Path, &Image),
) {
    if !ready(needs) {
        return;
    }
    let mirror = Mirror::start(auth).await;
    let address = mirror.proxy.clients;
    client(address, &mirror.folder("cold"), &mirror.image).await;
    let cold = mirror.registry.log("cold").await;
    every_blob_was_fetched_once(&cold, &mirror.image);

    client(address, &mirror.folder("warm"), &mirror.image).await;
    let both = mirror.registry.log("warm").await;
    let more: Vec<_> =
        both[cold.len()..].iter().filter(|logged| logged.carries_content()).collect();
    assert!(more.is_empty(), "fetched again for the second pull: {more:#?}");
}

/// A proxy with an empty cache in front of a registry that holds one image under two names.
struct Mirror {
    proxy: Proxy,
    registry: Registry,
    image: Image,
    scratch: TempDir,
}

impl Mirror {
    async fn start(auth: Auth) -> Self {
        let scratch = TempDir::new().expect("the system has a temporary folder");
        let image = Image::make(scratch.path(), 1, &[20_000, 8 << 20]).await;
        let images = [("library/app", &image), ("acme/app", &image)];
        let registry = Registry::holding(scratch.path(), auth, &images).await;
        let proxy = Proxy::start(&Settings::mirroring(scratch.path(), &registry)).await;
        Self { proxy, registry, image, scratch }
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.scratch.path().join(name);
        fs::create_dir(&folder).expect("the folder is the test's own");
        folder
    }
}
