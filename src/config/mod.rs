//! Configuration: read, checked as a whole, and turned into types that cannot hold nonsense.
//!
//! `document` reads the YAML into a tree that knows its lines, `place` walks it and notes problems, `check` and the
//! files for each section turn it into a [`Config`]. Either there is no problem, or the answer is all of them.

mod access;
mod check;
mod credentials;
mod docker_config;
mod document;
mod files;
mod keys;
mod place;
mod presets;
mod problem;
mod secret;
mod units;
mod upstreams;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use crate::oci::{Pattern, UpstreamName};

use document::{Node, Value};
use place::{Place, Report};

pub use problem::{Problem, Problems};
pub use secret::Secret;

/// Looks up an environment variable.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a configuration file, and the files and environment variables that it names.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let text =
        files::read_text(path).map_err(|error| Problems::whole(path, None, format!("cannot be read: {error}")))?;
    parse(&text, path, &|name| std::env::var(name).ok())
}

/// Reads the text of a configuration; `file` only names it in problems.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, file: &Path, environment: Environment<'_>) -> Result<Config, Problems> {
    let root = document::read(text).map_err(|error| {
        let line = error.location().map(|place| place.line());
        Problems::whole(file, line, format!("is not valid YAML: {error}"))
    })?;
    let report = Report::default();
    let config = check::config(&Place::root(&root, &report), environment);
    let problems = report.into_problems(text);
    if problems.is_empty() { Ok(config) } else { Err(Problems::new(file, problems)) }
}

/// What holds without a file: the well-known registries, on loopback only.
pub fn builtin() -> Config {
    let empty = Node { number: 0, value: Value::Null };
    check::config(&Place::root(&empty, &Report::default()), &|_| None)
}

/// Everything `serve` needs, valid as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where metrics and health are served.
    pub admin: SocketAddr,
    /// Names that clients use for this proxy, lower case, without port. Empty: any.
    pub hosts: Vec<String>,
    /// Plain HTTP on an address that is not loopback.
    pub allow_plain_http: bool,
    pub cache: Cache,
    /// Where names go that no other signal routes.
    pub default_upstream: Option<UpstreamName>,
    pub upstreams: Vec<Upstream>,
    pub access: Vec<Rule>,
    /// How long transfers may go on after SIGTERM.
    pub shutdown_grace: Duration,
    pub log: Log,
}

/// The store and its ages.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    pub path: PathBuf,
    /// Bytes of blobs and of blobs being fetched.
    pub max_size: u64,
    pub min_free: MinFree,
    /// How long a tag is believed without asking.
    pub tag_ttl: Duration,
    /// How long after its last check a tag is still served while the upstream fails.
    pub stale_if_error: Duration,
    /// How long a repository's right to a blob is believed without asking.
    pub proof_ttl: Duration,
    /// How long a download goes on that nobody waits for.
    pub abandon_after: Duration,
}

/// What must stay free on the cache's file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinFree {
    Percent(u8),
    Bytes(u64),
}

/// One registry behind us.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    pub name: UpstreamName,
    /// Scheme, host and port; no path, query or user.
    pub url: Url,
    /// Further first components, prefixes and `ns` values; lower case.
    pub aliases: Vec<String>,
    /// Host names bound to this upstream; lower case, without port.
    pub hosts: Vec<String>,
    /// Token endpoints besides the same origin: `host` or `host:port`.
    pub token_hosts: Vec<String>,
    /// Redirect targets allowed although their address is private: `host` or `host:port`.
    pub blob_hosts: Vec<String>,
    /// PEM of a certificate authority trusted besides the system's.
    pub ca: Option<Vec<u8>>,
    pub tls_verify: bool,
    /// One-component names get `library/` (Docker Hub only; SEL-6).
    pub library: bool,
    /// The largest `n` that the upstream takes for `tags/list` (TAG-2).
    pub page_limit: Option<u32>,
    /// Longest pattern first.
    pub credentials: Vec<Credential>,
}

/// A credential and the repositories of its upstream that it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    pub images: Pattern,
    pub username: String,
    pub password: Secret,
}

/// One rule of `access.rules`: anonymous clients from `networks` may `pull` what `images` match. Rules only add.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Empty: any address.
    pub networks: Vec<ipnet::IpNet>,
    pub pull: bool,
    pub list: bool,
    pub images: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// A `tracing` filter, as `info` or `roadstead=debug`.
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Human,
    Json,
}
