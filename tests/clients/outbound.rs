//! docker in a network whose only way out is a proxy, pulling through a roadstead there.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use http::StatusCode;

use crate::support::enclave::{self, Edge, Enclave, TlsFront};
use crate::support::http_client;
use crate::support::image::Image;
use crate::support::process::{PATIENCE, Process, fail, poll, ready, run};
use crate::support::proxy::{self, BINARY};
use crate::support::registry::{Auth, Registry};
use crate::support::sandbox::{HOST, Sandbox};
use crate::support::tools::{Client as _, Docker};

const LOGIN: &str = "outbound hunter2";

/// A registry outside, `https://vendor.test:PORT`, and docker within.
struct Site {
    folder: PathBuf,
    image: Image,
    registry: TlsFront,
    edge: Edge,
    /// Its programs are within.
    within: Sandbox,
    docker: Docker,
    _servers: Registry,
    // The last to go: programs run in it.
    enclave: Enclave,
}

impl Site {
    async fn make(folder: &Path, login: Option<&str>) -> Self {
        let enclave = Enclave::make();
        let outside = Sandbox::make(folder).await;
        let image = Image::make(folder, 1, &[100_000, 1_000_000]).await;
        let servers = Registry::holding(folder, Auth::Anonymous, &[("acme/app", &image)]).await;
        let registry = TlsFront::of(&outside, servers.address).await;
        let port = registry.address.port();
        let edge = Edge::start(&enclave, &outside, folder, (port, login)).await;
        let within = enclave.take(outside);
        let docker = Docker::start(&within, folder).await;
        let folder = folder.to_owned();
        Self { folder, image, registry, edge, within, docker, _servers: servers, enclave }
    }

    /// A roadstead within, with this line in its configuration and these variables.
    async fn roadstead(&self, name: &str, line: &str, variables: &[(&str, String)]) -> Roadstead {
        let folder = self.folder.join(name);
        fs::create_dir_all(&folder).expect("the folder is the test's own");
        let config = folder.join("config.yaml");
        let text = format!(
            "listen: 0.0.0.0:0\nadmin: 0.0.0.0:0\nallow_plain_http: true\n\
             cache: {{ path: '{}' }}\n{line}\n\
             upstreams:\n  {HOST}:\n    url: https://{HOST}:{}\n    ca: {}\n\
             access: {{ rules: [{{ who: anonymous, allow: [pull], images: ['**'] }}] }}\n",
            folder.join("cache").display(),
            self.registry.address.port(),
            self.within.certificate.display(),
        );
        fs::write(&config, text).expect("the folder is the test's own");
        let mut command = self.within.command(BINARY);
        command.args(["serve", "--config"]).arg(config).env_remove("RUST_LOG");
        command.envs(variables.iter().map(|(key, value)| (key, value)));
        let mut process = Process::start("roadstead", &folder, command);
        let listening = async |process: &Process| proxy::addresses(&process.err());
        let (clients, admin) = process.until("addresses", listening).await;
        let admin = SocketAddr::new(self.enclave.inside.into(), admin.port());
        let answers = async |_: &Process| {
            http_client::status(admin, "/readyz").await.filter(|status| *status == StatusCode::OK)
        };
        process.until("readiness", answers).await;
        Roadstead { process, port: clients.port() }
    }

    fn proxy_url(&self) -> String {
        format!("http://{}", self.edge.address)
    }

    async fn pulls(&self, roadstead: &Roadstead) {
        let name = roadstead.image();
        run("docker-pull", &self.folder, self.docker.pull(&name)).await;
        self.docker.holds(&name, &self.image).await;
    }

    /// docker asks with HEAD first, whose refusal has no text: the access line says why.
    async fn is_refused(&self, roadstead: &Roadstead, why: &str) {
        let said = fail("docker-pull", &self.folder, self.docker.pull(&roadstead.image())).await;
        assert!(said.contains("502"), "{said}");
        let told = async || roadstead.process.err().contains(why).then_some(());
        poll(why, PATIENCE, told).await;
    }
}

struct Roadstead {
    process: Process,
    port: u16,
}

impl Roadstead {
    /// As docker within names it.
    fn image(&self) -> String {
        format!("127.0.0.1:{}/{HOST}/acme/app:1", self.port)
    }
}

fn can_run() -> bool {
    ready(&enclave::NEEDS) && ready(Docker::NEEDS)
}

#[tokio::test]
async fn docker_pulls_where_a_proxy_is_the_only_way_out() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::make(folder.path(), None).await;
    let url = site.proxy_url();
    let lost = site.roadstead("lost", "", &[("HTTPS_PROXY", url.clone())]).await;
    site.is_refused(&lost, &format!("no connection to https://{HOST}")).await;
    let said = lost.process.err();
    assert!(said.contains("HTTPS_PROXY") && said.contains("proxy: environment"), "{said}");
    let told = site.roadstead("told", &format!("proxy: {url}"), &[]).await;
    site.pulls(&told).await;
    let connected = format!("CONNECT {HOST}:{}", site.registry.address.port());
    assert!(site.edge.log().contains(&connected), "{}", site.edge.log());
}

#[tokio::test]
async fn docker_pulls_where_the_proxy_wants_a_login() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let site = Site::make(folder.path(), Some(LOGIN)).await;
    let url = site.proxy_url();
    let stranger = site.roadstead("stranger", &format!("proxy: {url}"), &[]).await;
    site.is_refused(&stranger, "the outbound proxy wants another login (407)").await;
    let password = folder.path().join("password");
    fs::write(&password, "hunter2\n").expect("the folder is the test's own");
    let mapping = format!(
        "proxy: {{ url: '{url}', username: outbound, password_file: '{}' }}",
        password.display()
    );
    let known = site.roadstead("known", &mapping, &[]).await;
    site.pulls(&known).await;
    let variable = url.replace("http://", "http://outbound:hunter2@");
    let by_environment = [("https_proxy", variable)];
    let followed = site.roadstead("followed", "proxy: environment", &by_environment).await;
    site.pulls(&followed).await;
}
