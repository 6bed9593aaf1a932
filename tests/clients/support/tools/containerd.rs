//! containerd and `ctr`: with the `hosts.toml` of docs/clients.md, any registry, named by `ns`; and
//! with what opens one, which it keeps nowhere.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::blocks::marked;
use crate::support::image::Image;
use crate::support::process::{Need, Process, run, unmounting};
use crate::support::registry;
use crate::support::sandbox::Sandbox;

pub(crate) async fn containerd(mirror: SocketAddr, folder: &Path, image: &Image) {
    let hosts = folder.join("hosts");
    fs::create_dir_all(hosts.join("quay.io")).expect("the folder is the test's own");
    // It has `server` too, so that it never goes round the mirror.
    let recipe = marked("docs/clients.md", "containerd").remove(0);
    let text = recipe.code.replace("mirror:5000", &mirror.to_string());
    fs::write(hosts.join("quay.io/hosts.toml"), text).expect("the folder is the test's own");
    let _daemon = daemon(folder).await;
    let name = "quay.io/acme/app:1";
    let ctr = |arguments: &[&str]| ctr(Command::new("ctr"), folder, arguments);
    let mut pull = ctr(&["images", "pull", "--snapshotter", "native", "--hosts-dir"]);
    run("ctr-pull", folder, {
        pull.arg(hosts).arg(name);
        pull
    })
    .await;
    listed(folder, ctr, name, image).await;
    let snapshots =
        run("ctr-snapshots", folder, ctr(&["snapshots", "--snapshotter", "native", "list"])).await;
    assert!(snapshots.contains(image.native().layers[0].diff_id.as_str()), "{snapshots}");
}

/// A daemon; `ctr` does the pulling.
pub(crate) struct Containerd {
    sandbox: Sandbox,
    folder: PathBuf,
    _daemon: Process,
}

impl Containerd {
    pub(crate) const NEEDS: &'static [Need] = &[
        registry::NEED,
        Need::Root,
        Need::Program("unshare"),
        Need::Program("containerd"),
        Need::Program("ctr"),
    ];

    pub(crate) async fn start(sandbox: &Sandbox, folder: &Path) -> Self {
        Self { sandbox: sandbox.clone(), folder: folder.to_owned(), _daemon: daemon(folder).await }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        ctr(self.sandbox.command("ctr"), &self.folder, arguments)
    }

    /// Pulls with `options`, which say what opens the registry.
    pub(crate) fn pull(&self, options: &[&str], name: &str) -> Command {
        let mut command = self.command(&["images", "pull", "--snapshotter", "native"]);
        command.args(options).arg(name);
        command
    }

    /// Takes the images of an archive.
    pub(crate) fn import(&self, archive: &Path) -> Command {
        let mut command =
            self.command(&["images", "import", "--snapshotter", "native", "--all-platforms"]);
        command.arg(archive);
        command
    }

    /// Fails unless `image` was pulled as `name`.
    pub(crate) async fn holds(&self, name: &str, image: &Image) {
        listed(&self.folder, |arguments| self.command(arguments), name, image).await;
    }
}

async fn listed(folder: &Path, ctr: impl Fn(&[&str]) -> Command, name: &str, image: &Image) {
    let listed = run("ctr-images", folder, ctr(&["images", "list"])).await;
    assert!(
        listed.contains(&format!("{name} {} {}", image.index.media_type, image.index.digest)),
        "{listed}"
    );
    let content = run("ctr-content", folder, ctr(&["content", "list", "--quiet"])).await;
    for blob in image.native().blobs() {
        assert!(content.contains(blob.digest.as_str()), "{content}");
    }
}

async fn daemon(folder: &Path) -> Process {
    let config = folder.join("containerd.toml");
    let text = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
    fs::write(&config, text).expect("the folder is the test's own");
    let mut command = unmounting("containerd");
    command.arg("--config").arg(config).arg("--root").arg(folder.join("root"));
    command.arg("--state").arg(folder.join("state")).arg("--address").arg(folder.join("S"));
    let mut process = Process::start("containerd", folder, command);
    let answers = async |process: &Process| {
        process.err().contains("containerd successfully booted").then_some(())
    };
    process.until("API", answers).await;
    process
}

fn ctr(mut command: Command, folder: &Path, arguments: &[&str]) -> Command {
    command.arg("--address").arg(folder.join("S")).args(arguments);
    command
}
