//! Every key there is, by the mapping it stands in.

pub(super) const TOP: &[&str] = &[
    "listen",
    "admin",
    "admin_hosts",
    "tls",
    "hosts",
    "allow_plain_http",
    "allow_inline_secrets",
    "cache",
    "default_upstream",
    "proxy",
    "sealed",
    "upstreams",
    "access",
    "applications",
    "licences",
    "drain_delay",
    "shutdown_grace",
    "log",
];

pub(super) const ADMIN: &[&str] = &["listen", "allow_plain_http"];

pub(super) const CACHE: &[&str] = &[
    "path",
    "max_size",
    "min_free",
    "tag_ttl",
    "stale_if_error",
    "proof_ttl",
    "abandon_after",
    "pins",
    "scrub",
    "scrub_rate",
];

pub(super) const UPSTREAM: &[&str] = &[
    "url",
    "aliases",
    "hosts",
    "token_hosts",
    "blob_hosts",
    "shares_with",
    "sealed",
    "proxy",
    "connect",
    "ca",
    "tls_verify",
    "push",
    "cache_pushes",
    "page_limit",
    "when_rejected",
    "credentials",
];

pub(super) const PROXY: &[&str] =
    &["url", "username", "password", "password_file", "password_env", "ca", "no_proxy"];

pub(super) const CREDENTIAL: &[&str] = &[
    "images",
    "username",
    "password",
    "password_file",
    "password_env",
    "docker_config",
    "helper",
    "licence_file",
];

pub(super) const TLS: &[&str] = &["certificate", "key", "client_ca", "client_auth"];

pub(super) const HOST: &[&str] = &["name", "unknown_credentials"];

pub(super) const ACCESS: &[&str] = &["users", "key_file", "trusted_proxies", "rules"];

pub(super) const RULE: &[&str] = &["who", "networks", "allow", "images", "applications"];

pub(super) const APPLICATION: &[&str] = &["images", "publishers"];

pub(super) const LICENCES: &[&str] = &["issuer", "public_keys", "revoked"];

pub(super) const LOG: &[&str] = &["format", "level"];
