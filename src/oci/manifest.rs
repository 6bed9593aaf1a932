//! What is read of a manifest. Its bytes are kept and served as they came; they are never written
//! anew (MAN-1).
//!
//! Scope: enough to refuse what a client could read in two ways, and to know the sizes that it
//! promises. A manifest that lists a digest proves nothing about who may have it (DESIGN §14.1).

use serde::Deserialize;
use serde_json::Value;

use super::{Digest, MediaType, Platform};

/// The `Accept` of every manifest request, so that no answer depends on who asked first (MAN-3).
pub const ACCEPT: &str = "application/vnd.docker.distribution.manifest.v2+json, \
                          application/vnd.docker.distribution.manifest.list.v2+json, \
                          application/vnd.oci.image.manifest.v1+json, \
                          application/vnd.oci.image.index.v1+json, \
                          */*";

/// Deepest nesting of objects and arrays; real manifests have five levels.
const DEPTH_MAX: usize = 32;

/// The content that a manifest lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    descriptors: Vec<Descriptor>,
    subject: Option<Digest>,
    is_index: bool,
}

/// One listed piece of content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub digest: Digest,
    /// In bytes, as the manifest claims.
    pub size: u64,
    /// What it is for, if an index says so.
    pub platform: Option<Platform>,
    /// The manifest of the same index that it says something about, as attestations of `BuildKit` do.
    pub about: Option<Digest>,
    /// A layer whose licence may forbid registries to hand it out; clients know where else to get
    /// it.
    pub is_foreign: bool,
}

/// Under which an attestation in an index names the image that it is about.
const ABOUT: &str = "vnd.docker.reference.digest";

/// Why a body is not served as a manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("{0} is not the media type of a manifest")]
    NotAManifest(MediaType),
    #[error("schema 1 manifests are not supported; push the image again with a current client")]
    SchemaOne,
    #[error("the manifest is not a JSON object")]
    NotAnObject,
    #[error("the manifest nests deeper than {DEPTH_MAX} levels")]
    TooDeep,
    #[error("the manifest is not UTF-8")]
    NotText(#[source] std::str::Utf8Error),
    #[error("the manifest is not of the expected form")]
    Malformed(#[source] serde_json::Error),
    #[error("the manifest calls itself {body:?} but was sent as {header}")]
    TypeMismatch { header: MediaType, body: String },
    #[error("the manifest lists both manifests and layers")]
    Ambiguous,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    subject: Option<RawDescriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    digest: Option<String>,
    size: Option<u64>,
    platform: Option<Value>,
    media_type: Option<Value>,
    annotations: Option<Value>,
}

impl Manifest {
    /// Reads a manifest that was sent as `media_type`. Digests that cannot be verified are left
    /// out.
    ///
    /// # Errors
    /// [`ManifestError`]: it is no manifest, or two clients could take it for two different things
    /// (CVE-2021-41190).
    pub fn inspect(bytes: &[u8], media_type: &MediaType) -> Result<Self, ManifestError> {
        check_type(media_type)?;
        if bytes.trim_ascii_start().first() != Some(&b'{') {
            return Err(ManifestError::NotAnObject);
        }
        if depth(bytes) > DEPTH_MAX {
            return Err(ManifestError::TooDeep);
        }
        // From bytes, serde would not look at what it skips.
        let text = str::from_utf8(bytes).map_err(ManifestError::NotText)?;
        let raw: Raw = serde_json::from_str(text).map_err(ManifestError::Malformed)?;
        raw.check(media_type)?;
        let subject =
            raw.subject.as_ref().and_then(|subject| Digest::parse(subject.digest.as_deref()?).ok());
        let is_index = raw.manifests.is_some();
        Ok(Self { descriptors: raw.descriptors(), subject, is_index })
    }

    /// What it is a referrer of.
    pub fn subject(&self) -> Option<&Digest> {
        self.subject.as_ref()
    }

    /// Whether it lists manifests, not the parts of one image.
    pub fn is_index(&self) -> bool {
        self.is_index
    }

    /// Everything listed: config and layers, or manifests; in their order.
    pub fn descriptors(&self) -> &[Descriptor] {
        &self.descriptors
    }
}

/// A web page or a bare `application/json` is an answer from something else than a registry (MAN-4,
/// MAN-11).
fn check_type(media_type: &MediaType) -> Result<(), ManifestError> {
    match media_type.as_str() {
        "application/vnd.docker.distribution.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v1+prettyjws" => {
            Err(ManifestError::SchemaOne)
        }
        text if text.starts_with("application/") && text.ends_with("+json") => Ok(()),
        _ => Err(ManifestError::NotAManifest(media_type.clone())),
    }
}

/// How deep objects and arrays nest, whatever else is wrong with the text.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in json {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

impl Raw {
    fn check(&self, header: &MediaType) -> Result<(), ManifestError> {
        if self.schema_version == Some(1) {
            return Err(ManifestError::SchemaOne);
        }
        if let Some(body) = self
            .media_type
            .as_deref()
            .filter(|body| MediaType::parse(body).as_ref() != Some(header))
        {
            return Err(ManifestError::TypeMismatch {
                header: header.clone(),
                body: body.to_owned(),
            });
        }
        let image = self.layers.is_some() || self.config.is_some();
        if image && self.manifests.is_some() { Err(ManifestError::Ambiguous) } else { Ok(()) }
    }

    fn descriptors(self) -> Vec<Descriptor> {
        let lists = self.layers.into_iter().chain(self.manifests).flatten();
        self.config.into_iter().chain(lists).filter_map(RawDescriptor::verifiable).collect()
    }
}

/// image-spec layer.md, "Non-Distributable Layers", and docker's name for them.
fn is_foreign(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.nondistributable.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
}

impl RawDescriptor {
    fn verifiable(self) -> Option<Descriptor> {
        let platform = self.platform.as_ref().and_then(Platform::read);
        let about = self.annotations.as_ref().and_then(|all| all.get(ABOUT)?.as_str());
        let about = about.and_then(|digest| Digest::parse(digest).ok());
        let media_type = self.media_type.as_ref().and_then(Value::as_str);
        let is_foreign = media_type.is_some_and(is_foreign);
        let (digest, size) = (Digest::parse(&self.digest?).ok()?, self.size?);
        Some(Descriptor { digest, size, platform, about, is_foreign })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, OCI_INDEX};

    const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

    fn inspect(body: &str, media_type: &str) -> Result<Manifest, ManifestError> {
        Manifest::inspect(body.as_bytes(), &MediaType::parse(media_type).expect(media_type))
    }

    fn digest(of: &str) -> Digest {
        Digest::of(Algorithm::Sha256, of.as_bytes())
    }

    #[test]
    fn config_layers_and_manifests_are_listed_in_order() {
        let (config, layer) = (digest("config"), Digest::of(Algorithm::Sha512, b"layer"));
        let image = format!(
            r#"{{"schemaVersion":2,"mediaType":"{OCI_MANIFEST}","config":{{"digest":"{config}","size":2}},
                "layers":[{{"digest":"{layer}","size":0,"annotations":{{"a":"b"}}}}],"subject":{{"digest":"x"}}}}"#
        );
        let manifest = inspect(&image, OCI_MANIFEST).expect("an image");
        let expected = [(config.clone(), 2), (layer, 0)].map(|(digest, size)| Descriptor {
            digest,
            size,
            platform: None,
            about: None,
            is_foreign: false,
        });
        assert_eq!(manifest.descriptors(), expected);

        let index = format!(
            r#"{{"schemaVersion":2,"manifests":[{{"digest":"{config}","size":7,"annotations":
                {{"vnd.docker.reference.digest":"{config}"}}}}]}}"#
        );
        let listed = inspect(&index, OCI_INDEX).expect("an index");
        let [only] = listed.descriptors() else { panic!("one") };
        assert_eq!((&only.digest, only.size, &only.about), (&config, 7, &Some(config.clone())));
    }

    #[test]
    fn layers_that_registries_need_not_have_are_known_by_their_type() {
        for (media_type, foreign) in [
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", true),
            ("application/vnd.oci.image.layer.nondistributable.v1.tar+zstd", true),
            ("application/vnd.oci.image.layer.v1.tar+gzip", false),
            ("", false),
        ] {
            let body = format!(
                r#"{{"layers":[{{"digest":"{}","size":1,"mediaType":"{media_type}"}}]}}"#,
                digest("layer")
            );
            let manifest = inspect(&body, OCI_MANIFEST).expect("an image");
            assert_eq!(manifest.descriptors()[0].is_foreign, foreign, "{media_type}");
        }
    }

    #[test]
    fn what_cannot_be_verified_is_left_out_and_does_not_fail_the_rest() {
        let known = digest("known");
        let body = format!(
            r#"{{"schemaVersion":2,"layers":[{{"digest":"blake3:ab","size":1}},{{"size":1}},
                {{"digest":"{known}"}},{{"digest":"{known}","size":3}}]}}"#
        );
        assert_eq!(inspect(&body, OCI_MANIFEST).expect("an image").descriptors().len(), 1);
        assert!(
            inspect(r#"{"schemaVersion":2,"config":null}"#, OCI_MANIFEST)
                .expect("empty")
                .descriptors()
                .is_empty()
        );
    }

    #[test]
    fn types_of_manifests_to_come_are_taken_and_others_refused() {
        for good in [
            OCI_MANIFEST,
            OCI_INDEX,
            "application/vnd.acme.thing.v3+json",
            "application/vnd.OCI.x+JSON",
        ] {
            assert!(inspect("{}", good).is_ok(), "{good}");
        }
        for bad in [
            "text/html",
            "text/plain",
            "application/octet-stream",
            "application/json",
            "image/svg+json",
        ] {
            assert!(matches!(inspect("{}", bad), Err(ManifestError::NotAManifest(_))), "{bad}");
        }
    }

    #[test]
    fn schema_1_is_refused_by_type_and_by_body() {
        let schema_1 = "application/vnd.docker.distribution.manifest.v1";
        for media_type in [format!("{schema_1}+json"), format!("{schema_1}+prettyjws")] {
            assert!(
                matches!(inspect("{}", &media_type), Err(ManifestError::SchemaOne)),
                "{media_type}"
            );
        }
        assert!(matches!(
            inspect(r#"{"schemaVersion":1}"#, OCI_MANIFEST),
            Err(ManifestError::SchemaOne)
        ));
    }

    #[test]
    fn a_body_that_could_be_read_in_two_ways_is_refused() {
        let other = format!(r#"{{"mediaType":"{OCI_INDEX}"}}"#);
        assert!(matches!(inspect(&other, OCI_MANIFEST), Err(ManifestError::TypeMismatch { .. })));
        assert!(matches!(
            inspect(r#"{"mediaType":""}"#, OCI_MANIFEST),
            Err(ManifestError::TypeMismatch { .. })
        ));
        for both in [r#"{"layers":[],"manifests":[]}"#, r#"{"config":{},"manifests":[]}"#] {
            assert!(matches!(inspect(both, OCI_MANIFEST), Err(ManifestError::Ambiguous)), "{both}");
        }
        for twice in [r#"{"layers":[],"layers":[]}"#, r#"{"mediaType":null,"mediaType":null}"#] {
            assert!(
                matches!(inspect(twice, OCI_MANIFEST), Err(ManifestError::Malformed(_))),
                "{twice}"
            );
        }
    }

    #[test]
    fn bodies_that_are_no_json_object_are_refused() {
        for body in [
            "",
            "[]",
            "null",
            "\"{}\"",
            "<html></html>",
            "\u{feff}{}",
            "[null,null,null,null,null]",
        ] {
            assert!(
                matches!(inspect(body, OCI_MANIFEST), Err(ManifestError::NotAnObject)),
                "{body}"
            );
        }
        for body in [
            "{",
            "{} {}",
            r#"{"layers":{}}"#,
            r#"{"layers":[{"size":-1}]}"#,
            r#"{"mediaType":5}"#,
            "{\"a\":\n",
        ] {
            assert!(
                matches!(inspect(body, OCI_MANIFEST), Err(ManifestError::Malformed(_))),
                "{body}"
            );
        }
        assert!(inspect(" \r\n\t{}\n", OCI_MANIFEST).is_ok());
    }

    #[test]
    fn a_body_that_is_not_utf_8_is_refused_wherever_that_stands() {
        let media_type = MediaType::parse(OCI_MANIFEST).expect("valid");
        for body in [&b"{\"annotations\":{\"a\":\"\x80\"}}"[..], b"{\"layers\":[],\"\xff\":1}"] {
            let refused = Manifest::inspect(body, &media_type);
            assert!(matches!(refused, Err(ManifestError::NotText(_))), "{body:?}");
        }
    }

    #[test]
    fn nesting_is_bounded_and_braces_in_text_do_not_count() {
        let nested =
            |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(inspect(&nested(DEPTH_MAX - 1), OCI_MANIFEST).is_ok());
        assert!(matches!(inspect(&nested(DEPTH_MAX), OCI_MANIFEST), Err(ManifestError::TooDeep)));
        let text = format!(r#"{{"a\"{{":"\\{}\""}}"#, "[".repeat(DEPTH_MAX * 2));
        assert!(inspect(&text, OCI_MANIFEST).is_ok(), "{text}");
    }

    #[test]
    fn the_fixed_accept_ends_in_anything() {
        assert!(ACCEPT.ends_with(", */*") && ACCEPT.contains(OCI_INDEX) && !ACCEPT.contains("  "));
    }
}
