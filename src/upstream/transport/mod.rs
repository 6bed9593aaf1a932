//! HTTP towards one upstream and whatever it redirects to; knows nothing of logins or operations.
//!
//! `send` asks whether somebody is left alone (`reachability`, by the rules of `breaker`).
//! `request` is one exchange: through the `gate`, by one of the two clients of `dial`. Their
//! connections are made by `connect`: the `way` says where to, `resolve` finds the addresses,
//! `tunnel` leads through a proxy, `tls` secures, and a `wire` comes of it. `body` is what comes
//! back, `feed` what an upload sends. `throttle` remembers who asked for a pause.

pub(super) mod body;
mod breaker;
mod connect;
pub(super) mod dial;
pub(super) mod feed;
pub(super) mod gate;
mod reachability;
pub(super) mod request;
pub(super) mod resolve;
mod send;
pub(super) mod throttle;
pub(super) mod tls;
mod tunnel;
mod way;
mod wire;
