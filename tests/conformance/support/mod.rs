//! The suite, the registry behind the proxy, the proxy, and how runs are compared.

pub(crate) mod distribution;
#[expect(dead_code, reason = "what only the other tests use")]
#[path = "../../clients/support/process.rs"]
mod process;
pub(crate) mod proxy;
pub(crate) mod suite;
pub(crate) mod tools;
pub(crate) mod verdict;
