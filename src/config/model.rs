//! What a configuration says, in types that cannot hold nonsense.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use url::Url;

use super::files_read::FilesRead;
use super::way_out::{DialTarget, WayOut};
use crate::identity::Identity;
use crate::licence::Slug;
use crate::oci::{Pattern, UpstreamName};
use crate::secret::Secret;
use crate::wanted::PinLine;

/// Everything `serve` needs, valid as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where metrics and health are served.
    pub admin: SocketAddr,
    /// Names under which operators call that listener; without port. IP addresses and `localhost`
    /// need no entry.
    pub admin_hosts: Vec<String>,
    /// None: clients speak plain HTTP.
    pub tls: Option<Tls>,
    /// Names that clients use for this proxy. Empty: clients may use any name.
    pub hosts: Vec<Host>,
    /// Whether plain HTTP is allowed on an address that other machines reach.
    pub allow_plain_http: bool,
    pub cache: Cache,
    /// The upstream of image names that neither host, prefix, first component nor `ns` routes.
    pub default_upstream: Option<UpstreamName>,
    pub upstreams: Vec<Upstream>,
    pub access: Access,
    /// By slug, each once.
    pub applications: Vec<Application>,
    /// None: no licence is accepted.
    pub licences: Option<Licences>,
    /// How long new clients are still served after SIGTERM, for balancers to notice.
    pub drain_delay: Duration,
    /// How long transfers may go on after that.
    pub shutdown_grace: Duration,
    pub log: Log,
    /// Variables of the environment that name a proxy, if the document does not say what to do with
    /// them.
    pub ignored_variables: Vec<&'static str>,
    /// The document, and what was read with it (passwords, licences, authorities): a change of one
    /// is a change of the configuration.
    pub files_read: FilesRead,
}

impl Config {
    /// Where it is kept what was revoked last.
    pub(crate) fn kept_revocations(&self) -> PathBuf {
        self.cache.path.join("keys/revoked")
    }

    /// Where the server takes commands.
    pub(crate) fn control_socket(&self) -> PathBuf {
        self.cache.path.join("control.sock")
    }

    /// Where the keys of our own tokens come from.
    pub fn key_file(&self) -> PathBuf {
        self.access.key_file.clone().unwrap_or_else(|| self.cache.path.join("keys/access"))
    }

    /// The keys that `next` changes and whose change takes a restart (ACCESS §8).
    pub fn needs_restart(&self, next: &Self) -> Vec<&'static str> {
        let changed = [
            ("listen", self.listen != next.listen),
            ("admin", self.admin != next.admin),
            ("cache.path", self.cache.path != next.cache.path),
            // A listener does not turn from plain to TLS, or back, under its clients.
            ("tls (whether there is one)", self.tls.is_some() != next.tls.is_some()),
            // A file that somebody is still writing may end before its rules.
            ("access (whether there is one)", self.access.given && !next.access.given),
        ];
        changed.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
    }
}

/// The cache: its directory, its size, and how long what it knows is believed.
#[derive(Clone, Debug, PartialEq)]
pub struct Cache {
    pub path: PathBuf,
    /// Bytes of stored content and of downloads under way together.
    pub max_size: u64,
    pub min_free: MinFree,
    /// How long a tag is served without asking its upstream again.
    pub tag_ttl: Duration,
    /// How long after its last check a tag is still served while the upstream fails.
    pub stale_if_error: Duration,
    /// How long it is believed without asking that a repository holds a blob.
    pub proof_ttl: Duration,
    /// How long a download goes on after its last client has left.
    pub abandon_after: Duration,
    /// Images that are never evicted.
    pub pins: PinList,
    /// How often every stored file is read again; zero: never.
    pub scrub: Duration,
    /// Bytes a second that are read for that at most.
    pub scrub_rate: NonZeroU64,
}

/// What is to stay in the cache.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PinList(pub(crate) Vec<PinLine>);

/// What must stay free on the cache's file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinFree {
    Percent(u8),
    Bytes(u64),
}

/// One registry that images are pulled from.
#[derive(Clone, Debug, PartialEq)]
pub struct Upstream {
    pub name: UpstreamName,
    /// Scheme, host and port; no path, query or user.
    pub url: Url,
    /// Further first components, prefixes and `ns` values; lower case.
    pub aliases: Vec<String>,
    /// Host names bound to this upstream; lower case, without port.
    pub hosts: Vec<String>,
    /// Hosts other than the registry's own that may issue tokens: `host` or `host:port`.
    pub token_hosts: Vec<String>,
    /// Redirect targets allowed although their address is private: `host` or `host:port`.
    pub blob_hosts: Vec<String>,
    /// Upstreams whose readers may be given what the credentials of this one have brought, once
    /// they say that they have it too.
    pub shares_with: Vec<UpstreamName>,
    /// Nothing is asked of it.
    pub sealed: bool,
    /// How its hosts are reached.
    pub way_out: WayOut,
    /// Where the host of `url` is dialled instead; TLS is still with that host.
    pub connect: Option<DialTarget>,
    /// PEM of certificate authorities that are trusted in addition to the system's.
    pub ca: Option<Vec<u8>>,
    pub tls_verify: bool,
    /// One-component names get `library/` (Docker Hub only; SEL-6).
    pub library: bool,
    pub writes: Writes,
    /// The largest `n` that the upstream takes for `tags/list` (TAG-2).
    pub page_limit: Option<u32>,
    /// Longest pattern first: the first one that matches a repository is its credential.
    pub credentials: Vec<Credential>,
}

/// What the proxy does with pushes and deletes for an upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    /// They are refused: the proxy is a read-only mirror.
    #[default]
    Refused,
    /// They are passed through to the upstream, and the cache keeps nothing of them.
    Passed,
    /// They are passed through, and what is pushed is in the cache at once.
    Kept,
}

/// A credential and the repositories of its upstream that it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    pub images: Pattern,
    pub login: Login,
    pub when_rejected: WhenRejected,
}

/// What becomes of cached content while the upstream rejects the credential.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenRejected {
    /// It is served as in an outage: a password may have been changed by mistake.
    #[default]
    ServeStale,
    /// The refusal is final and nothing is served: a licence may have been taken back.
    Withhold,
}

/// Where the user and the password of a credential come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Login {
    /// Read with the configuration.
    Fixed { username: String, password: Secret },
    /// Asked of a docker credential helper when it is needed.
    Helper {
        /// The absolute path of the helper.
        program: PathBuf,
        /// What the helper is asked for: a host with an optional port, or Docker Hub's key.
        server: String,
        /// Variables of the environment that hold passwords of other credentials, which it does
        /// not get.
        withheld: Vec<String>,
    },
}

/// TLS for clients. The files are read apart from the configuration, since each is replaced by
/// itself (ACCESS §8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM, the leaf first.
    pub certificate: PathBuf,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
    /// PEM of the authorities of client certificates; none: clients are not asked for one.
    pub client_ca: Option<PathBuf>,
    pub client_auth: ClientAuth,
}

/// Whether a client has to show a certificate where `client_ca` is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientAuth {
    #[default]
    Optional,
    Required,
}

/// One name that clients use for this proxy (ACCESS §1.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Lower case, without port; an IPv6 address in brackets.
    pub name: String,
    /// Where clients call it, if what stands in front does not pass that on; none: as they say.
    pub port: Option<u16>,
    /// The token realm is http: nothing in front of the proxy adds TLS, and nobody but this machine
    /// or a trusted network uses the name.
    pub plain_http: bool,
    pub unknown_credentials: UnknownCredentials,
}

/// How a user and password are treated that are not known here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownCredentials {
    /// With a 401, so that `docker login` tells whether the password is right.
    #[default]
    Refused,
    /// As if none had been sent: clients send a mirror the passwords of the registries that it
    /// mirrors (AUTH-7).
    Anonymous,
}

/// Who may do what.
#[derive(Clone, Debug, PartialEq)]
pub struct Access {
    /// Whether the document says who may do what; without it, a proxy on loopback is open.
    pub given: bool,
    /// htpasswd file with bcrypt or argon2id hashes.
    pub users: Option<PathBuf>,
    /// Where the keys of our own tokens come from; created if missing. None: `keys/access` in the
    /// cache directory.
    pub key_file: Option<PathBuf>,
    /// Networks of load balancers whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    pub rules: Vec<Rule>,
}

/// One rule of `access.rules`. Rules only add.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Whom it is for.
    pub who: Identity,
    /// Empty: any address.
    pub networks: Vec<IpNet>,
    pub allow: Allow,
    /// Globs over canonical names.
    pub images: Vec<Pattern>,
    /// Applications all of whose images are meant, also in the form `proxy/<application>/…`.
    pub applications: Vec<Slug>,
}

/// The actions that a rule gives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "four independent actions, each written out in the rule"
)]
pub struct Allow {
    pub pull: bool,
    pub list: bool,
    pub push: bool,
    pub delete: bool,
}

/// A vendor's application: the images that a licence for it may pull (ACCESS §4).
#[derive(Clone, Debug, PartialEq)]
pub struct Application {
    pub slug: Slug,
    /// Globs over canonical names.
    pub images: Vec<Pattern>,
    /// Who may pull, list and, on upstreams that take it, push these images.
    pub publishers: Vec<Identity>,
}

/// What makes a licence good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Licences {
    /// The issuer that a licence has to name. Messages tell customers to ask them.
    pub issuer: String,
    /// PEM files of Ed25519 public keys (SPKI); several while keys are rotated.
    pub public_keys: Vec<PathBuf>,
    /// A revocation list, or a folder of them.
    pub revoked: Option<PathBuf>,
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
