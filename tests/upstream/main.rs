//! The outbound side against registries, token servers and storage in this process.

mod answers;
mod auth;
mod gate;
mod gates;
mod origin;
mod tls;
