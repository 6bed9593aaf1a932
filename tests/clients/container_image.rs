//! The image's runtime stage without an engine: the same root file system, read-only, as the same
//! user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::http_client::pull;
use crate::support::image::Image;
use crate::support::process::{Need, Process, ready, run};
use crate::support::proxy::{Proxy, Settings};
use crate::support::registry::{Auth, NEED, Registry};

/// What an engine does with the image, in shell: root read-only, the volume writable, the image's
/// user.
const ENGINE: &str = r#"
mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" &&
mount -t tmpfs -o mode=0700,uid=65532,gid=65532 tmpfs "$0/var/lib/roadstead" &&
exec setpriv --no-new-privs chroot --userspec=65532:65532 "$0" /roadstead serve --config /etc/roadstead/config.yaml
"#;

#[tokio::test]
async fn the_image_serves_from_a_read_only_root_without_privileges() {
    if !ready(&[NEED, Need::Root, Need::Program("ldd")]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let image = Image::make(scratch.path(), 4, &[1 << 20]).await;
    let registry =
        Registry::holding(scratch.path(), Auth::Anonymous, &[("acme/app", &image)]).await;
    let root = root(scratch.path()).await;
    let settings = Settings::mirroring(scratch.path(), &registry).with_cache("/var/lib/roadstead");
    fs::create_dir_all(root.join("etc/roadstead")).expect("the folder is the test's own");
    fs::write(root.join("etc/roadstead/config.yaml"), settings.text())
        .expect("the folder is the test's own");

    let mut engine = Command::new("unshare");
    engine.args(["--mount", "--propagation", "private", "sh", "-c", ENGINE]).arg(&root);
    let proxy = Proxy::watch(Process::start("roadstead", &settings.folder, engine)).await;
    pull(proxy.clients, "/v2/quay.io/acme/app", "1", &image)
        .await
        .expect("the image is pulled through");
    let process = PathBuf::from(format!("/proc/{}", proxy.process.pid()));
    assert!(!fs::read_to_string(process.join("status")).expect("it runs").contains("Uid:\t0"));
    assert!(fs::write(process.join("root/new"), "").is_err(), "its root can be written to");
}

#[test]
fn the_dockerfile_ships_that_root_and_that_user() {
    let text =
        fs::read_to_string(project().join("Dockerfile")).expect("the project has a Dockerfile");
    let (_, runtime) = text.split_once("FROM scratch").expect("the last stage starts from nothing");
    let build = &text[..text.len() - runtime.len()];
    assert!(build.contains("deploy/rootfs target/release/roadstead /rootfs"));
    assert!(runtime.contains("COPY --from=build /rootfs /"));
    assert!(runtime.contains("USER 65532:65532"));
    assert!(runtime.contains("ENTRYPOINT [\"/roadstead\"]"));
}

async fn root(folder: &Path) -> PathBuf {
    let root = folder.join("root");
    let mut command = Command::new(project().join("deploy/rootfs"));
    run("rootfs", folder, {
        command.arg(env!("CARGO_BIN_EXE_roadstead")).arg(&root);
        command
    })
    .await;
    root
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
