//! roadstead: a pull-through caching proxy for container registries.
//!
//! A client asks for a manifest or a blob. It is served from disk if its repository is known to
//! hold it; else it is fetched from its registry once, into a file that everybody who asks reads
//! while it grows.
//!
//! The modules, each using only what stands above it (`tests/architecture.rs` sees to that):
//!
//! | module | what it is |
//! |---|---|
//! | [`limits`], [`clock`], [`expiring`] | deadlines and bounds that tests shorten; the wall clock as an argument; a cache that ends by it |
//! | [`oci`] | the spec's types and grammar: digests, names, endpoints, ranges, manifests, error codes. Pure |
//! | [`identity`], [`jws`] | who somebody is, as rules and logs write it; signed tokens. Pure |
//! | [`licence`] | a customer's signed right: its token, keys, revocation. Pure |
//! | [`config`] | YAML in, every problem at once or a [`config::Config`] out; secrets; presets of registries |
//! | [`metrics`], [`telemetry`] | one struct of metric handles; log lines that never block |
//! | [`route`] | from host, prefix, image name and `ns` to an upstream and a repository. Pure |
//! | [`access`] | who may do what, asked before anything is looked up. Pure |
//! | [`store`] | the disk: verified content by digest, records, eviction, recovery |
//! | [`upstream`] | the network: one gate for every URL, credentials, tokens, retries, breakers |
//! | [`pull`] | the cache itself: flights, fills, tails, proofs, freshness. The only one that sees both of the above |
//! | [`push`] | writes, passed through to a private registry, and what the cache keeps of them |
//! | [`server`] | hyper for clients: parse, route, authorise, answer, log |
//! | [`admin`] | metrics, health and readiness on a listener of their own |
//! | [`reload`] | users, licence keys, revocations and certificate, each read and replaced by itself |
//! | [`app`] | the composition root: a configuration becomes a running proxy |
//! | [`cli`] | `serve` and `check`, and their exit codes |
//!
//! One blob, top to bottom: `server::service` reads the request into an [`oci::Endpoint`],
//! `server::identify` finds out who asks, [`route::Routes::resolve`] what is meant, and
//! [`access::Policy::decide`] whether they may; [`pull::PullThrough::blob`] proves the repository's
//! right to the digest and opens it with [`store::BlobStore::open`], or joins or starts the flight
//! that brings it with [`upstream::UpstreamClient::get_blob`]. What the flight writes goes through
//! [`store::Staged`] and becomes visible only as [`store::Verified`]. The answer travels up, and is
//! logged when its last byte has left.
//!
//! ARCHITECTURE.md tells the same with the words, the disk, and the invariants; `docs/rules.md`
//! lists the rules that comments cite.

pub mod access;
pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod expiring;
pub mod files;
pub mod identity;
pub mod jws;
pub mod licence;
pub mod limits;
pub mod metrics;
pub mod oci;
pub mod pull;
pub mod push;
pub mod reload;
pub mod route;
pub mod secret;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod upstream;
