//! What is to be warmed.

use crate::oci::{CanonicalName, ImageReference, Reference};
use crate::wanted::WantedPlatforms;

#[derive(Clone, Debug)]
pub(crate) struct WarmOrder {
    pub(crate) images: Vec<WarmImage>,
    /// Blobs that are fetched at once; at least one.
    pub(crate) jobs: usize,
    /// Only manifests are fetched, to say what is missing.
    pub(crate) dry_run: bool,
    /// The report says of what the images consist.
    pub(crate) contents: bool,
}

/// An image, and what of it is wanted.
#[derive(Clone, Debug)]
pub(crate) struct WarmImage {
    /// As the list names it.
    pub(crate) image: ImageReference,
    /// Where it is to be had.
    pub(crate) name: CanonicalName,
    pub(crate) platforms: WantedPlatforms,
    /// Signatures and the like, too.
    pub(crate) referrers: bool,
}

impl WarmImage {
    /// As clients do, who do not look at a tag beside a digest.
    pub(super) fn reference(&self) -> Option<Reference> {
        let digest = self.image.digest().cloned().map(Reference::Digest);
        digest.or_else(|| self.image.tag().cloned().map(Reference::Tag))
    }
}
