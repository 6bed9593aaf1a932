//! What is attached to an image: signatures, attestations, lists of parts.

use super::Root;
use super::closure::Closure;
use crate::oci::Digest;

/// The manifest that an image is attached to: as it says itself, or by its tag, which is how
/// cosign and clients of registries without an API for referrers write it (`sha256-<hex>.sig`).
pub(super) fn subject(root: &Root, closure: &Closure) -> Option<Digest> {
    let by_tag = || root.tag.as_ref().and_then(|tag| of_tag(tag.as_str()));
    closure.subject.clone().or_else(by_tag)
}

/// The digest that such a tag stands for.
pub(super) fn of_tag(tag: &str) -> Option<Digest> {
    let (algorithm, rest) = tag.split_once('-')?;
    let hex = rest.split('.').next()?;
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}
