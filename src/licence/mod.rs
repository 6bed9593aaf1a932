//! A customer's signed right to pull applications: names, the token and its keys, times and
//! revocation (ACCESS §4).
//!
//! Pure: the time is an argument, and files are read elsewhere.

pub mod calendar;
mod claimed;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod key;
mod name;
mod standing;
mod token;

pub use claimed::ClaimedLicence;
pub use key::{KeyId, PrivateKey, PublicKey};
pub use name::{APPLICATION_PREFIX, LicenceId, Slug};
pub use standing::{EXPIRY_NOTICE, Revocations, SKEW, Standing, Term, revocation_line};
pub use token::{
    LICENCE_TOKEN_BYTES_MAX, Licence, LicenceRefusal, PublicKeys, SignedLicence, unverified,
    unwrapped,
};
