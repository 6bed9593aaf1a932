//! The outbound side against registries, token servers and storage in this process.

mod answers;
mod auth;
mod breaker;
mod credential_helpers;
mod deadlines;
mod failures;
mod heads;
mod redirects;
mod scopes;
mod support;
mod throttle;
mod tls;
