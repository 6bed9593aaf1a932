//! The real binary, started with a configuration file on ports of its own choosing.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use http::StatusCode;

use crate::process::Process;
use crate::registry::{Auth, PASSWORD, Registry, USERNAME};
use crate::web;

/// What a configuration file says, besides addresses.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Holds the configuration, the secrets, the log and the cache.
    pub(crate) folder: PathBuf,
    /// The file's `upstreams`.
    upstreams: String,
    cache: PathBuf,
    /// Further top-level keys.
    extra: String,
}

impl Settings {
    /// One folder, and the registry as Docker Hub and as Quay.
    pub(crate) fn mirroring(folder: &Path, registry: &Registry) -> Self {
        Self::at(folder, registry, registry.address)
    }

    /// The same, with the registry reached at `address`.
    pub(crate) fn at(folder: &Path, registry: &Registry, address: SocketAddr) -> Self {
        let folder = folder.join("roadstead");
        fs::create_dir_all(&folder).expect("the folder is the test's own");
        fs::write(folder.join("password"), PASSWORD).expect("the folder is the test's own");
        let mut upstreams = String::new();
        for name in ["docker.io", "quay.io"] {
            let _ = write!(upstreams, "  {name}:\n    url: http://{address}\n");
            if let Some(tokens) = &registry.tokens {
                let _ = writeln!(upstreams, "    token_hosts: ['{}']", tokens.address);
            }
            if registry.auth != Auth::Anonymous {
                let file = folder.join("password");
                let credential = format!("username: {USERNAME}, password_file: {}", file.display());
                let _ = writeln!(upstreams, "    credentials: [{{ images: '**', {credential} }}]");
            }
        }
        Self { cache: folder.join("cache"), folder, upstreams, extra: String::new() }
    }

    /// With a further line at the top level.
    pub(crate) fn with(self, line: &str) -> Self {
        Self { extra: format!("{}{line}\n", self.extra), ..self }
    }

    pub(crate) fn with_cache(self, path: &str) -> Self {
        Self { cache: path.into(), ..self }
    }

    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// The configuration file.
    pub(crate) fn text(&self) -> String {
        let Self { cache, extra, upstreams, .. } = self;
        format!(
            "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\ncache: {{ path: '{}' }}\ndefault_upstream: docker.io\n\
             {extra}upstreams:\n{upstreams}",
            cache.display(),
        )
    }

    /// Writes the file and gives the command that serves it.
    pub(crate) fn command(&self) -> Command {
        let config = self.folder.join("config.yaml");
        fs::write(&config, self.text()).expect("the folder is the test's own");
        let mut command = Command::new(env!("CARGO_BIN_EXE_roadstead"));
        command.arg("serve").arg("--config").arg(config).env_remove("RUST_LOG").current_dir(&self.folder);
        command
    }
}

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) process: Process,
    pub(crate) clients: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Proxy {
    /// Starts it and waits until it says that it is ready.
    pub(crate) async fn start(settings: &Settings) -> Self {
        Self::watch(Process::start("roadstead", &settings.folder, settings.command())).await
    }

    /// Waits until a `process` that was started otherwise says so.
    pub(crate) async fn watch(mut process: Process) -> Self {
        let (clients, admin) = process.until("addresses", async |process| addresses(&process.err())).await;
        let ready = async |_: &Process| web::status(admin, "/readyz").await.filter(|status| *status == StatusCode::OK);
        process.until("readiness", ready).await;
        Self { process, clients, admin }
    }
}

/// The two addresses, from the first line that has both: `… clients=127.0.0.1:PORT admin=127.0.0.1:PORT`, or as JSON.
pub(crate) fn addresses(log: &str) -> Option<(SocketAddr, SocketAddr)> {
    // A line that is still being written may end within a port.
    let mut lines = log.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    lines.find_map(|line| Some((address(line, "clients")?, address(line, "admin")?)))
}

fn address(line: &str, key: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once(key)?;
    let value = rest.trim_start_matches(['"', ':', '=']);
    value.split(|c: char| c.is_whitespace() || c == '"' || c == ',').next()?.parse().ok()
}
