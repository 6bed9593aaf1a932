//! podman with a mirror in `registries.conf`: any registry, named by a path prefix.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::image::Image;
use crate::process::run;

pub(crate) async fn podman(mirror: SocketAddr, folder: &Path, image: &Image) {
    let config = folder.join("registries.conf");
    // Nothing listens at the location that stands for the origin: what arrives came from the mirror.
    let text = format!(
        "[[registry]]\nprefix = \"quay.io\"\nlocation = \"127.0.0.1:1\"\ninsecure = true\n\
         [[registry.mirror]]\nlocation = \"{mirror}/quay.io\"\ninsecure = true\n"
    );
    fs::write(&config, text).expect("the folder is the test's own");
    let name = "quay.io/acme/app:1";
    run("podman-pull", folder, command(folder, &["pull", "--quiet", name])).await;
    let format = "{{json .RepoDigests}} {{json .RootFS.Layers}}";
    let report = run("podman-inspect", folder, command(folder, &["image", "inspect", "--format", format, name])).await;
    assert!(report.contains(&format!("quay.io/acme/app@{}", image.index.digest)), "{report}");
    let layers = serde_json::to_string(&image.native().diff_ids()).expect("texts are JSON");
    assert!(report.trim().ends_with(&layers), "{report}");
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("podman");
    command.env("CONTAINERS_REGISTRIES_CONF", folder.join("registries.conf")).env("HOME", folder);
    command.arg("--root").arg(folder.join("root")).arg("--runroot").arg(folder.join("run"));
    command.args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
    command.args(arguments);
    command
}
