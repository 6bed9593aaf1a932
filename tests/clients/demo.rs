//! The demonstration in `deploy/`, as docs/vendors.md walks through it: the same configuration and
//! the same commands, with processes where compose has containers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_yaml::Value;
use tempfile::TempDir;

use crate::blocks::marked;
use crate::support::image::Image;
use crate::support::process::{Need, PATIENCE, Process, poll, ready, run};
use crate::support::proxy::{BINARY, Proxy};
use crate::support::registry::{Auth, Registry};
use crate::support::sandbox::Sandbox;
use crate::support::tools::{Client, Docker, archive};

/// What clients call the demonstration.
const HOST: &str = "localhost:5000";
/// Its folder in `/etc`, where containers have what [`Walk::begin`] puts there.
const ETC: &str = "/etc/roadstead";

#[tokio::test]
async fn the_demonstration_goes_as_it_is_documented() {
    if !ready(Docker::NEEDS) || !ready(&[Need::Program("skopeo")]) {
        return;
    }
    let walk = Walk::begin().await;
    let blocks = marked("docs/vendors.md", "the_demonstration_goes_as_it_is_documented");
    let lines = blocks.iter().flat_map(|block| block.code.lines());
    let mut lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), 8, "{lines:#?}");
    // That is what has begun.
    assert!(lines.remove(0).starts_with("deploy/demo && docker compose -f deploy/compose.yaml up"));
    let last = lines.pop().expect("it was counted");
    for line in lines {
        run("line", &walk.folder, walk.line(line)).await;
    }
    // A pull whose token is from before the revocation ends with a HEAD, whose answer has no words.
    let refusal = async || {
        let mut process = Process::start("last", &walk.folder, walk.line(last));
        let refused = !process.exit(PATIENCE).await.success();
        let said = process.err();
        (refused && said.contains("licence customer was revoked on ")).then_some(said)
    };
    let said = poll("refusal", PATIENCE, refusal).await;
    assert!(said.contains("; ask Acme Inc."), "{said}");
}

/// Everything that the first line starts.
struct Walk {
    _scratch: TempDir,
    /// Where the commands run; it holds `deploy`.
    folder: PathBuf,
    docker: Docker,
    _registry: Registry,
    proxy: Proxy,
    /// Stands for what is pulled from Docker Hub.
    alpine: PathBuf,
}

impl Walk {
    async fn begin() -> Self {
        let scratch = TempDir::new().expect("the system has a temporary folder");
        let folder = scratch.path().to_owned();
        let site = Sandbox::make(&folder).await;
        let image = Image::make(&folder, 31, &[20_000, 1 << 20]).await;
        let registry =
            Registry::holding(&folder, Auth::Anonymous, &[("library/alpine", &image)]).await;
        let alpine =
            archive(&registry, "library/alpine", "docker.io/library/alpine:latest", &folder).await;
        demo(&folder).await;
        let etc = site.etc("roadstead");
        fs::create_dir(&etc).expect("the folder is the test's own");
        symlink(folder.join("deploy/vendor/server"), etc.join("vendor"))
            .expect("the folder is the test's own");
        let proxy = proxy(&site, &folder, &registry).await;
        let docker = Docker::start(&site, &folder).await;
        Self { _scratch: scratch, folder, docker, _registry: registry, proxy, alpine }
    }

    /// A line of the page.
    fn line(&self, line: &str) -> Command {
        let load = format!("docker load --input '{}'", self.alpine.display());
        let line = line.replace(HOST, &format!("localhost:{}", self.proxy.clients.port()));
        let mut command = self.docker.shell(&line.replace("docker pull alpine", &load));
        command.current_dir(&self.folder);
        command
    }
}

/// Runs `deploy/demo`, twice, as people do.
async fn demo(folder: &Path) {
    let deploy = folder.join("deploy");
    fs::create_dir(&deploy).expect("the folder is the test's own");
    fs::copy(project("deploy/demo"), deploy.join("demo")).expect("the project has it");
    for _ in 0..2 {
        let mut command = Command::new(deploy.join("demo"));
        command.arg(BINARY);
        run("demo", folder, command).await;
    }
}

/// roadstead with `deploy/demo.yaml`, in which nothing but addresses and the cache's folder is
/// replaced.
async fn proxy(site: &Sandbox, folder: &Path, registry: &Registry) -> Proxy {
    let (url, cache) =
        (format!("http://{}", registry.address), folder.join("cache").display().to_string());
    let mut text = file("deploy/demo.yaml");
    let config = site.etc("roadstead/config.yaml");
    fs::write(&config, &text).expect("the folder is the test's own");
    run("check", folder, roadstead(site, "check", &[])).await;
    for (there, here) in [
        ("0.0.0.0:5000", "127.0.0.1:0"),
        ("http://registry:5000", &*url),
        ("/var/lib/roadstead", &*cache),
    ] {
        assert_eq!(text.matches(there).count(), 1, "{there} in {text}");
        text = text.replace(there, here);
    }
    fs::write(config, format!("{text}admin: 127.0.0.1:0\n")).expect("the folder is the test's own");
    Proxy::watch(Process::start("roadstead", folder, roadstead(site, "serve", &["--config"]))).await
}

fn roadstead(site: &Sandbox, command: &str, arguments: &[&str]) -> Command {
    let mut program = site.command(BINARY);
    program.arg(command).args(arguments).arg(format!("{ETC}/config.yaml")).env_remove("RUST_LOG");
    program
}

#[test]
fn the_composition_mounts_and_opens_what_the_configuration_names() {
    let [composition, config] =
        ["deploy/compose.yaml", "deploy/demo.yaml"].map(|path| yaml(&file(path)));
    let service = &composition["services"]["roadstead"];
    let port = text(&config["listen"])
        .strip_prefix("0.0.0.0:")
        .expect("containers are reached from outside");
    assert_eq!(texts(&service["ports"]), [format!("127.0.0.1:5000:{port}")]);
    assert!(
        text(&config["upstreams"]["registry.example.com"]["url"])
            .starts_with("http://registry:5000")
    );
    assert_eq!(
        text(&composition["services"]["registry"]["image"]),
        "registry:2",
        "which listens on 5000"
    );

    for (name, service) in composition["services"].as_mapping().expect("services") {
        assert_eq!(texts(&service["security_opt"]), ["no-new-privileges:true"], "{name:?}");
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name:?}");
        assert!(service["mem_limit"].is_string(), "{name:?}");
    }

    let mounts = texts(&service["volumes"]);
    let mounts: Vec<Vec<&str>> = mounts.iter().map(|mount| mount.split(':').collect()).collect();
    let licences = &config["licences"];
    for path in [
        // What the image's command names.
        "/etc/roadstead/config.yaml",
        text(&config["access"]["users"]),
        text(&licences["public_keys"][0]),
        text(&licences["revoked"]),
        text(&config["cache"]["path"]),
    ] {
        assert!(
            mounts.iter().any(|mount| Path::new(path).starts_with(mount[1])),
            "{path} is not mounted: {mounts:?}"
        );
    }
    for mount in mounts {
        let (source, script) = (mount[0], file("deploy/demo"));
        let made = source == "./vendor/server" && script.contains("server=$folder/server");
        let there = source.starts_with("./") && project("deploy").join(source).exists();
        let volume = composition["volumes"].get(source).is_some();
        assert!(made || there || volume, "nobody makes {source}");
    }
}

fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).expect("it is YAML")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn texts(value: &Value) -> Vec<String> {
    value.as_sequence().expect("a list").iter().map(|item| text(item).to_owned()).collect()
}

fn file(path: &str) -> String {
    fs::read_to_string(project(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
