//! The words of the OCI specifications, as types that cannot be wrong. Pure: no runtime, no files,
//! no server.

mod digest;
mod endpoint;
mod error;
mod extent;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub mod headers;
mod image;
mod manifest;
mod media_type;
mod name;
mod pattern;
mod platform;
mod query;
mod range;
mod retry_after;
mod upload;

pub use digest::{Algorithm, Digest, Hasher};
pub use endpoint::{Endpoint, Target, blob_path, manifest_path, referrers_path, tags_path};
pub use error::{ErrorCode, ParseError, error_document, is_invisible, message_of_document};
pub use extent::{ContentRange, Extent, Part};
pub use image::{ImageQuery, ImageReference};
pub use manifest::{ACCEPT, Descriptor, Manifest, ManifestError};
pub use media_type::{MediaType, OCI_INDEX};
pub use name::{
    CanonicalName, Reference, Repository, Tag, UpstreamName, ipv6_literal, needs_no_lookup,
    split_port,
};
pub use pattern::Pattern;
pub use platform::Platform;
pub use query::{Namespace, Ns, PageQuery, normal_host};
pub use range::{
    ByteRange, ByteSpan, RangeRequest, Resolved, entity_tag, if_range_matches, none_match,
};
pub use retry_after::{parse_retry_after, retry_after_seconds};
pub use upload::{ChunkRange, UploadQuery, tag_parameters, uploads_path};
