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
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
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

pub(crate) use caller::Caller;
pub(crate) use credential::ClientCredential;
pub(crate) use forwarded::{client_address, is_trusted};
pub(crate) use gatekeeper::{Authenticated, Gatekeeper, KeyRing, PresentedCredential};
pub(crate) use keys::{generate_key, is_too_short};
pub(crate) use ledger::{LastPull, Ledger};
pub(crate) use policy::{Action, Denial, Grant, Policy};
pub(crate) use rejection::Rejection;
pub(crate) use token::{Issued, TOKEN_LIFE, TOKEN_LIFE_FOR_PUSH};
pub(crate) use users::Users;
pub(crate) use virtual_host::{VirtualHost, VirtualHosts};
