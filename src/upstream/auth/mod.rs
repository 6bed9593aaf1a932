//! Who we are to an upstream, and how we show it; knows nothing of operations.
//!
//! `identity` is the login that a request is made with. `login` finds it for a repository, for
//! which a `helper` may have to run. `scheme` learns from the upstream's `challenge` whether the
//! login itself is sent or buys a `token`, and for which `scope`; `replacements` knows
//! when the refusal of a token is final.

pub(super) mod challenge;
pub(super) mod helper;
pub(super) mod identity;
pub(super) mod login;
mod rejected;
pub(super) mod replacements;
pub(super) mod scheme;
mod scope;
pub(super) mod token;
