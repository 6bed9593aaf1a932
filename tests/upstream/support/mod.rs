//! What the tests arrange and ask: servers in this process, an upstream that is pointed at them,
//! and the content that it is asked for.

mod helper;
mod origin;
mod setup;

use std::time::Duration;

use bytes::Bytes;
use roadstead::oci::{Algorithm, Digest, MediaType, Reference, Repository};
use roadstead::upstream::NewManifest;
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

pub(crate) fn manifest_to_put() -> NewManifest {
    let (media_type, bytes) = (MediaType::parse(MANIFEST).expect("valid"), Bytes::from("{}"));
    NewManifest { reference: tag(), tags: Vec::new(), media_type, bytes }
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
