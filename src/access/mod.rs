//! Who asks, and what they may do (ACCESS §1, §3, §4, §5), decided before anything is looked up.
//!
//! `virtual_host` tells by which name the proxy was called and `forwarded` from which address;
//! `credential` reads what was presented, and `gatekeeper` makes an
//! [`Identity`](crate::identity::Identity) of it, with `users`, `passwords`, licences and our own
//! access `token`s, or a [`Rejection`]. `policy` then decides about one action on one image. Only
//! `passwords` waits for anything, and never past the deadline of the request.
//!
//! Beside that, `seal` encrypts what a client shall bring back unread, `keys` derives the keys of
//! both, and `ledger` remembers which licences are in use, for the operator alone.

mod caller;
mod credential;
mod forwarded;
mod gatekeeper;
mod keys;
mod ledger;
mod passwords;
mod policy;
mod rejection;
mod seal;
mod token;
mod users;
mod virtual_host;

pub use caller::Caller;
pub use credential::ClientCredential;
pub use forwarded::client_address;
pub use gatekeeper::{Authenticated, Gatekeeper, PresentedCredential};
pub use keys::generate_key;
pub use ledger::{LastPull, Ledger};
pub use policy::{Action, Denial, Grant, Policy};
pub use rejection::Rejection;
pub use token::{Issued, TOKEN_LIFE, TOKEN_LIFE_FOR_PUSH};
pub use users::Users;
pub use virtual_host::{VirtualHost, VirtualHosts};
