//! The clients' side: hyper on a listener that is already bound.
//!
//! Plain connections speak HTTP/1.1; with TLS the client chooses HTTP/1.1 or HTTP/2 by ALPN. Behind
//! `connection` nothing knows the version.
//!
//! | module | job |
//! |---|---|
//! | `connection` | accepts, encrypts, runs hyper; bodies and the socket that they leave by |
//! | `service` | one request from its head to its answer: who asks, what for, may they |
//! | `request` | what is known of a request at each of these steps |
//! | `identify` | who asks, and how callers are turned away |
//! | `token` | the token endpoint |
//! | `reads`, `listing` | what may be read is looked up |
//! | `writes` | what may be written is passed on |
//! | `error`, `respond` | failures become refusals; status and headers of every answer |
//! | `foreign`, `request_id` | what strangers write, as it may stand in a log line; a name for each request |
//! | `notes`, `exchange` | what was found out about a request; its log line and its metrics, written when its last byte has left |
//! | `snapshot` | the part of the configuration that a request is answered under |

mod connection;
mod error;
mod exchange;
mod foreign;
mod identify;
mod listing;
mod notes;
mod reads;
mod request;
mod request_id;
mod respond;
mod service;
mod snapshot;
mod token;
mod whole_body;
mod writes;

pub(crate) use connection::accept::accept;
pub(crate) use connection::memory::ClientMemory;
pub(crate) use connection::places::ConnectionPlaces;
pub(crate) use connection::serve::run;
pub(crate) use connection::tls::TlsContext;
pub(crate) use request_id::RequestIds;
pub(crate) use service::Service;
pub(crate) use snapshot::RequestConfig;
