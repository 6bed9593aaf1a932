//! Images made on the spot: real layers, real configurations, one index over two platforms.

use std::fs;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use roadstead::oci::{Algorithm, Digest};
use serde_json::json;

use super::process::run;

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Bytes that a registry serves by digest.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) media_type: &'static str,
    pub(crate) digest: Digest,
    pub(crate) bytes: Bytes,
}

/// The image for one platform.
#[derive(Clone, Debug)]
pub(crate) struct Platform {
    pub(crate) architecture: &'static str,
    pub(crate) manifest: Content,
    pub(crate) config: Content,
    pub(crate) layers: Vec<Layer>,
}

/// A compressed layer and the digest of what is in it.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) content: Content,
    pub(crate) diff_id: Digest,
}

/// An index over linux/amd64 and linux/arm64.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) index: Content,
    pub(crate) platforms: Vec<Platform>,
}

const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];
/// What a client on this machine chooses.
const NATIVE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

impl Image {
    /// An image whose layers for this machine are `sizes` bytes that nobody can compress, the same
    /// for the same `seed`; those for the other platform are small.
    pub(crate) async fn make(folder: &Path, seed: u64, sizes: &[usize]) -> Self {
        let folder = folder.join(format!("image-{seed}"));
        let mut random = Random::new(seed);
        let mut platforms = Vec::new();
        for architecture in ARCHITECTURES {
            let mut layers = Vec::new();
            for size in sizes {
                let name = format!("{architecture}-{}", layers.len());
                let bytes = random.bytes(on(architecture, *size));
                layers.push(Layer::make(&folder, &name, &bytes).await);
            }
            platforms.push(Platform::over(architecture, layers));
        }
        Self::over(platforms)
    }

    /// So many images, of other bytes each, for clients that unpack nothing: no layer is an archive.
    pub(crate) fn make_each(count: u64, sizes: &[usize]) -> Vec<Self> {
        let image = |seed| {
            let mut random = Random::new(seed);
            let platforms = ARCHITECTURES.map(|architecture| {
                let bytes = sizes.iter().map(|size| random.bytes(on(architecture, *size)));
                Platform::over(architecture, bytes.map(Layer::unpackable).collect())
            });
            Self::over(platforms.into())
        };
        (0..count).map(image).collect()
    }

    fn over(platforms: Vec<Platform>) -> Self {
        let entries: Vec<_> = platforms.iter().map(Platform::entry).collect();
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        Self { index: Content::json(INDEX, &index), platforms }
    }

    /// What a client on this machine pulls of it.
    pub(crate) fn native(&self) -> &Platform {
        self.platforms
            .iter()
            .find(|platform| platform.architecture == NATIVE)
            .expect("both are made")
    }
}

/// Only the layers for this machine are as large as they should be.
fn on(architecture: &str, size: usize) -> usize {
    if architecture == NATIVE { size } else { 1000 }
}

impl Platform {
    fn over(architecture: &'static str, layers: Vec<Layer>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": { "Cmd": ["/bin/true"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = Content::json(CONFIG, &config);
        let descriptors: Vec<_> = layers.iter().map(|layer| layer.content.descriptor()).collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config.descriptor(), "layers": descriptors,
        });
        Self { architecture, manifest: Content::json(MANIFEST, &manifest), config, layers }
    }

    /// The blobs that a client fetches for it.
    pub(crate) fn blobs(&self) -> Vec<&Content> {
        std::iter::once(&self.config)
            .chain(self.layers.iter().map(|layer| &layer.content))
            .collect()
    }

    /// The layers' diff ids, as engines report them.
    pub(crate) fn diff_ids(&self) -> Vec<String> {
        self.layers.iter().map(|layer| layer.diff_id.to_string()).collect()
    }

    fn entry(&self) -> serde_json::Value {
        let mut entry = self.manifest.descriptor();
        entry["platform"] = json!({ "os": "linux", "architecture": self.architecture });
        entry
    }
}

impl Layer {
    fn unpackable(bytes: Vec<u8>) -> Self {
        let content = Content::new(LAYER, bytes);
        Self { diff_id: content.digest.clone(), content }
    }

    async fn make(folder: &Path, name: &str, random: &[u8]) -> Self {
        let (root, tar) = (folder.join(name), folder.join(format!("{name}.tar")));
        fs::create_dir_all(&root).expect("the folder is ours");
        fs::write(root.join(name), random).expect("the folder is ours");
        let mut pack = Command::new("tar");
        pack.args([
            "--sort=name",
            "--owner=0",
            "--group=0",
            "--numeric-owner",
            "--mtime=@0",
            "--create",
            "--file",
        ]);
        run("tar", folder, {
            pack.arg(&tar).arg("--directory").arg(&root).arg(name);
            pack
        })
        .await;
        let plain = fs::read(&tar).expect("tar wrote it");
        let mut compress = Command::new("gzip");
        run("gzip", folder, {
            compress.args(["--no-name", "--fast"]).arg(&tar);
            compress
        })
        .await;
        let packed = fs::read(folder.join(format!("{name}.tar.gz"))).expect("gzip wrote it");
        Self {
            content: Content::new(LAYER, packed),
            diff_id: Digest::of(Algorithm::Sha256, &plain),
        }
    }
}

impl Content {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { media_type, digest: Digest::of(Algorithm::Sha256, &bytes), bytes: bytes.into() }
    }

    pub(crate) fn json(media_type: &'static str, value: &serde_json::Value) -> Self {
        Self::new(media_type, value.to_string().into_bytes())
    }

    pub(crate) fn descriptor(&self) -> serde_json::Value {
        json!({ "mediaType": self.media_type, "digest": self.digest.as_str(), "size": self.bytes.len() })
    }
}

/// Numbers that look random and are the same every time (xorshift64).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// From 0 to 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.number() >> 32).expect("32 bits")) / f64::from(u32::MAX)
    }

    pub(crate) fn index_below(&mut self, bound: usize) -> usize {
        usize::try_from(self.number()).expect("64 bits") % bound
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }
}
