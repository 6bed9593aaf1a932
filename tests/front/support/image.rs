//! Images: manifests, configs and layers whose digests are true.

use bytes::Bytes;
use roadstead::oci::{Algorithm, Digest};
use serde_json::json;

use super::content::{Blob, Content};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The exact bytes of a manifest and the type they are served with.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) bytes: Bytes,
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
}

impl Manifest {
    /// Keeps `bytes` as they are, however oddly they are formatted.
    pub(crate) fn new(media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self { digest: Digest::of(Algorithm::Sha256, &bytes), media_type: media_type.into(), bytes }
    }

    /// An index of `manifests`.
    pub(crate) fn index(manifests: &[&Manifest]) -> Self {
        let entries: Vec<_> = manifests
            .iter()
            .map(|m| json!({ "mediaType": m.media_type, "digest": m.digest.as_str(), "size": m.bytes.len() }))
            .collect();
        let document = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries });
        Self::new(OCI_INDEX, document.to_string())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) manifest: Manifest,
    pub(crate) config: Blob,
    pub(crate) layers: Vec<Blob>,
}

impl Image {
    /// An image whose layers have these sizes, different for each seed.
    pub(crate) fn new(seed: u64, layers: &[u64]) -> Self {
        let numbered = layers.iter().zip(1..);
        Self::of(seed, numbered.map(|(len, n)| Blob::seeded(seed * 1000 + n, *len)).collect())
    }

    /// An image of these layers.
    pub(crate) fn of(seed: u64, layers: Vec<Blob>) -> Self {
        let config = Blob::new(Content::given(json!({ "os": "linux", "seed": seed }).to_string()));
        let document = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers.iter().map(|l| descriptor("application/vnd.oci.image.layer.v1.tar+gzip", l)).collect::<Vec<_>>(),
        });
        Self { manifest: Manifest::new(OCI_MANIFEST, document.to_string()), config, layers }
    }
}

fn descriptor(media_type: &str, blob: &Blob) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": blob.digest.as_str(), "size": blob.len() })
}
