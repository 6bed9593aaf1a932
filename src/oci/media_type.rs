//! Media types of manifests.

use std::fmt;
use std::sync::Arc;

/// The type of an image index, and of a page of referrers (REF-1).
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A media type without parameters, as an upstream gave it (MAN-4).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct MediaType(Arc<str>);

impl MediaType {
    /// Takes `type/subtype` out of a `Content-Type` value; `None` if there is none.
    pub fn parse(value: &str) -> Option<Self> {
        let essence = value.split(';').next().unwrap_or_default().trim();
        let token = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b))
        };
        let (kind, subtype) = essence.split_once('/')?;
        (essence.len() <= 255 && token(kind) && token(subtype))
            .then(|| Self(essence.to_ascii_lowercase().into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_dropped_and_nonsense_is_none() {
        let parsed = MediaType::parse("application/vnd.oci.image.index.v1+json; charset=utf-8")
            .expect("valid");
        assert_eq!(parsed.as_str(), "application/vnd.oci.image.index.v1+json");
        for bad in ["", "json", "/", "a/", "a b/c", "a/b/c", "text/\u{e9}"] {
            assert!(MediaType::parse(bad).is_none(), "{bad}");
        }
    }
}
