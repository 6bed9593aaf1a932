//! The words of the OCI specifications, as types that cannot be wrong. Pure: no runtime, no files, no server.

mod digest;
mod error;
mod media_type;
mod name;
mod pattern;

pub use digest::{Algorithm, Digest, Hasher};
pub use error::{ErrorCode, ParseError, error_document};
pub use media_type::MediaType;
pub use name::{CanonicalName, Reference, Repository, Tag, UpstreamName};
pub use pattern::Pattern;
