//! Who asks, and what they may do (ACCESS §1, §3, §4, §5), decided before anything is looked up.
//!
//! `door` tells by which name the proxy was called and `forwarded` from where; `credential` reads
//! what was presented, and `gatekeeper` makes a [`Principal`] of it, with `users`, `passwords`,
//! licences and our own `token`s; `seal` closes what only we shall read again. `policy` then
//! decides about one action on one image. Only `passwords` waits for anything. `ledger` remembers
//! which licences are in use, and decides nothing.

mod caller;
mod credential;
mod forwarded;
mod gatekeeper;
mod keys;
mod ledger;
mod passwords;
mod policy;
mod seal;
mod token;
mod users;
mod virtual_host;

pub use caller::{Caller, Principal};
pub use credential::Credential;
pub use forwarded::client_address;
pub use gatekeeper::{Authenticated, Gatekeeper, Presented, Rejection};
pub use keys::generate_key;
pub use ledger::{LastPull, Ledger};
pub use policy::{Action, Denial, Grant, Policy};
pub use token::{Issued, LIFE, LIFE_FOR_PUSH};
pub use users::Users;
pub use virtual_host::{Door, Doors};
