//! Below the requests: connections, and the bytes that leave by them.
//!
//! `accept` takes connections, `places` says which of them stay, `serve` runs each to its end: TLS (`tls`), then hyper in one of its
//! two versions (`http`), which hands HTTP/2 requests to `streams`. `socket` stands below all of
//! these, and `delivery` is what it shares with response bodies (`body`). `memory` bounds what those
//! hold that wait, `patience` how long they may.

pub(in crate::server) mod accept;
pub(in crate::server) mod body;
pub(in crate::server) mod delivery;
pub(in crate::server) mod discard;
pub(in crate::server) mod http;
pub(in crate::server) mod memory;
mod patience;
pub(in crate::server) mod places;
pub(in crate::server) mod serve;
pub(in crate::server) mod socket;
pub(in crate::server) mod streams;
pub(in crate::server) mod tls;
