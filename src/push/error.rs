//! Why something could not be pushed.

use std::time::Duration;

use crate::upstream;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the registry says, or that it says nothing.
    #[error("{0}")]
    Upstream(#[from] upstream::Error),
    /// The upstream is no longer configured.
    #[error("the upstream is not configured any more")]
    Gone,
    /// The process ends.
    #[error("the proxy is being stopped")]
    Abandoned,
    /// The registry answered something that makes no sense here.
    #[error("the registry answered with {0}")]
    Untrue(&'static str),
    /// A manifest by a digest that it does not have.
    #[error("the manifest does not have the digest that it is put under")]
    WrongDigest,
    /// The client broke off, or sent something else than it announced.
    #[error("the client broke off: {0}")]
    ClientBrokeOff(String),
    /// The client sent nothing for too long.
    #[error("the client sent nothing for {} s", .0.as_secs())]
    ClientStalled(Duration),
    /// The registry took nothing for too long.
    #[error("the registry took nothing for {} s", .0.as_secs())]
    RegistryStalled(Duration),
}
