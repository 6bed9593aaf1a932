//! The files that make a bundle an OCI image layout (image-spec, "image-layout").

use serde_json::{Value, json};

use super::statement::{BundledImage, Statement};

pub(super) const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// `index.json`: one entry for each image, under its full reference, as skopeo, containerd, oras and
/// podman look for it.
pub(super) fn index(statement: &Statement) -> Vec<u8> {
    let entries = statement.images.iter().map(|image| entry(statement, image));
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries.collect::<Vec<_>>(),
    });
    index.to_string().into_bytes()
}

fn entry(statement: &Statement, image: &BundledImage) -> Value {
    let manifest = statement.contents.iter().find(|content| content.digest == image.digest);
    let reference = full_reference(image);
    json!({
        "mediaType": image.media_type.as_str(),
        "digest": image.digest.as_str(),
        "size": manifest.map_or(0, |manifest| manifest.size),
        "annotations": {
            "org.opencontainers.image.ref.name": reference,
            "io.containerd.image.name": reference,
        },
    })
}

fn full_reference(image: &BundledImage) -> String {
    match &image.tag {
        Some(tag) => format!("{}:{tag}", image.name),
        None => format!("{}@{}", image.name, image.digest),
    }
}
