//! containerd and `ctr` with a `hosts.toml`: any registry, named by `ns`.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::image::Image;
use crate::process::{Process, run, unmounting};

pub(crate) async fn containerd(mirror: SocketAddr, folder: &Path, image: &Image) {
    let hosts = folder.join("hosts");
    fs::create_dir_all(hosts.join("quay.io")).expect("the folder is the test's own");
    // `server` too, so that it never goes round the mirror.
    let text =
        format!("server = \"http://{mirror}\"\n[host.\"http://{mirror}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
    fs::write(hosts.join("quay.io/hosts.toml"), text).expect("the folder is the test's own");
    let _daemon = daemon(folder).await;
    let name = "quay.io/acme/app:1";
    let mut pull = ctr(folder, &["images", "pull", "--snapshotter", "native", "--hosts-dir"]);
    run("ctr-pull", folder, {
        pull.arg(hosts).arg(name);
        pull
    })
    .await;
    let listed = run("ctr-images", folder, ctr(folder, &["images", "list"])).await;
    assert!(listed.contains(&format!("{name} {} {}", image.index.media_type, image.index.digest)), "{listed}");
    let content = run("ctr-content", folder, ctr(folder, &["content", "list", "--quiet"])).await;
    for blob in image.native().blobs() {
        assert!(content.contains(blob.digest.as_str()), "{content}");
    }
    let snapshots = run("ctr-snapshots", folder, ctr(folder, &["snapshots", "--snapshotter", "native", "list"])).await;
    assert!(snapshots.contains(image.native().layers[0].diff_id.as_str()), "{snapshots}");
}

async fn daemon(folder: &Path) -> Process {
    let config = folder.join("containerd.toml");
    let text = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
    fs::write(&config, text).expect("the folder is the test's own");
    let mut command = unmounting("containerd");
    command.arg("--config").arg(config).arg("--root").arg(folder.join("root"));
    command.arg("--state").arg(folder.join("state")).arg("--address").arg(folder.join("S"));
    let mut process = Process::start("containerd", folder, command);
    let answers = async |process: &Process| process.err().contains("containerd successfully booted").then_some(());
    process.until("API", answers).await;
    process
}

fn ctr(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(folder.join("S")).args(arguments);
    command
}
