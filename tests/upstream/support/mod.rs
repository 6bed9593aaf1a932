//! What the tests arrange and ask: servers in this process, an upstream that is pointed at them,
//! and the content that it is asked for.

mod helper;
mod origin;
mod setup;

use std::time::Duration;

use roadstead::oci::{Algorithm, Digest, Reference, Repository};
use tokio::time::Instant;

pub(crate) use helper::{Helper, LOGIN};
pub(crate) use origin::{
    MANIFEST, Origin, Reply, Seen, absent, bind, canary, closed_port, manifest, origin, raw,
    raw_then, reply,
};
pub(crate) use setup::{Setup, loopback_lookup};

/// A deadline that no test reaches.
pub(crate) fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

pub(crate) fn repository() -> Repository {
    Repository::parse("team/app").expect("valid")
}

pub(crate) fn tag() -> Reference {
    Reference::parse("latest").expect("valid")
}

pub(crate) fn digest() -> Digest {
    Digest::of(Algorithm::Sha256, b"blob")
}

/// An error with its whole chain, as a log would show it.
pub(crate) fn shown(error: &roadstead::upstream::Error) -> String {
    let mut text = format!("{error} {error:?}");
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text = format!("{text} <- {source} {source:?}");
        next = source.source();
    }
    text
}
