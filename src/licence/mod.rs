//! A customer's signed right to pull applications: names, the token, its keys, revocation (ACCESS §4). Pure: the time is an
//! argument, and files are read elsewhere.

mod name;

pub use name::{LicenceId, Slug};
