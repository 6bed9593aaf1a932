pub(in crate::upstream) mod body;
pub(in crate::upstream) mod dial;
pub(in crate::upstream) mod feed;
pub(in crate::upstream) mod gate;
pub(in crate::upstream) mod request;
pub(in crate::upstream) mod throttle;
pub(in crate::upstream) mod tls;
