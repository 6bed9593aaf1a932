//! The real binary in front of the registry.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::distribution::Distribution;
use super::process::Process;

pub(crate) const USERNAME: &str = "ci";
pub(crate) const PASSWORD: &str = "correct horse";
/// What `htpasswd -nbB -C 4` says for the two.
const HTPASSWD: &str = "ci:$2y$04$9JpbtWe3od5dvBME8hb/q.NNHiVWnYirCwrjUYNZMjXHUGDcSr0oq\n";

/// A configuration, without what is the same for all; `REGISTRY` and `FOLDER` are filled in.
pub(crate) const MIRROR: &str = "
upstreams: { docker.io: { url: 'http://REGISTRY' } }
";
pub(crate) const PRIVATE: &str = "
default_upstream: registry.test
upstreams: { registry.test: { url: 'http://REGISTRY', push: true } }
access:
  users: FOLDER/htpasswd
  rules: [{ who: 'user:ci', allow: [pull, list, push, delete], images: ['registry.test/**'] }]
";

#[derive(Debug)]
pub(crate) struct Roadstead {
    pub(crate) address: SocketAddr,
    _process: Process,
}

impl Roadstead {
    pub(crate) async fn start(folder: &Path, registry: &Distribution, config: &str) -> Self {
        fs::create_dir_all(folder).expect("the folder is the test's own");
        fs::write(folder.join("htpasswd"), HTPASSWD).expect("the folder is the test's own");
        let text = format!(
            "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\ndrain_delay: 0s\ncache: {{ path: FOLDER/cache }}\n{config}"
        );
        let text = text.replace("REGISTRY", &registry.address.to_string());
        let file = folder.join("config.yaml");
        fs::write(&file, text.replace("FOLDER", &folder.display().to_string()))
            .expect("the folder is the test's own");
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
        command.args(["serve", "--config"]).arg(file).env_remove("RUST_LOG");
        let mut process = Process::start("roadstead", folder, command);
        let address = process.until("address", async |process| address(&process.err())).await;
        Self { address, _process: process }
    }
}

/// `clients=127.0.0.1:PORT`, in a line that is whole.
fn address(log: &str) -> Option<SocketAddr> {
    let (_, rest) = log.split_once("clients=")?;
    rest.split_once(char::is_whitespace)?.0.parse().ok()
}
