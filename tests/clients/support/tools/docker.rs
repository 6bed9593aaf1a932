//! dockerd: with the `daemon.json` of docs/clients.md, as a mirror for Docker Hub's images only, no
//! `ns`; and with logins of its client.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Client, Pusher};
use crate::blocks::marked;
use crate::support::image::Image;
use crate::support::process::{Need, Process, run};
use crate::support::registry;
use crate::support::sandbox::Sandbox;

pub(crate) async fn docker(mirror: SocketAddr, folder: &Path, image: &Image) {
    let sandbox = Sandbox::make(folder).await;
    let mut dockerd = sandbox.command("dockerd");
    let recipe = marked("docs/clients.md", "docker").remove(0);
    let config = folder.join("daemon.json");
    fs::write(&config, recipe.code.replace("mirror:5000", &mirror.to_string()))
        .expect("the folder is the test's own");
    dockerd.arg("--config-file").arg(config);
    let _daemon = daemon(dockerd, folder).await;
    let name = "docker.io/library/app:1";
    run("docker-pull", folder, command(&sandbox, folder, &["pull", "--quiet", name])).await;
    inspected(
        folder,
        command(&sandbox, folder, &INSPECT),
        name,
        &format!("app@{}", image.index.digest),
        image,
    )
    .await;
}

/// A daemon, and the client's own folder.
pub(crate) struct Docker {
    sandbox: Sandbox,
    folder: PathBuf,
    _daemon: Process,
}

impl Docker {
    fn command(&self, arguments: &[&str]) -> Command {
        command(&self.sandbox, &self.folder, arguments)
    }

    /// A line of shell in which docker means this one.
    pub(crate) fn shell(&self, line: &str) -> Command {
        let mut command = self.sandbox.command("sh");
        command
            .args(["-c", line])
            .env("DOCKER_HOST", socket(&self.folder))
            .env("DOCKER_CONFIG", &self.folder);
        command
    }
}

impl Client for Docker {
    const NEEDS: &'static [Need] = &[
        registry::NEED,
        Need::Root,
        Need::Program("unshare"),
        Need::Program("dockerd"),
        Need::Program("docker"),
    ];

    async fn start(sandbox: &Sandbox, folder: &Path) -> Self {
        let daemon = daemon(sandbox.command("dockerd"), folder).await;
        Self { sandbox: sandbox.clone(), folder: folder.to_owned(), _daemon: daemon }
    }

    fn login(&self, host: &str, user: &str, password: &str) -> Command {
        self.command(&["login", "--username", user, "--password", password, host])
    }

    fn pull(&self, name: &str) -> Command {
        self.command(&["pull", name])
    }

    async fn holds(&self, name: &str, image: &Image) {
        let (repository, _) = name.rsplit_once(':').expect("a name with a tag");
        let digest = format!("{repository}@{}", image.index.digest);
        inspected(&self.folder, self.command(&INSPECT), name, &digest, image).await;
    }

    fn logins(&self) -> PathBuf {
        self.folder.join("config.json")
    }
}

impl Pusher for Docker {
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

const INSPECT: [&str; 3] = ["inspect", "--format", "{{json .RepoDigests}} {{json .RootFS.Layers}}"];

async fn inspected(folder: &Path, mut inspect: Command, name: &str, digest: &str, image: &Image) {
    inspect.arg(name);
    let report = run("docker-inspect", folder, inspect).await;
    let layers = serde_json::to_string(&image.native().diff_ids()).expect("texts are JSON");
    // Other names of the image stand there, too.
    assert!(
        report.contains(&format!("\"{digest}\"")) && report.trim().ends_with(&layers),
        "{report}"
    );
}

fn socket(folder: &Path) -> String {
    format!("unix://{}", folder.join("S").display())
}

async fn daemon(mut command: Command, folder: &Path) -> Process {
    command.arg("--data-root").arg(folder.join("D")).arg("--exec-root").arg(folder.join("E"));
    command.arg("--pidfile").arg(folder.join("P")).args([
        "--host",
        &socket(folder),
        "--storage-driver=vfs",
    ]);
    command.args(["--bridge=none", "--iptables=false"]);
    let mut process = Process::start("dockerd", folder, command);
    let answers = async |process: &Process| process.err().contains("API listen on").then_some(());
    process.until("API", answers).await;
    process
}

fn command(sandbox: &Sandbox, folder: &Path, arguments: &[&str]) -> Command {
    let mut command = sandbox.command("docker");
    command.args(["--host", &socket(folder)]).args(arguments).env("DOCKER_CONFIG", folder);
    command
}
