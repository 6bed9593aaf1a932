//! HTTP towards one upstream and whatever it redirects to; knows nothing of logins or operations.
//!
//! `send` asks whether somebody is left alone (`reachability`, by the rules of `breaker`). `request`
//! is one exchange: through the `gate`, by one of the two clients of `dial` and `tls`. `body` is what
//! comes back, `feed` what an upload sends. `throttle` remembers who asked for a pause.

pub(super) mod body;
mod breaker;
pub(super) mod dial;
pub(super) mod feed;
pub(super) mod gate;
mod reachability;
pub(super) mod request;
mod send;
pub(super) mod throttle;
pub(super) mod tls;
