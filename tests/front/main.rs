//! The proxy as its clients see it: the whole of it in this process, in front of scripted registries.

mod blobs;
mod harness;
mod herd;
mod manifests;
mod ping;
mod routing;
mod support;
