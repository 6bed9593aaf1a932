//! The proxy as its clients see it: the whole of it in this process, in front of scripted registries.

mod blobs;
mod corruption;
mod harness;
mod herd;
mod manifests;
mod membership;
mod ping;
mod ranges;
mod resume;
mod routing;
mod streaming;
mod support;
mod tags;
mod throttle;
mod upstream_down;
