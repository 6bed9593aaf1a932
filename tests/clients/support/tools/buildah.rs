//! buildah: with logins. Its storage is of podman's kind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::podman::storage;
use super::{Client, Pusher};
use crate::support::image::Image;
use crate::support::process::{Need, run};
use crate::support::registry;
use crate::support::sandbox::Sandbox;

/// Its storage and its logins; there is no daemon.
pub(crate) struct Buildah {
    sandbox: Sandbox,
    folder: PathBuf,
}

impl Buildah {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = storage(self.sandbox.command("buildah"), &self.folder);
        command.args(arguments).env("REGISTRY_AUTH_FILE", self.logins());
        command
    }
}

impl Client for Buildah {
    const NEEDS: &'static [Need] =
        &[registry::NEED, Need::Root, Need::Program("unshare"), Need::Program("buildah")];

    async fn start(sandbox: &Sandbox, folder: &Path) -> Self {
        let client = Self { sandbox: sandbox.clone(), folder: folder.to_owned() };
        // It wants the file to be there.
        fs::write(client.logins(), "{}").expect("the folder is the test's own");
        client
    }

    fn login(&self, host: &str, user: &str, password: &str) -> Command {
        self.command(&["login", "--username", user, "--password", password, host])
    }

    fn pull(&self, name: &str) -> Command {
        self.command(&["pull", name])
    }

    async fn holds(&self, name: &str, image: &Image) {
        let report = run(
            "buildah-inspect",
            &self.folder,
            self.command(&["inspect", "--type", "image", name]),
        )
        .await;
        let report: serde_json::Value = serde_json::from_str(&report).expect("the report is JSON");
        assert_eq!(report["FromImageDigest"], image.native().manifest.digest.as_str());
        assert_eq!(
            report["OCIv1"]["rootfs"]["diff_ids"],
            serde_json::json!(image.native().diff_ids())
        );
    }

    fn logins(&self) -> PathBuf {
        self.folder.join("auth.json")
    }
}

impl Pusher for Buildah {
    fn load(&self, archive: &Path, _: &str) -> Command {
        self.pull(&format!("docker-archive:{}", archive.display()))
    }

    fn tag(&self, name: &str, other: &str) -> Command {
        self.command(&["tag", name, other])
    }

    fn push(&self, name: &str) -> Command {
        self.command(&["push", name])
    }
}
