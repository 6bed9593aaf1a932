//! The commands of the documents that need other programs, as they stand there. Nothing but names
//! and addresses of the examples is replaced by those of the test.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::blocks::{Block, blocks, marked};
use crate::support::image::Image;
use crate::support::process::{Need, PATIENCE, Process, ready, run};
use crate::support::proxy::{BINARY, Proxy, Settings};
use crate::support::registry::{Auth, PASSWORD, Registry, USERNAME, htpasswd};
use crate::support::sandbox::Sandbox;
use crate::support::tools::{Client, Docker, archive};
use crate::support::vendor::{PUBLISHER, USER, Vendor};

/// What the documents call the vendor's proxy, and a mirror.
const HOST: &str = "registry.example.com";
const MIRROR: &str = "mirror:5000";

const SKOPEO: Need = Need::Program("skopeo");
const CURL: Need = Need::Program("curl");
const OPENSSL: Need = Need::Program("openssl");
const HTPASSWD: Need = Need::Program("htpasswd");

/// A shell with `code`, in which `roadstead` is the program under test.
fn shell(mut command: Command, code: &str, folder: &Path) -> Command {
    let programs = Path::new(BINARY).parent().expect("a program is in a folder").to_owned();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(programs).chain(std::env::split_paths(&path));
    let path = std::env::join_paths(path).expect("no colon is in the names of these folders");
    command.args(["-euc", code]).env("PATH", path).env_remove("RUST_LOG").current_dir(folder);
    command
}

/// A mirror of Docker Hub and Quay, which hold `images`, and a client.
struct Mirror {
    scratch: TempDir,
    _registry: Registry,
    proxy: Proxy,
    docker: Docker,
}

impl Mirror {
    async fn of(images: &[&str]) -> Self {
        let scratch = TempDir::new().expect("the system has a temporary folder");
        let folder = scratch.path();
        let sandbox = Sandbox::make(folder).await;
        let image = Image::make(folder, 41, &[20_000]).await;
        let images: Vec<_> = images.iter().map(|name| (*name, &image)).collect();
        let registry = Registry::holding(folder, Auth::Anonymous, &images).await;
        let proxy = Proxy::start(&Settings::mirroring(folder, &registry)).await;
        // skopeo wants to know which signatures count; distributions install such a file.
        let policy = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        fs::create_dir_all(sandbox.etc("containers")).expect("the folder is the test's own");
        fs::write(sandbox.etc("containers/policy.json"), policy)
            .expect("the folder is the test's own");
        let docker = Docker::start(&sandbox, folder).await;
        Self { scratch, _registry: registry, proxy, docker }
    }

    async fn run(&self, block: &Block, names: &[(&str, &str)]) {
        let code = replaced(block, names);
        let mut command = self.docker.shell(&format!("set -eu\n{code}"));
        command.current_dir(self.scratch.path());
        run("block", self.scratch.path(), command).await;
    }
}

/// The block's code with other names, each of which has to stand there.
fn replaced(block: &Block, names: &[(&str, &str)]) -> String {
    names.iter().fold(block.code.clone(), |code, (there, here)| {
        assert!(code.contains(there), "{}: {there} is not in {code}", block.place);
        code.replace(there, here)
    })
}

#[tokio::test]
async fn the_readmes_first_pulls_work() {
    if !ready(Docker::NEEDS) || !ready(&[CURL]) {
        return;
    }
    let mirror = Mirror::of(&["library/alpine", "prometheus/busybox"]).await;
    let address = mirror.proxy.clients.to_string();
    // The test's registry has one tag.
    let names =
        [("127.0.0.1:5000", &*address), ("alpine:3", "alpine:1"), ("busybox:latest", "busybox:1")];
    for block in marked("README.md", "the_readmes_first_pulls_work") {
        mirror.run(&block, &names).await;
    }
}

#[tokio::test]
async fn clients_pull_by_the_full_name() {
    if !ready(Docker::NEEDS) || !ready(&[SKOPEO]) {
        return;
    }
    let mirror = Mirror::of(&["acme/app"]).await;
    let address = mirror.proxy.clients.to_string();
    for block in marked("docs/clients.md", "clients_pull_by_the_full_name") {
        mirror.run(&block, &[(MIRROR, &address)]).await;
    }
}

#[tokio::test]
async fn customers_log_in_and_pull_as_the_readme_says() {
    let blocks = marked("README.md", "customers_log_in_and_pull_as_the_readme_says");
    customers_log_in("customer.licence", &blocks).await;
}

#[tokio::test]
async fn customers_log_in_as_the_licence_page_says() {
    let blocks = marked("docs/licences.md", "customers_log_in_as_the_licence_page_says");
    customers_log_in("customer-prod.licence", &blocks).await;
}

/// With a licence in a file of that name.
async fn customers_log_in(file: &str, blocks: &[Block]) {
    if !ready(Docker::NEEDS) {
        return;
    }
    let vendor = Vendor::open().await;
    let folder = vendor.folder("client");
    let docker = Docker::start(&vendor.sandbox, &folder).await;
    let licence = vendor.issue("customer-prod").await;
    fs::copy(&licence.file, folder.join(file)).expect("the folder is the test's own");
    for block in blocks {
        let code = replaced(block, &[(HOST, &vendor.host())]);
        let mut command = docker.shell(&format!("set -eu\n{code}"));
        command.current_dir(&folder);
        run("block", &folder, command).await;
    }
}

#[tokio::test]
async fn vendors_push_as_their_page_says() {
    if !ready(Docker::NEEDS) || !ready(&[SKOPEO]) {
        return;
    }
    let vendor = Vendor::open().await;
    let folder = vendor.folder("client");
    let docker = Docker::start(&vendor.sandbox, &folder).await;
    let built = archive(&vendor.registry, "myapp/api", "myapp-api:latest", &folder).await;
    let load = docker.shell(&format!("docker load --input '{}'", built.display()));
    run("load", &folder, load).await;
    fs::write(folder.join("ci-password"), PUBLISHER.1).expect("the folder is the test's own");
    for block in marked("docs/vendors.md", "vendors_push_as_their_page_says") {
        let code = replaced(&block, &[(HOST, &vendor.host())]);
        let mut command = docker.shell(&format!("set -eu\n{code}"));
        command.current_dir(&folder);
        run("block", &folder, command).await;
    }
    let log = vendor.registry.log("pushed").await;
    assert!(log.iter().any(|logged| logged.method == "PUT"), "nothing arrived: {log:#?}");
}

#[tokio::test]
async fn vendors_set_up_as_their_page_says() {
    if !ready(&[Need::Root, Need::Program("unshare"), HTPASSWD, OPENSSL]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let sandbox = Sandbox::make(scratch.path()).await;
    let (server, secrets) = (sandbox.etc("roadstead"), scratch.path().join("secrets"));
    fs::create_dir(&server).expect("the folder is the test's own");
    fs::create_dir(&secrets).expect("the folder is the test's own");
    for (file, text) in [
        (server.join("tls.crt"), fs::read_to_string(&sandbox.certificate).expect("it was made")),
        (server.join("tls.key"), fs::read_to_string(&sandbox.key).expect("it was made")),
        (secrets.join("registry"), PASSWORD.to_owned()),
        (secrets.join("quay"), PASSWORD.to_owned()),
    ] {
        fs::write(file, text).expect("the folder is the test's own");
    }
    let config = blocks("docs/vendors.md")
        .into_iter()
        .find(|block| block.language == "yaml" && block.mark.is_none())
        .expect("the page has a configuration");
    let secrets = secrets.display().to_string();
    let names = [("/run/secrets", &*secrets), ("0.0.0.0:443", "127.0.0.1:0")];
    let cache = scratch.path().join("cache");
    let more = format!("admin: 127.0.0.1:0\ncache: {{ path: '{}' }}\n", cache.display());
    let config = replaced(&config, &names) + &more;
    fs::write(server.join("config.yaml"), config).expect("the folder is the test's own");

    let steps = marked("docs/vendors.md", "vendors_set_up_as_their_page_says");
    let (last, first) = steps.split_last().expect("there are some");
    // What a folder is called there has to be entered within the view.
    let there = |code: &str| format!("cd /etc/roadstead\n{code}");
    for step in first {
        let command = shell(sandbox.command("sh"), &there(&step.code), scratch.path());
        run("step", scratch.path(), command).await;
    }
    let command = shell(sandbox.command("sh"), &there(&last.code), scratch.path());
    let proxy = Proxy::watch(Process::start("roadstead", scratch.path(), command)).await;
    assert!(proxy.process.out().contains("config.yaml is valid: 2 upstreams"));
}

#[tokio::test]
async fn htpasswd_makes_users_that_are_accepted() {
    if !ready(&[HTPASSWD]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let folder = scratch.path();
    fs::write(folder.join("ci-password"), USER.1).expect("the folder is the test's own");
    for block in marked("docs/configuration.md", "htpasswd_makes_users_that_are_accepted") {
        run("block", folder, shell(Command::new("sh"), &block.code, folder)).await;
    }
    let other = htpasswd(USERNAME, PASSWORD);
    let users = fs::read_to_string(folder.join("htpasswd")).expect("htpasswd made it");
    fs::write(folder.join("htpasswd"), users + &other).expect("the folder is the test's own");
    let config =
        "access: { users: htpasswd, rules: [{ who: 'user:ci', allow: [pull], images: ['**'] }] }";
    fs::write(folder.join("config.yaml"), config).expect("the folder is the test's own");
    let check = shell(Command::new("sh"), "roadstead check config.yaml", folder);
    run("check", folder, check).await;
}

#[tokio::test]
async fn the_admin_listener_answers_as_the_operations_page_says() {
    if !ready(&[CURL]) {
        return;
    }
    let scratch = TempDir::new().expect("the system has a temporary folder");
    let folder = scratch.path();
    let settings =
        Settings::empty(folder.join("roadstead"), "quay.io").with_upstream("quay.io: {}\n");
    let mut proxy = Proxy::start(&settings).await;
    let admin = proxy.admin.to_string();
    let test = "the_admin_listener_answers_as_the_operations_page_says";
    for block in
        marked("docs/operations.md", "the_admin_listener_answers_as_the_operations_page_says")
    {
        let code = replaced(&block, &[("127.0.0.1:5001", &admin)]);
        let said = run(test, folder, shell(Command::new("sh"), &code, folder)).await;
        assert!(said.starts_with("ok\nready\n") && said.ends_with("[]\n"), "{said}");
    }
    proxy.process.signal(Signal::TERM);
    assert!(proxy.process.exit(PATIENCE).await.success());
}
