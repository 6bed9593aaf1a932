//! HTTP towards one upstream and whatever it redirects to; knows nothing of logins or operations.
//!
//! `request` sends: through the `gate`, by one of the two clients of `dial` and `tls`. `body` is
//! what comes back, `feed` what an upload sends. `throttle` remembers who asked for a pause.

pub(super) mod body;
pub(super) mod dial;
pub(super) mod feed;
pub(super) mod gate;
pub(super) mod request;
pub(super) mod throttle;
pub(super) mod tls;
