//! Header names of registries that HTTP itself does not define (PROTOCOL §3.11).

use http::HeaderName;

/// The digest of what is answered. Clients compare it; bytes decide.
pub const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// `registry/2.0`: how old clients recognise a registry.
pub const DOCKER_API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");
/// The name of an upload, for clients that do not read its Location.
pub const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// The registry that a mirror answered for: the `ns` of the request.
pub const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
/// The fewest bytes that the registry takes in one PATCH.
pub const OCI_CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// The subject of a manifest that was put, from a registry that lists referrers.
pub const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// A tag that a manifest has been put under, by the parameter `tag`.
pub const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
/// `artifactType`, if the referrers were filtered by it.
pub const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// Docker Hub: pulls in a window, as `100;w=21600`.
pub const RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
/// Docker Hub: pulls that are left in the current window, as `76;w=21600`.
pub const RATELIMIT_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
