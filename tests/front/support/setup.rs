//! What a proxy is started with: configuration, limits, clock, and a directory of its own.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use roadstead::clock::Clock;
use roadstead::config::{
    Access, Allow, Cache, Config, Credential, FilesRead, Log, LogFormat, Login, MinFree, PinList,
    Rule, Upstream, WayOut, Writes,
};
use roadstead::identity::Identity;
use roadstead::limits::Limits;
use roadstead::oci::{Pattern, UpstreamName};
use tempfile::TempDir;

use super::origin::Origin;
use super::proxy::Proxy;

/// What a proxy is started with.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) config: Config,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    /// Names that were looked up.
    pub(crate) lookups: Arc<Mutex<Vec<String>>>,
    /// What looking a name up gives: an address, or an error of the system.
    pub(crate) lookup_answer: Arc<Mutex<Result<IpAddr, i32>>>,
    /// The file that the configuration is from, if it is followed.
    pub(super) watched: Option<PathBuf>,
    /// Bytes that the system keeps for a client that does not read.
    pub(crate) send_buffer: Option<u32>,
    pub(super) directory: TempDir,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self {
            config: config(directory.path().join("cache")),
            limits: Limits {
                retry_pause: Duration::from_millis(1),
                token_settling: Duration::from_millis(1),
                settle: Duration::from_millis(1),
                ..Limits::default()
            },
            clock: Clock::manual(Duration::from_hours(500_000)),
            lookups: Arc::default(),
            lookup_answer: Arc::new(Mutex::new(Err(libc::ENOENT))),
            watched: None,
            send_buffer: None,
            directory,
        }
    }

    /// With everything as a file says, which is followed; `listen`, `admin` and `cache.path` are
    /// the test's own.
    pub(crate) fn written(text: &str) -> Self {
        let mut setup = Self::new();
        let file = setup.write(text);
        setup.config = roadstead::config::load(&file).expect("a valid configuration");
        setup.watched = Some(file);
        setup
    }

    /// Puts another text into the configuration file.
    pub(crate) fn write(&self, text: &str) -> PathBuf {
        let cache = self.directory.path().join("cache");
        let fixed = format!("listen: 127.0.0.1:0\nadmin: 127.0.0.1:0\n{}\n", text.trim_end());
        self.file("config.yaml", &fixed.replace("CACHE", &cache.display().to_string()))
    }

    /// A file beside the cache; whoever watches it sees the old text or the new one.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let (path, new) = (self.directory.path().join(name), self.directory.path().join(".new"));
        std::fs::write(&new, text).expect("a writable directory");
        std::fs::rename(new, &path).expect("a writable directory");
        path
    }

    /// A credential helper beside the cache: a shell script.
    pub(crate) fn helper(&self, images: &str, script: &str) -> Credential {
        let text = self.file(
            "helper",
            &format!("#!/bin/sh\ncd '{}'\n{script}\n", self.directory.path().display()),
        );
        let program = text.with_file_name("docker-credential-test");
        // By another process: a file that this one has open for writing cannot be run while another
        // test forks.
        let installed = std::process::Command::new("install").args([&text, &program]).status();
        assert!(installed.expect("install runs").success());
        let (server, withheld) = ("registry.test".to_owned(), vec![]);
        let login = Login::Helper { program, server, withheld };
        Credential {
            images: Pattern::parse(images).expect("a glob"),
            login,
            when_rejected: roadstead::config::WhenRejected::default(),
        }
    }

    /// With `origin` as Docker Hub, the default.
    pub(crate) fn of(origin: &Origin) -> Self {
        let mut setup = Self::new();
        setup.upstream("docker.io", origin);
        setup
    }

    /// Puts `origin` behind the proxy under `name`; the first one is the default.
    pub(crate) fn upstream(&mut self, name: &str, origin: &Origin) -> &mut Upstream {
        let name = UpstreamName::parse(name).expect("the test names a valid upstream");
        self.config.default_upstream.get_or_insert_with(|| name.clone());
        self.config.upstreams.push(Upstream {
            url: origin.url(),
            aliases: Vec::new(),
            hosts: Vec::new(),
            token_hosts: Vec::new(),
            blob_hosts: Vec::new(),
            shares_with: Vec::new(),
            sealed: false,
            way_out: WayOut::default(),
            connect: None,
            ca: None,
            tls_verify: true,
            library: name.as_str() == "docker.io",
            writes: Writes::Refused,
            page_limit: None,
            credentials: Vec::new(),
            name,
        });
        self.config.upstreams.last_mut().expect("one was just added")
    }

    pub(crate) async fn start(self) -> Proxy {
        Proxy::with(self).await
    }
}

/// Everything at its default, anonymous pull allowed, ports chosen by the system.
fn config(path: PathBuf) -> Config {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        listen: any_port,
        admin: any_port,
        admin_hosts: Vec::new(),
        tls: None,
        hosts: Vec::new(),
        allow_plain_http: false,
        cache: Cache {
            path,
            max_size: 1 << 30,
            min_free: MinFree::Bytes(0),
            tag_ttl: Duration::from_mins(5),
            stale_if_error: Duration::from_hours(24),
            proof_ttl: Duration::from_mins(10),
            abandon_after: Duration::from_mins(5),
            pins: PinList::default(),
            scrub: Duration::ZERO,
            scrub_rate: NonZeroU64::MAX,
        },
        default_upstream: None,
        upstreams: Vec::new(),
        access: Access {
            given: true,
            users: None,
            key_file: None,
            trusted_proxies: Vec::new(),
            rules: vec![Rule {
                who: Identity::Anonymous,
                networks: Vec::new(),
                allow: Allow { pull: true, list: true, ..Allow::default() },
                images: vec![Pattern::parse("**").expect("a glob")],
                applications: Vec::new(),
            }],
        },
        applications: Vec::new(),
        licences: None,
        drain_delay: Duration::ZERO,
        shutdown_grace: Duration::from_secs(1),
        log: Log { format: LogFormat::Human, level: "info".into() },
        ignored_variables: Vec::new(),
        files_read: FilesRead::default(),
    }
}
