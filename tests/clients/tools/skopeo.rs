//! skopeo with the upstream as the first component of the name, every platform of the image.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use roadstead::oci::{Algorithm, Digest};

use crate::image::{Content, Image};
use crate::process::run;

pub(crate) async fn skopeo(mirror: SocketAddr, folder: &Path, image: &Image) {
    let source = format!("docker://{mirror}/quay.io/acme/app:1");
    let layout = folder.join("layout");
    let mut copy = command(folder, &["copy", "--all", "--preserve-digests", "--src-tls-verify=false", &source]);
    run("skopeo-copy", folder, {
        copy.arg(format!("oci:{}:app", layout.display()));
        copy
    })
    .await;
    let in_layout = |content: &Content| fs::read(layout.join("blobs/sha256").join(content.digest.hex()));
    for content in image.platforms.iter().flat_map(|platform| platform.blobs()).chain([&image.index]) {
        let bytes = in_layout(content).expect("every blob of the image was copied");
        assert_eq!(Digest::of(Algorithm::Sha256, &bytes), content.digest);
    }
    let raw =
        run("skopeo-inspect", folder, command(folder, &["inspect", "--raw", "--tls-verify=false", &source])).await;
    assert_eq!(Digest::of(Algorithm::Sha256, raw.as_bytes()), image.index.digest);
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("skopeo");
    command.env("HOME", folder).arg("--insecure-policy").args(arguments);
    command
}
