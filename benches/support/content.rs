//! Content of any size that costs no memory: one block of noise, over and over, told apart by its
//! first bytes.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use roadstead::oci::{Algorithm, Digest, Hasher};

const BLOCK: usize = 1 << 20;

/// What stands under one path of the origin.
#[derive(Clone, Debug)]
pub(crate) struct Content {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) media_type: &'static str,
    first: Bytes,
    rest: Bytes,
}

impl Content {
    /// A blob of `size` bytes; another `salt` makes another digest.
    pub(crate) fn blob(salt: u64, size: u64) -> Arc<Self> {
        let rest = noise();
        let mut first = rest.to_vec();
        first[..8].copy_from_slice(&salt.to_be_bytes());
        Self::new("application/octet-stream", first.into(), rest, size)
    }

    /// An image manifest that lists `layers`.
    pub(crate) fn manifest(layers: &[Arc<Self>]) -> Arc<Self> {
        let descriptor = |content: &Arc<Self>| {
            serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": content.digest.as_str(),
                "size": content.size,
            })
        };
        let document = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(&layers[0]),
            "layers": layers.iter().map(descriptor).collect::<Vec<_>>(),
        });
        let body = Bytes::from(document.to_string());
        let size = body.len() as u64;
        Self::new(MANIFEST, body, Bytes::new(), size)
    }

    fn new(media_type: &'static str, first: Bytes, rest: Bytes, size: u64) -> Arc<Self> {
        let unnamed =
            Self { digest: Digest::of(Algorithm::Sha256, b""), size, media_type, first, rest };
        let mut hasher = Hasher::new(Algorithm::Sha256);
        unnamed.blocks().for_each(|block| hasher.update(&block));
        Arc::new(Self { digest: hasher.finish(), ..unnamed })
    }

    /// The bytes, in order.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = Bytes> + Send + use<'_> {
        let mut left = self.size;
        let blocks = std::iter::once(&self.first).chain(std::iter::repeat(&self.rest));
        blocks.map_while(move |block| {
            let take = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
            left -= take as u64;
            (take > 0).then(|| block.slice(..take))
        })
    }

    /// Writes the bytes to a file, as a static file server wants them.
    pub(crate) fn write_to(&self, path: &Path) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = File::create(path)?;
        self.blocks().try_for_each(|block| file.write_all(&block))
    }
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A block without structure, so that nothing on the way can make it smaller.
fn noise() -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    });
    words.take(BLOCK / 8).flat_map(u64::to_le_bytes).collect::<Vec<_>>().into()
}
