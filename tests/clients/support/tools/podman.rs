//! podman: with the mirror in `registries.conf` of docs/clients.md, any registry, named by a path
//! prefix; and with logins.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Client, Pusher};
use crate::blocks::marked;
use crate::support::image::Image;
use crate::support::process::{Need, run};
use crate::support::registry;
use crate::support::sandbox::Sandbox;

pub(crate) async fn podman(mirror: SocketAddr, folder: &Path, image: &Image) {
    let config = folder.join("registries.conf");
    // Nothing listens at the location that stands for the origin: what arrives came from the
    // mirror.
    let recipe = marked("docs/clients.md", "podman").remove(0);
    let origin = "location = \"quay.io\"";
    assert!(recipe.code.contains(origin), "{recipe:?}");
    let text = recipe
        .code
        .replace("mirror:5000", &mirror.to_string())
        .replace(origin, "location = \"127.0.0.1:1\"\ninsecure = true");
    fs::write(&config, text).expect("the folder is the test's own");
    let command = |arguments: &[&str]| {
        let mut command = command(Command::new("podman"), folder, arguments);
        command.env("CONTAINERS_REGISTRIES_CONF", &config).env("HOME", folder);
        command
    };
    let name = "quay.io/acme/app:1";
    run("podman-pull", folder, command(&["pull", "--quiet", name])).await;
    inspected(folder, command(&INSPECT), name, image).await;
}

/// Its storage and its logins; there is no daemon.
pub(crate) struct Podman {
    sandbox: Sandbox,
    folder: PathBuf,
}

impl Podman {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(self.sandbox.command("podman"), &self.folder, arguments);
        command.env("REGISTRY_AUTH_FILE", self.logins());
        command
    }
}

impl Client for Podman {
    const NEEDS: &'static [Need] =
        &[registry::NEED, Need::Root, Need::Program("unshare"), Need::Program("podman")];

    async fn start(sandbox: &Sandbox, folder: &Path) -> Self {
        Self { sandbox: sandbox.clone(), folder: folder.to_owned() }
    }

    fn login(&self, host: &str, user: &str, password: &str) -> Command {
        self.command(&["login", "--username", user, "--password", password, host])
    }

    fn pull(&self, name: &str) -> Command {
        self.command(&["pull", name])
    }

    async fn holds(&self, name: &str, image: &Image) {
        inspected(&self.folder, self.command(&INSPECT), name, image).await;
    }

    fn logins(&self) -> PathBuf {
        self.folder.join("auth.json")
    }
}

impl Pusher for Podman {
    fn load(&self, archive: &Path, _: &str) -> Command {
        let mut command = self.command(&["load", "--input"]);
        command.arg(archive);
        command
    }

    fn tag(&self, name: &str, other: &str) -> Command {
        self.command(&["tag", name, other])
    }

    fn push(&self, name: &str) -> Command {
        self.command(&["push", name])
    }
}

const INSPECT: [&str; 4] =
    ["image", "inspect", "--format", "{{json .RepoDigests}} {{json .RootFS.Layers}}"];

async fn inspected(folder: &Path, mut inspect: Command, name: &str, image: &Image) {
    inspect.arg(name);
    let report = run("podman-inspect", folder, inspect).await;
    let (repository, _) = name.rsplit_once(':').expect("a name with a tag");
    assert!(report.contains(&format!("{repository}@{}", image.index.digest)), "{report}");
    let layers = serde_json::to_string(&image.native().diff_ids()).expect("texts are JSON");
    assert!(report.trim().ends_with(&layers), "{report}");
}

fn command(mut command: Command, folder: &Path, arguments: &[&str]) -> Command {
    command = storage(command, folder);
    command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]).args(arguments);
    command
}

/// With storage in `folder`.
pub(super) fn storage(mut command: Command, folder: &Path) -> Command {
    command.arg("--root").arg(folder.join("root")).arg("--runroot").arg(folder.join("run"));
    command.args(["--storage-driver", "vfs"]);
    command
}
