//! dockerd with `--registry-mirror`: Docker Hub's images only, no `ns`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::image::Image;
use crate::process::{Process, run, unmounting};

pub(crate) async fn docker(mirror: SocketAddr, folder: &Path, image: &Image) {
    let socket = format!("unix://{}", folder.join("S").display());
    let _daemon = daemon(mirror, folder, &socket).await;
    let name = "docker.io/library/app:1";
    run("docker-pull", folder, docker_command(&socket, &["pull", "--quiet", name])).await;
    let format = "{{json .RepoDigests}} {{json .RootFS.Layers}}";
    let report = run("docker-inspect", folder, docker_command(&socket, &["inspect", "--format", format, name])).await;
    let layers = serde_json::to_string(&image.native().diff_ids()).expect("texts are JSON");
    assert_eq!(report.trim(), format!("[\"app@{}\"] {layers}", image.index.digest));
}

async fn daemon(mirror: SocketAddr, folder: &Path, socket: &str) -> Process {
    let mut command = unmounting("dockerd");
    command.arg("--data-root").arg(folder.join("D")).arg("--exec-root").arg(folder.join("E"));
    command.arg("--pidfile").arg(folder.join("P")).args(["--host", socket, "--storage-driver=vfs"]);
    command.args(["--bridge=none", "--iptables=false", "--registry-mirror"]).arg(format!("http://{mirror}"));
    let mut process = Process::start("dockerd", folder, command);
    let answers = async |process: &Process| process.err().contains("API listen on").then_some(());
    process.until("API", answers).await;
    process
}

fn docker_command(socket: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(["--host", socket]).args(arguments);
    command
}
