//! roadstead: a pull-through caching proxy for container registries.

pub mod access;
pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod limits;
pub mod metrics;
pub mod oci;
pub mod pull;
pub mod route;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod upstream;
