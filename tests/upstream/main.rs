//! The outbound side against registries, token servers and storage in this process.

mod answers;
mod auth;
mod gate;
mod gates;
mod helpers;
mod origin;
mod tls;
