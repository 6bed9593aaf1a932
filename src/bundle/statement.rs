//! What a bundle says of itself: its images, what they consist of, and its files with their hashes.

use serde::{Deserialize, Serialize};

use super::path::BundlePath;
use crate::clock::Timestamp;
use crate::licence::calendar;
use crate::oci::{CanonicalName, Digest, MediaType, ParseError, Tag};

/// Of this form; a bundle of a later one is for a later roadstead.
const VERSION: u32 = 1;

/// Bytes of a statement: some 400 for each file, so a million of them.
pub(super) const STATEMENT_MAX: u64 = 512 << 20;

/// All that a bundle is said to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Drawn at random; a bundle of the same images has another.
    pub(crate) id: String,
    pub(crate) created: Timestamp,
    /// The program and its version.
    pub(crate) exporter: String,
    pub(crate) images: Vec<BundledImage>,
    /// All that the images consist of, each once, whether or not the bundle has it.
    pub(crate) contents: Vec<BundledContent>,
    /// What is in the bundle, but for the statement itself.
    pub(crate) files: Vec<BundledFile>,
}

/// An image of a repository, or something that is attached to one by its tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BundledImage {
    /// As whoever asked for it named it.
    pub(crate) reference: String,
    pub(crate) name: CanonicalName,
    pub(crate) tag: Option<Tag>,
    pub(crate) digest: Digest,
    pub(crate) media_type: MediaType,
    /// When its registry last said that the tag leads there, or that it has the digest.
    pub(crate) seen: Timestamp,
}

/// A manifest, a configuration or a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BundledContent {
    pub(crate) digest: Digest,
    /// Bytes.
    pub(crate) size: u64,
    /// Of a manifest: as what it was served.
    pub(crate) media_type: Option<MediaType>,
    /// The repository that it was got from.
    pub(crate) from: CanonicalName,
    /// When that was last known to have it.
    pub(crate) seen: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BundledFile {
    pub(crate) path: BundlePath,
    /// Bytes.
    pub(crate) size: u64,
    /// Of its bytes, with SHA-256.
    pub(crate) hash: Digest,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StatementFields {
    version: u32,
    id: String,
    created: String,
    exporter: String,
    images: Vec<ImageFields>,
    contents: Vec<ContentFields>,
    files: Vec<FileFields>,
}

/// What any version has.
#[derive(Deserialize)]
struct VersionField {
    version: u32,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ImageFields {
    reference: String,
    name: String,
    tag: Option<String>,
    digest: String,
    media_type: String,
    seen: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ContentFields {
    digest: String,
    size: u64,
    media_type: Option<String>,
    from: String,
    seen: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct FileFields {
    path: String,
    size: u64,
    sha256: String,
}

impl Statement {
    pub(super) fn to_json(&self) -> Vec<u8> {
        let fields = StatementFields {
            version: VERSION,
            id: self.id.clone(),
            created: calendar::format(self.created),
            exporter: self.exporter.clone(),
            images: self.images.iter().map(ImageFields::of).collect(),
            contents: self.contents.iter().map(ContentFields::of).collect(),
            files: self.files.iter().map(FileFields::of).collect(),
        };
        // Strings and numbers alone: nothing of it can fail to be written.
        serde_json::to_vec(&fields).unwrap_or_default()
    }

    /// # Errors
    /// A sentence about what is wrong with it.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let wrong = |error: serde_json::Error| format!("its statement cannot be read: {error}");
        let version = serde_json::from_slice::<VersionField>(json).map_err(wrong)?.version;
        if version != VERSION {
            return Err(format!(
                "it is of form {version}, which a later roadstead writes; this one reads form \
                 {VERSION}: update it"
            ));
        }
        let fields: StatementFields = serde_json::from_slice(json).map_err(wrong)?;
        let is_id = fields.id.len() == 32 && fields.id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_id {
            return Err(format!("{:?} is no id of a bundle", fields.id));
        }
        Ok(Self {
            created: calendar::parse(&fields.created)?,
            id: fields.id,
            exporter: fields.exporter.chars().filter(|char| !char.is_control()).collect(),
            images: fields.images.into_iter().map(ImageFields::read).collect::<Result<_, _>>()?,
            contents: fields
                .contents
                .into_iter()
                .map(ContentFields::read)
                .collect::<Result<_, _>>()?,
            files: fields.files.into_iter().map(FileFields::read).collect::<Result<_, _>>()?,
        })
    }
}

impl ImageFields {
    fn of(image: &BundledImage) -> Self {
        Self {
            reference: image.reference.clone(),
            name: image.name.to_string(),
            tag: image.tag.as_ref().map(ToString::to_string),
            digest: image.digest.to_string(),
            media_type: image.media_type.as_str().to_owned(),
            seen: calendar::format(image.seen),
        }
    }

    fn read(self) -> Result<BundledImage, String> {
        Ok(BundledImage {
            name: name(&self.name)?,
            tag: self.tag.as_deref().map(Tag::parse).transpose().map_err(text)?,
            digest: Digest::parse(&self.digest).map_err(text)?,
            media_type: media_type(&self.media_type)?,
            seen: calendar::parse(&self.seen)?,
            reference: self.reference.chars().filter(|char| !char.is_control()).collect(),
        })
    }
}

impl ContentFields {
    fn of(content: &BundledContent) -> Self {
        Self {
            digest: content.digest.to_string(),
            size: content.size,
            media_type: content.media_type.as_ref().map(|kind| kind.as_str().to_owned()),
            from: content.from.to_string(),
            seen: calendar::format(content.seen),
        }
    }

    fn read(self) -> Result<BundledContent, String> {
        Ok(BundledContent {
            digest: Digest::parse(&self.digest).map_err(text)?,
            size: self.size,
            media_type: self.media_type.as_deref().map(media_type).transpose()?,
            from: name(&self.from)?,
            seen: calendar::parse(&self.seen)?,
        })
    }
}

impl FileFields {
    fn of(file: &BundledFile) -> Self {
        Self { path: file.path.to_string(), size: file.size, sha256: file.hash.hex().to_owned() }
    }

    fn read(self) -> Result<BundledFile, String> {
        let hash = Digest::parse(&format!("sha256:{}", self.sha256)).map_err(text)?;
        Ok(BundledFile { path: BundlePath::parse(&self.path)?, size: self.size, hash })
    }
}

fn name(text: &str) -> Result<CanonicalName, String> {
    CanonicalName::parse(text).map_err(|error| format!("{text:?}: {error}"))
}

fn media_type(text: &str) -> Result<MediaType, String> {
    MediaType::parse(text).ok_or_else(|| format!("{text:?} is no media type"))
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err passes it")]
fn text(error: ParseError) -> String {
    error.to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::oci::Algorithm;

    /// A statement with one image of two parts, of which one is in the bundle.
    pub(in crate::bundle) fn sample() -> Statement {
        let digest = |bytes: &[u8]| Digest::of(Algorithm::Sha256, bytes);
        let from = name("docker.io/library/nginx").expect("a name");
        let seen = Timestamp::from_unix(Duration::from_secs(1_000_000_000));
        let kind = media_type("application/vnd.oci.image.manifest.v1+json").expect("a type");
        let content = |bytes: &[u8], media_type| BundledContent {
            digest: digest(bytes),
            size: bytes.len() as u64,
            media_type,
            from: from.clone(),
            seen,
        };
        Statement {
            id: "0123456789abcdef0123456789abcdef".to_owned(),
            created: seen,
            exporter: "roadstead 0.1.0".to_owned(),
            images: vec![BundledImage {
                reference: "nginx:1.27".to_owned(),
                name: from.clone(),
                tag: Some(Tag::parse("1.27").expect("a tag")),
                digest: digest(b"manifest"),
                media_type: kind.clone(),
                seen,
            }],
            contents: vec![content(b"manifest", Some(kind)), content(b"layer", None)],
            files: vec![BundledFile {
                path: BundlePath::Content(digest(b"manifest")),
                size: 8,
                hash: digest(b"manifest"),
            }],
        }
    }

    #[test]
    fn a_statement_is_read_as_it_was_written() {
        let statement = sample();
        assert_eq!(Statement::parse(&statement.to_json()).expect("ours"), statement);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let written = String::from_utf8(sample().to_json()).expect("text");
        for (from, to, told) in [
            (r#""version":1"#, r#""version":2"#, "update it"),
            (r#""id":"0"#, r#""id":"x"#, "no id of a bundle"),
            ("blobs/sha256/", "../sha256/", "no path of a bundle"),
            (r#""tag":"1.27""#, r#""tag":"..""#, "tag"),
            ("docker.io/library/nginx", "docker.io/../nginx", "docker.io/../nginx"),
            (r#""size":8"#, r#""size":-8"#, "cannot be read"),
            (r#""exporter""#, r#""other":1,"exporter""#, "other"),
        ] {
            let changed = written.replace(from, to);
            assert_ne!(changed, written, "{from}");
            let error = Statement::parse(changed.as_bytes()).expect_err(to);
            assert!(error.contains(told), "{to}: {error}");
        }
    }
}
