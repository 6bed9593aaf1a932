pub(in crate::server) mod accept;
pub(in crate::server) mod body;
pub(in crate::server) mod delivery;
pub(in crate::server) mod drain;
pub(in crate::server) mod socket;
pub(in crate::server) mod streams;
pub(in crate::server) mod tls;
