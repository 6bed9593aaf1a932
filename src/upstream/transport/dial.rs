//! The two HTTP clients of an upstream, and how they turn names into addresses.
//!
//! Both go through one [`Lookup`]. The client for configured hosts takes any address; the one for
//! hosts that somebody else named drops every address that is not public and connects to exactly
//! those that remain, so that there is no second lookup to answer differently.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use rustls::RootCertStore;

use super::gate::{ForbiddenUrl, is_public};
use super::tls::{self, BoxError};
use crate::config;
use crate::limits::Limits;
use crate::upstream::cause::LookupFailed;

/// Below the 60 s after which load balancers commonly drop an idle connection.
const POOL_IDLE_TIME: Duration = Duration::from_secs(50);
/// Idle connections that are kept for each host.
const POOL_IDLE_CONNECTIONS: usize = 32;

/// How names become addresses: the system's way, or another that a test hands in.
#[derive(Clone)]
pub struct Lookup(Arc<dyn Fn(String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> + Send + Sync>);

impl Lookup {
    /// The system's resolver.
    pub fn system() -> Self {
        Self::new(|name| async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }

    /// Resolves by `lookup`, which gets the bare host name.
    pub fn new<F>(lookup: impl Fn(String) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |name| Box::pin(lookup(name))))
    }
}

impl Default for Lookup {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup(…)")
    }
}

/// Gives reqwest the addresses of a name, all of them or the public ones.
struct Resolver {
    lookup: Lookup,
    only_public: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let found = (self.lookup.0)(name.as_str().to_owned());
        let only_public = self.only_public;
        Box::pin(async move {
            let found = found.await.map_err(LookupFailed)?;
            let has_addresses = !found.is_empty();
            let allowed: Vec<_> =
                found.into_iter().filter(|address| !only_public || is_public(*address)).collect();
            // A name without any address is left to fail as such; this one has some, and all of
            // them are internal (RELIABILITY §2.2).
            if has_addresses && allowed.is_empty() {
                return Err(ForbiddenUrl::PrivateName.into());
            }
            // Port 0 is replaced by that of the URL.
            Ok(Box::new(allowed.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

/// The clients of one upstream; [`DialVia`](super::gate::DialVia) says which is for what.
#[derive(Debug)]
pub(in crate::upstream) struct HttpClients {
    pub(in crate::upstream) configured: reqwest::Client,
    pub(in crate::upstream) public: reqwest::Client,
}

impl HttpClients {
    /// Builds both clients. The operator's leave not to verify holds for configured hosts only.
    pub(in crate::upstream) fn new(
        config: &config::Upstream,
        roots: &RootCertStore,
        limits: &Limits,
        lookup: &Lookup,
    ) -> Result<Self, BoxError> {
        let client = |verify: bool, only_public: bool| -> Result<reqwest::Client, BoxError> {
            let tls = tls::client_config(roots.clone(), verify)?;
            let resolver = Resolver { lookup: lookup.clone(), only_public };
            Ok(plain_client(limits)
                .dns_resolver(Arc::new(resolver))
                .tls_backend_preconfigured(tls)
                .build()?)
        };
        // Two, since a client has one resolver and one TLS configuration.
        Ok(Self { configured: client(config.tls_verify, false)?, public: client(true, true)? })
    }
}

/// A client that does nothing on its own: no redirects, retries, proxies, decompression or
/// referers. Each would be a request or a change of bytes that the gate, the retry policy or the
/// digest does not see.
fn plain_client(limits: &Limits) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("roadstead/", env!("CARGO_PKG_VERSION")))
        .http1_only()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .tcp_nodelay(true)
        .connect_timeout(limits.connect)
        .pool_idle_timeout(POOL_IDLE_TIME)
        .pool_max_idle_per_host(POOL_IDLE_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolved(
        only_public: bool,
        found: &'static [&'static str],
    ) -> Result<Vec<String>, BoxError> {
        let lookup = Lookup::new(move |_| async move {
            Ok(found.iter().map(|a| a.parse().expect("valid")).collect())
        });
        let addresses = Resolver { lookup, only_public }.resolve("name".parse()?).await?;
        Ok(addresses.map(|address| address.ip().to_string()).collect())
    }

    #[tokio::test]
    async fn the_public_client_sees_public_addresses_only() {
        let mixed = &["10.0.0.1", "1.1.1.1", "::1", "2606:4700::1111", "169.254.169.254"];
        assert_eq!(
            resolved(true, mixed).await.expect("two are public"),
            ["1.1.1.1", "2606:4700::1111"]
        );
        assert_eq!(resolved(false, mixed).await.expect("all").len(), 5);
    }

    #[tokio::test]
    async fn a_name_with_private_addresses_only_is_refused() {
        let error = resolved(true, &["127.0.0.1", "::1"]).await.expect_err("refused");
        assert_eq!(error.downcast_ref::<ForbiddenUrl>(), Some(&ForbiddenUrl::PrivateName));
    }
}
