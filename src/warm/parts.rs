//! Of what an image consists, and what of it is still to be looked at.

use crate::oci::{Descriptor, Digest, MediaType, Platform, Reference};

/// Content that an image needs.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) digest: Digest,
    /// Bytes, as a manifest says.
    pub(super) size: u64,
    /// Of a manifest: as what it was served.
    pub(super) media_type: Option<MediaType>,
    /// The registry need not have it, and has not (image-spec, "Non-Distributable Layers").
    pub(super) left_out: bool,
    pub(super) is_foreign: bool,
}

/// A manifest that is to be looked at.
#[derive(Clone, Debug)]
pub(super) struct Awaited {
    pub(super) reference: Reference,
    /// How far it is from the image itself.
    pub(super) depth: usize,
    pub(super) role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The image or a part of it that runs, and for which platform if that is known.
    Image(Option<Platform>),
    /// Everything of it is wanted.
    Attached,
    /// A tag that may lead to something attached, or may not be there.
    MayBe,
}

impl Awaited {
    pub(super) fn attached(entry: &Descriptor, depth: usize) -> Self {
        let reference = Reference::Digest(entry.digest.clone());
        Self { reference, depth, role: Role::Attached }
    }
}

impl Part {
    pub(super) fn manifest(digest: Digest, size: u64, media_type: MediaType) -> Self {
        let media_type = Some(media_type);
        Self { digest, size, media_type, left_out: false, is_foreign: false }
    }

    pub(super) fn blob(listed: &Descriptor) -> Self {
        let Descriptor { digest, size, is_foreign, .. } = listed.clone();
        Self { digest, size, media_type: None, left_out: false, is_foreign }
    }

    pub(super) fn is_manifest(&self) -> bool {
        self.media_type.is_some()
    }
}
