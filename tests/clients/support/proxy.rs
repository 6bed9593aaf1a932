//! The real binary, started with a configuration file on ports of its own choosing.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use http::StatusCode;

use super::http_client;
use super::process::Process;
use super::registry::{Registry, USERNAME};

/// The program under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_roadstead");

/// What a configuration file says, besides addresses.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Holds the configuration, the secrets, the log and the cache.
    pub(crate) folder: PathBuf,
    default_upstream: &'static str,
    /// The file's `upstreams`.
    upstreams: String,
    cache: PathBuf,
    /// Further keys of the file's `cache`.
    cache_keys: String,
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
        let settings = Self::empty(folder.join("roadstead"), "docker.io");
        ["docker.io", "quay.io"]
            .iter()
            .fold(settings, |settings, name| settings.with_registry(name, registry, address))
    }

    /// No upstreams yet.
    pub(crate) fn empty(folder: PathBuf, default_upstream: &'static str) -> Self {
        fs::create_dir_all(&folder).expect("the folder is the test's own");
        Self {
            cache: folder.join("cache"),
            cache_keys: String::new(),
            folder,
            default_upstream,
            upstreams: String::new(),
            extra: String::new(),
        }
    }

    /// With a registry that is reached at `address`, and what opens it.
    pub(crate) fn with_registry(
        self,
        name: &str,
        registry: &Registry,
        address: SocketAddr,
    ) -> Self {
        let mut entry = format!("{name}:\n    url: http://{address}\n");
        if let Some(tokens) = &registry.tokens {
            let _ = writeln!(entry, "    token_hosts: ['{}']", tokens.address);
        }
        if let Some(password) = registry.auth.password() {
            let file = self.folder.join(format!("{name}.password"));
            fs::write(&file, password).expect("the folder is the test's own");
            let credential = format!("username: {USERNAME}, password_file: {}", file.display());
            let _ = writeln!(entry, "    credentials: [{{ images: '**', {credential} }}]");
        }
        self.with_upstream(&entry)
    }

    /// One folder, and a registry at `address` that anybody may pull from.
    pub(crate) fn reading(folder: &Path, name: &'static str, address: SocketAddr) -> Self {
        Self::empty(folder.join("roadstead"), name)
            .with_upstream(&format!("{name}:\n    url: http://{address}\n"))
    }

    /// The same, and push to.
    pub(crate) fn taking_pushes(folder: &Path, address: SocketAddr) -> Self {
        Self::reading(folder, "registry.test", address)
            .with_pushes()
            .with("access: { rules: [{ who: anonymous, allow: [pull, push], images: ['**'] }] }")
    }

    /// The registry that was named last takes pushes.
    pub(crate) fn with_pushes(self) -> Self {
        Self { upstreams: format!("{}    push: true\n", self.upstreams), ..self }
    }

    /// With an entry of `upstreams`, as it stands there.
    pub(crate) fn with_upstream(self, entry: &str) -> Self {
        Self { upstreams: format!("{}  {entry}", self.upstreams), ..self }
    }

    /// With a further line at the top level.
    pub(crate) fn with(self, line: &str) -> Self {
        Self { extra: format!("{}{line}\n", self.extra), ..self }
    }

    pub(crate) fn with_cache(self, path: &str) -> Self {
        Self { cache: path.into(), ..self }
    }

    pub(crate) fn with_max_size(self, size: &str) -> Self {
        Self { cache_keys: format!(", max_size: {size}"), ..self }
    }

    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// What the configuration file says.
    pub(crate) fn text(&self) -> String {
        let Self { cache, cache_keys, default_upstream, extra, upstreams, .. } = self;
        format!(
            "listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\ndrain_delay: 0s\ncache: {{ path: '{}'{cache_keys} }}\ndefault_upstream: {default_upstream}\n\
             {extra}upstreams:\n{upstreams}",
            cache.display(),
        )
    }

    /// The configuration file's path.
    pub(crate) fn file(&self) -> PathBuf {
        self.folder.join("config.yaml")
    }

    /// Writes the file and gives the command that serves it.
    pub(crate) fn command(&self) -> Command {
        self.serve(Command::new(BINARY))
    }

    /// The same, by a `command` that runs [`BINARY`].
    pub(crate) fn serve(&self, mut command: Command) -> Command {
        let config = self.file();
        fs::write(&config, self.text()).expect("the folder is the test's own");
        command
            .arg("serve")
            .arg("--config")
            .arg(config)
            .env_remove("RUST_LOG")
            .current_dir(&self.folder);
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
        let (clients, admin) =
            process.until("addresses", async |process| addresses(&process.err())).await;
        let ready = async |_: &Process| {
            http_client::status(admin, "/readyz").await.filter(|status| *status == StatusCode::OK)
        };
        process.until("readiness", ready).await;
        Self { process, clients, admin }
    }
}

/// The two addresses, from the first line that has both: `… clients=127.0.0.1:PORT
/// admin=127.0.0.1:PORT`, or as JSON.
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
