//! kubelet's own code asks the credential provider and decodes what it says: `tests/kubelet`, a
//! program in Go.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::support::licence_file::put_licence;
use crate::support::process::{Need, PATIENCE, Process, ready};

/// The first time it fetches its modules and compiles them.
const BUILDING: Duration = Duration::from_mins(10);

async fn build(scratch: &Path) -> PathBuf {
    let program = scratch.join("kubelet");
    let mut command = Command::new("go");
    command.args(["build", "-buildvcs=false", "-o"]).arg(&program).arg(".").env("CGO_ENABLED", "0");
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubelet"));
    let status = Process::start("build", scratch, command).exit(BUILDING).await;
    assert!(status.success(), "go build: {status}");
    program
}

/// What kubelet makes of the answer for the first image, and which keys it would try for each.
async fn ask(program: &Path, scratch: &Path, version: &str, images: &[&str]) -> Vec<String> {
    let mut command = Command::new(program);
    command
        .arg(env!("CARGO_BIN_EXE_roadstead"))
        .arg(format!("credentialprovider.kubelet.k8s.io/{version}"));
    command.args(images).env("ROADSTEAD_LICENCE", scratch.join("licences"));
    let mut process = Process::start("ask", scratch, command);
    let status = process.exit(PATIENCE).await;
    assert!(status.success(), "{version} {images:?}: {status}");
    process.out().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn kubelet_decodes_every_answer_and_finds_the_login_of_each_image() {
    if !ready(&[Need::Program("go")]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let scratch = scratch.path();
    let program = build(scratch).await;
    put_licence(scratch, "acme", "registry.test", &["myapp", "tools"], 0..90);
    put_licence(scratch, "acme-two", "registry.test", &["myapp2"], 0..90);
    put_licence(scratch, "acme-port", "registry.test:5000", &["myapp"], 0..90);
    for version in ["v1", "v1beta1", "v1alpha1"] {
        let images = [
            "registry.test/myapp/worker",
            "registry.test/proxy/myapp/quay.io/acme/api",
            "registry.test/myapp2/worker",
            "registry.test/tools",
            "registry.test/public/base",
            "registry.test:5000/myapp/worker",
            "quay.io/myapp/worker",
        ];
        let expected = [
            "cacheKeyType Registry",
            "cacheDuration 5m0s",
            "auth registry.test/tools acme",
            "auth registry.test/proxy/tools acme",
            "auth registry.test/proxy/myapp2 acme-two",
            "auth registry.test/proxy/myapp acme",
            "auth registry.test/myapp2 acme-two",
            "auth registry.test/myapp acme",
            "image registry.test/myapp/worker registry.test/myapp",
            "image registry.test/proxy/myapp/quay.io/acme/api registry.test/proxy/myapp",
            // A key ends anywhere in a component; the longer one comes first.
            "image registry.test/myapp2/worker registry.test/myapp2 registry.test/myapp",
            "image registry.test/tools registry.test/tools",
            "image registry.test/public/base",
            "image registry.test:5000/myapp/worker",
            "image quay.io/myapp/worker",
        ];
        assert_eq!(ask(&program, scratch, version, &images).await, expected, "{version}");
        let image = "registry.test:5000/proxy/myapp/quay.io/acme/api:1";
        let answer = ask(&program, scratch, version, &[image]).await;
        assert_eq!(answer.last(), Some(&format!("image {image} registry.test:5000/proxy/myapp")));
        let nothing = ask(&program, scratch, version, &["quay.io/acme/app"]).await;
        assert_eq!(
            nothing,
            ["cacheKeyType Registry", "cacheDuration 30s", "image quay.io/acme/app"]
        );
    }
}
