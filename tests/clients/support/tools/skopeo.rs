//! skopeo: with the upstream as the first component of the name, every platform of the image; and
//! with logins.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use roadstead::oci::{Algorithm, Digest};

use super::{Client, Pusher};
use crate::support::image::{Content, Image};
use crate::support::process::{Need, run};
use crate::support::registry::{self, Registry, USERNAME};
use crate::support::sandbox::Sandbox;

pub(crate) async fn skopeo(mirror: SocketAddr, folder: &Path, image: &Image) {
    let source = format!("docker://{mirror}/quay.io/acme/app:1");
    let layout = folder.join("layout");
    let mut copy = command(
        folder,
        &["copy", "--all", "--preserve-digests", "--src-tls-verify=false", &source],
    );
    run("skopeo-copy", folder, {
        copy.arg(format!("oci:{}:app", layout.display()));
        copy
    })
    .await;
    let everything =
        image.platforms.iter().flat_map(|platform| platform.blobs()).chain([&image.index]);
    copied(&layout, everything);
    let raw = run(
        "skopeo-inspect",
        folder,
        command(folder, &["inspect", "--raw", "--tls-verify=false", &source]),
    )
    .await;
    assert_eq!(Digest::of(Algorithm::Sha256, raw.as_bytes()), image.index.digest);
}

/// Its copies and its logins.
pub(crate) struct Skopeo {
    sandbox: Sandbox,
    folder: PathBuf,
}

impl Skopeo {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.sandbox.command("skopeo");
        command.arg("--insecure-policy").args(arguments).env("REGISTRY_AUTH_FILE", self.logins());
        command
    }

    /// Each name has a layout of its own.
    fn layout(&self, name: &str) -> PathBuf {
        self.folder.join(name.replace(['/', ':'], "-"))
    }

    fn copy(&self, from: &str, to: &str) -> Command {
        self.command(&["copy", from, to])
    }

    fn stored(&self, name: &str) -> String {
        format!("oci:{}:app", self.layout(name).display())
    }
}

impl Client for Skopeo {
    const NEEDS: &'static [Need] =
        &[registry::NEED, Need::Root, Need::Program("unshare"), Need::Program("skopeo")];

    async fn start(sandbox: &Sandbox, folder: &Path) -> Self {
        Self { sandbox: sandbox.clone(), folder: folder.to_owned() }
    }

    fn login(&self, host: &str, user: &str, password: &str) -> Command {
        self.command(&["login", "--username", user, "--password", password, host])
    }

    fn pull(&self, name: &str) -> Command {
        self.command(&[
            "copy",
            "--preserve-digests",
            &format!("docker://{name}"),
            &self.stored(name),
        ])
    }

    async fn holds(&self, name: &str, image: &Image) {
        let platform = image.native();
        copied(&self.layout(name), platform.blobs().into_iter().chain([&platform.manifest]));
    }

    fn logins(&self) -> PathBuf {
        self.folder.join("auth.json")
    }
}

impl Pusher for Skopeo {
    fn load(&self, archive: &Path, name: &str) -> Command {
        self.copy(&format!("docker-archive:{}", archive.display()), &self.stored(name))
    }

    fn tag(&self, name: &str, other: &str) -> Command {
        self.copy(&self.stored(name), &self.stored(other))
    }

    fn push(&self, name: &str) -> Command {
        self.copy(&self.stored(name), &format!("docker://{name}"))
    }
}

fn copied<'a>(layout: &Path, contents: impl Iterator<Item = &'a Content>) {
    for content in contents {
        let bytes = fs::read(layout.join("blobs/sha256").join(content.digest.hex()));
        let bytes = bytes.expect("every blob of the image was copied");
        assert_eq!(Digest::of(Algorithm::Sha256, &bytes), content.digest);
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("skopeo");
    command.env("HOME", folder).arg("--insecure-policy").args(arguments);
    command
}

/// The image as `docker save` writes it: nothing in there says what its layers were compressed to.
pub(crate) async fn archive(
    from: &Registry,
    repository: &str,
    name: &str,
    folder: &Path,
) -> PathBuf {
    let file = folder.join("image.tar");
    let mut copy = Command::new("skopeo");
    copy.args(["--insecure-policy", "copy", "--src-tls-verify=false"]).env("HOME", folder);
    if let Some(password) = from.auth.password() {
        copy.arg("--src-creds").arg(format!("{USERNAME}:{password}"));
    }
    copy.arg(format!("docker://{}/{repository}:1", from.address));
    copy.arg(format!("docker-archive:{}:{name}", file.display()));
    run("archive", folder, copy).await;
    file
}
