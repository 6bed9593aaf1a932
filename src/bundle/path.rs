//! Where the files of a bundle lie. A path is made from what it holds, never taken from a text.

use std::fmt;
use std::path::PathBuf;

use crate::oci::{Algorithm, Digest};

/// A file of a bundle (image-spec, "image-layout").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum BundlePath {
    Marker,
    Index,
    Content(Digest),
}

impl BundlePath {
    /// # Errors
    /// A sentence, for whatever is none of the paths there are.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let path = match text {
            "oci-layout" => Some(Self::Marker),
            "index.json" => Some(Self::Index),
            _ => content(text).map(Self::Content),
        };
        path.ok_or_else(|| format!("{text:?} is no path of a bundle"))
    }

    pub(super) fn to_relative(&self) -> PathBuf {
        self.to_string().into()
    }
}

fn content(text: &str) -> Option<Digest> {
    let (algorithm, hex) = text.strip_prefix("blobs/")?.split_once('/')?;
    let algorithm = Algorithm::from_name(algorithm)?;
    Digest::parse(&format!("{}:{hex}", algorithm.name())).ok()
}

impl fmt::Display for BundlePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Marker => f.write_str("oci-layout"),
            Self::Index => f.write_str("index.json"),
            Self::Content(digest) => {
                write!(f, "blobs/{}/{}", digest.algorithm().name(), digest.hex())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_paths_of_a_layout_are_paths() {
        let hex = "a".repeat(64);
        let content = format!("blobs/sha256/{hex}");
        for path in ["oci-layout", "index.json", &content] {
            assert_eq!(BundlePath::parse(path).expect(path).to_string(), path);
        }
        for path in [
            "",
            "/etc/passwd",
            "../index.json",
            "./index.json",
            "index.json/",
            "blobs/sha256",
            &format!("blobs/sha256/../sha256/{hex}"),
            &format!("/blobs/sha256/{hex}"),
            &format!("blobs/sha512/{hex}"),
            &format!("blobs/sha256/{}", hex.to_uppercase()),
            &format!("blobs/sha256/{hex}/"),
            &format!("blobs//{hex}"),
            &format!("blobs/sha256:{hex}"),
        ] {
            BundlePath::parse(path).expect_err(path);
        }
    }
}
