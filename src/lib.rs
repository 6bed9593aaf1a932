//! roadstead: a pull-through caching proxy for container registries.
//!
//! A client asks for a manifest or a blob of a repository. If the registry has confirmed that the
//! repository holds it, it is served from disk. Else it is fetched from the registry once, into a
//! file that everybody who asks for it reads while it grows.
//!
//! The modules, each using only what stands above it (`tests/architecture.rs` checks that):
//!
//! | module | what it is |
//! |---|---|
//! | [`limits`], [`clock`], [`expiring`] | deadlines and bounds that tests shorten; the wall clock as an argument; a cache that ends by it |
//! | [`secret`], [`files`] | text that is never printed; reading and writing of small files, with a bound |
//! | [`oci`] | the spec's types and grammar: digests, names, endpoints, ranges, manifests, error codes. Pure |
//! | [`identity`], [`jws`] | who somebody is, as rules and logs write it; signed tokens. Pure |
//! | [`wanted`] | which images lists, manifests, compose files and charts name. Pure |
//! | [`licence`] | a customer's signed right: its token, keys, revocation. Pure |
//! | [`config`] | YAML in, every problem at once or a [`config::Config`] out; secrets; presets of registries |
//! | `bundle` | images as files that are carried to where no registry is, and proof of what they are |
//! | [`metrics`], [`telemetry`] | one struct of metric handles; log lines that never block |
//! | [`route`] | from host, prefix, image name and `ns` to an upstream and a repository. Pure |
//! | [`access`] | who asks, and who may do what, decided before anything is looked up. Pure but for the checking of passwords |
//! | [`store`] | the disk: verified content by digest, records, eviction, recovery |
//! | [`upstream`] | the network: one gate for every URL, credentials, tokens, retries, breakers |
//! | [`pull`] | the cache itself: flights, fills, tails, proofs, freshness. The only one that sees both of the above |
//! | [`push`] | writes, passed through to a private registry, and what the cache keeps of them |
//! | [`scrub`] | stored files are read again once in a while, so that rot is found before it is served |
//! | [`warm`] | images that are brought in before anybody pulls them |
//! | `import` | what a trusted bundle says of content that has come, taken over |
//! | [`server`] | hyper for clients: accept, parse, route, authorise, answer, log |
//! | [`admin`] | metrics, health and readiness on a listener of their own |
//! | [`reload`] | configuration, users, licence keys, revocations and certificate, each read again and replaced by itself |
//! | [`app`] | the composition root: a configuration becomes a running proxy |
//! | [`cli`] | the commands, and their exit codes |
//! | `fuzzing` | in tests and for `fuzz/` alone: what has to hold whatever strangers write |
//!
//! One blob, top to bottom:
//!
//! 1. `server::connection` accepts the client and runs hyper; `server::service` reads the request
//!    into an [`oci::Endpoint`].
//! 2. `server::identify` finds out who asks, [`route::Routes::resolve`] which upstream and
//!    repository are meant, and [`access::Policy::decide`] whether the caller may read them.
//! 3. [`pull::PullThrough::blob`] asks whether the repository is proven to hold the digest, and
//!    opens it with [`store::BlobStore::open`], or joins or starts the flight that brings it with
//!    [`upstream::UpstreamClient::get_blob`].
//! 4. What the flight receives is written by [`store::Staged`], and becomes visible only as
//!    [`store::Verified`].
//! 5. The answer travels up through `server::respond`, and is logged when its last byte has left.
//!
//! ARCHITECTURE.md tells the same with the words, the disk, and the invariants; `docs/rules.md`
//! lists the rules that comments cite.

mod access;
mod admin;
pub mod app;
mod bundle;
pub mod cli;
pub mod clock;
pub mod config;
mod control;
mod expiring;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod identity;
mod images;
mod import;
mod jws;
pub mod licence;
pub mod limits;
pub mod metrics;
mod misses;
pub mod oci;
pub mod pull;
mod push;
mod reload;
mod route;
mod scrub;
pub mod secret;
mod server;
mod shortage;
pub mod store;
mod telemetry;
pub mod upstream;
mod wanted;
mod warm;
