//! A bundle in the hands of others: skopeo, podman and containerd read it without roadstead, and pull
//! its images from a sealed roadstead that has imported it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::image::Image;
use crate::support::process::{Need, ready, run};
use crate::support::proxy::{BINARY, Proxy, Settings};
use crate::support::registry::{Auth, PASSWORD, Registry, every_blob_was_fetched_once};
use crate::support::sandbox::Sandbox;
use crate::support::tools::{self, Client as _, Containerd, Podman, Pusher as _};

const NAME: &str = "quay.io/acme/app:1";

/// What was exported, and where from.
struct Exported {
    image: Image,
    registry: Registry,
    near: Settings,
    _proxy: Proxy,
    scratch: TempDir,
}

impl Exported {
    async fn make() -> Self {
        let scratch = TempDir::new().expect("the system has a temporary folder");
        let image = Image::make(scratch.path(), 1, &[20_000, 2 << 20]).await;
        let registry =
            Registry::holding(scratch.path(), Auth::Basic(PASSWORD), &[("acme/app", &image)]).await;
        let near = Settings::mirroring(scratch.path(), &registry);
        let proxy = Proxy::start(&near).await;
        let exported = Self { image, registry, near, _proxy: proxy, scratch };
        exported.roadstead(&exported.near, &["export", NAME, "--out", "bundle"]).await;
        exported
    }

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.scratch.path().join(name);
        fs::create_dir(&folder).expect("the folder is the test's own");
        folder
    }

    /// In the folder of the test.
    async fn roadstead(&self, settings: &Settings, arguments: &[&str]) -> String {
        let mut command = Command::new(BINARY);
        command.args(arguments).arg("--config").arg(settings.file()).env_remove("RUST_LOG");
        command.current_dir(self.scratch.path());
        run("roadstead", self.scratch.path(), command).await
    }

    fn bundle(&self) -> String {
        format!("oci:{}:{NAME}", self.scratch.path().join("bundle").display())
    }
}

/// Fails unless every part of every platform is in the layout.
fn holds_all(layout: &Path, image: &Image) {
    let blobs = image
        .platforms
        .iter()
        .flat_map(|platform| platform.blobs().into_iter().chain([&platform.manifest]));
    for content in blobs.chain([&image.index]) {
        let path = layout.join("blobs/sha256").join(content.digest.hex());
        assert_eq!(fs::read(path).expect("it was copied"), content.bytes);
    }
}

#[tokio::test]
async fn skopeo_podman_and_containerd_read_a_bundle() {
    let needs =
        [Containerd::NEEDS, Podman::NEEDS, &[Need::Program("skopeo"), Need::Program("tar")]];
    if !needs.iter().all(|needs| ready(needs)) {
        return;
    }
    let exported = Exported::make().await;
    holds_all(&exported.scratch.path().join("bundle"), &exported.image);
    every_blob_was_fetched_once(&exported.registry.log("all").await, &exported.image);

    let folder = exported.folder("skopeo");
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "--all", "--preserve-digests", &exported.bundle()]);
    copy.arg(format!("oci:{}:app", folder.join("copy").display())).env("HOME", &folder);
    run("skopeo", &folder, copy).await;
    holds_all(&folder.join("copy"), &exported.image);

    let archive = exported.scratch.path().join("bundle.tar");
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--file").arg(&archive);
    tar.arg("--directory").arg(exported.scratch.path().join("bundle")).arg(".");
    run("tar", exported.scratch.path(), tar).await;

    let sandbox = Sandbox::make(exported.scratch.path()).await;
    let podman = Podman::start(&sandbox, &exported.folder("podman")).await;
    fs::write(podman.logins(), "{}").expect("the folder is the test's own");
    run("podman", exported.scratch.path(), podman.load(&archive, NAME)).await;
    podman.holds(NAME, &exported.image).await;

    let containerd = Containerd::start(&sandbox, &exported.folder("containerd")).await;
    run("ctr", exported.scratch.path(), containerd.import(&archive)).await;
    containerd.holds(NAME, &exported.image).await;
}

#[tokio::test]
async fn clients_pull_what_a_sealed_roadstead_has_imported() {
    let needs = [Containerd::NEEDS, Podman::NEEDS, &[Need::Program("skopeo")]];
    if !needs.iter().all(|needs| ready(needs)) {
        return;
    }
    let exported = Exported::make().await;
    let cold = exported.registry.log("exported").await.len();
    let far = Settings::mirroring(&exported.folder("far"), &exported.registry).with("sealed: true");
    let proxy = Proxy::start(&far).await;
    let said = exported.roadstead(&far, &["import", "bundle", "--unsigned"]).await;
    assert_eq!(said, format!("new       {NAME}\n"));
    tools::containerd(proxy.clients, &exported.folder("containerd"), &exported.image).await;
    tools::podman(proxy.clients, &exported.folder("podman"), &exported.image).await;
    tools::skopeo(proxy.clients, &exported.folder("skopeo"), &exported.image).await;
    let asked = &exported.registry.log("pulled").await[cold..];
    assert!(asked.is_empty(), "{asked:#?}");
}
