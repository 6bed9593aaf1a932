//! The proxy as its clients see it: the whole of it in this process, in front of scripted registries.

mod bad_input;
mod blobs;
mod corruption;
mod errors;
mod eviction;
mod harness;
mod herd;
mod manifests;
mod membership;
mod metrics;
mod ping;
mod ranges;
mod referrers;
mod restart;
mod resume;
mod review_edges;
mod routing;
mod secrets;
mod shutdown;
mod streaming;
mod support;
mod tags;
mod tags_list;
mod throttle;
mod upstream_down;
