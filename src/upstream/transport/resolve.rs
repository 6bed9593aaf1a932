//! How names become addresses.
//!
//! Two connectors go through one [`Lookup`]. The one for configured hosts takes any address; the
//! one for hosts that somebody else named drops every address that is not public, and exactly those
//! that remain are connected to, so that there is no second lookup to answer differently.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::vec;

use futures_util::future::BoxFuture;
use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use super::gate::{ForbiddenUrl, is_public};
use super::tls::BoxError;
use crate::upstream::cause::LookupFailed;

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

/// Gives a connector the addresses of a name, all of them or the public ones.
#[derive(Clone)]
pub(super) struct Resolver {
    pub(super) lookup: Lookup,
    pub(super) only_public: bool,
}

impl Resolver {
    async fn resolve(self, name: String) -> Result<vec::IntoIter<SocketAddr>, BoxError> {
        let found = (self.lookup.0)(name).await.map_err(LookupFailed)?;
        let has_addresses = !found.is_empty();
        let is_allowed = |address: &IpAddr| !self.only_public || is_public(*address);
        // Port 0 is replaced by that of the URL.
        let allowed: Vec<_> =
            found.into_iter().filter(is_allowed).map(|address| (address, 0).into()).collect();
        // A name without any address is left to fail as such; this one has some, and all of them
        // are internal (RELIABILITY §2.2).
        if has_addresses && allowed.is_empty() {
            return Err(ForbiddenUrl::PrivateName.into());
        }
        Ok(allowed.into_iter())
    }
}

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(self.clone().resolve(name.as_str().to_owned()))
    }
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
        let addresses = Resolver { lookup, only_public }.resolve("name".to_owned()).await?;
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
