//! Upstream registries: the only code that dials out, and the only code that runs other programs.
//!
//! `upstreams` makes a `client` of each configured upstream; `heads`, `reads`, `uploads` and
//! `writes` are its operations. Each becomes a call, which `call` runs until it is answered or its
//! deadline passes: with the login and token that `auth` finds, through the HTTP of `transport`.
//! Each of these uses only those behind it; all use `answer`, which reads what the headers of an
//! answer say, `verdict`, which judges whose word an answer without content is, `error`, and
//! `cause`, which reads why there was none.
//!
//! Whether anything is sent at all, two gates decide: the breaker (is the upstream reachable) and
//! the throttle (did it ask for a pause). Where it is sent, `transport::gate` decides for every
//! URL, the first as well as redirects and token realms. Nothing that a client sent is passed on as
//! it is: requests are built here from names, digests and ranges.

mod answer;
mod auth;
mod call;
mod cause;
mod client;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod heads;
mod reads;
mod room;
mod seal;
mod transport;
mod uploads;
mod upstreams;
mod verdict;
mod writes;

pub use client::UpstreamClient;
pub use error::{Error, ErrorKind, FailureClass};
pub use heads::ManifestHead;
pub use reads::{BlobResponse, FetchedManifest, Page};
pub use seal::SealStatus;
pub use transport::body::BlobBody;
pub use transport::feed::{Closed, Feed, UploadBody, feed};
pub use transport::resolve::Lookup;
pub use uploads::{UploadAddress, UploadChunk, UploadProgress, UploadStart, UploadStatus};
pub use upstreams::{BuildError, NextUpstreams, PresentedLicence, Upstreams};
pub use writes::{AcceptedManifest, DeleteTarget, NewManifest};
