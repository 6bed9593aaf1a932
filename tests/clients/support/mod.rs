//! What the tests run and arrange: other programs, the proxy, registries, a vendor, images, and the
//! clients that people have.

pub(crate) mod crash;
pub(crate) mod enclave;
pub(crate) mod http_client;
pub(crate) mod image;
#[path = "../../cli/support/licence_file.rs"]
pub(crate) mod licence_file;
pub(crate) mod memory_registry;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod push_client;
pub(crate) mod registry;
pub(crate) mod sandbox;
pub(crate) mod tcp_forwarder;
pub(crate) mod token_server;
pub(crate) mod tools;
pub(crate) mod vendor;
