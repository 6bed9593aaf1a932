//! Putting a manifest: the registry first, then what the cache knows of its digest and tags.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Error, PushCore, PushThrough};
use crate::oci::{Algorithm, CanonicalName, Digest, Reference, Tag};
use crate::pull::PushedManifest;
use crate::upstream::{AcceptedManifest, NewManifest};

/// What the registry says of a manifest that it has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TakenManifest {
    /// The digest that the registry has it by.
    pub digest: Digest,
    /// `OCI-Subject`. Only a registry that keeps referrers says this (ACCESS §7.4).
    pub subject: Option<Digest>,
    /// `OCI-Tag`: the tags of the query that the registry has set.
    pub tags: Vec<String>,
}

impl PushThrough {
    /// Puts a manifest (end-7). Once begun, it is finished even if the client leaves: the registry
    /// may have the new tag by then, and the cache must not serve the old one.
    ///
    /// # Errors
    /// [`Error::WrongDigest`], before anything is sent, if the manifest is put under a digest
    /// that is not its own. Else what the registry says; see [`Error`].
    pub(crate) async fn put_manifest(
        &self,
        name: &CanonicalName,
        manifest: NewManifest,
    ) -> Result<TakenManifest, Error> {
        let digest = checked_digest(&manifest)?;
        let (inner, name) = (Arc::clone(&self.0), name.clone());
        let put = async move { inner.put_manifest(&name, digest, manifest).await };
        self.0.pull.run_to_completion(put).await.unwrap_or(Err(Error::Abandoned))
    }
}

impl PushCore {
    async fn put_manifest(
        &self,
        name: &CanonicalName,
        digest: Digest,
        manifest: NewManifest,
    ) -> Result<TakenManifest, Error> {
        let upstream = self.upstream(&name.upstream)?;
        let taken = upstream
            .put_manifest(&name.repository, &manifest, Instant::now() + self.limits.flight_head)
            .await;
        // After a time-out or a broken connection the registry may have set the tag all the same.
        // An old record makes the next pull ask.
        if let (Err(error), Reference::Tag(tag)) = (&taken, &manifest.reference)
            && error.may_have_taken_effect()
        {
            self.pull.expire_tag(name, tag).await;
        }
        let taken = taken?;
        // A registry may hash anew by an algorithm of its own. Under the same algorithm another
        // digest can only mean that it has other bytes.
        let reported = taken.digest.clone().unwrap_or_else(|| digest.clone());
        let is_untrue = reported.algorithm() == digest.algorithm() && reported != digest;
        let pushed = pushed_manifest(digest, manifest, &taken);
        // The registry has accepted something under this tag, whatever it is. So what was known of
        // the tag is dropped, even where the answer makes no sense.
        self.pull.pushed_manifest(name, pushed, upstream.caches_pushes() && !is_untrue).await;
        if is_untrue {
            Err(Error::Untrue("another digest than the manifest has"))
        } else {
            Ok(TakenManifest { digest: reported, subject: taken.subject, tags: taken.tags })
        }
    }
}

/// Sorts the requested tags by whether the registry has confirmed them.
///
/// A registry that does not know the `tag` parameter accepts the manifest and sets no further tag,
/// so only those that it lists in `OCI-Tag` are believed. The tag of the path needs no such word.
fn pushed_manifest(
    digest: Digest,
    manifest: NewManifest,
    taken: &AcceptedManifest,
) -> PushedManifest {
    let NewManifest { reference, tags, media_type, bytes } = manifest;
    let tag_of_path: Option<Tag> =
        if let Reference::Tag(tag) = reference { Some(tag) } else { None };
    let (confirmed, unconfirmed_tags): (Vec<_>, _) =
        tags.into_iter().partition(|tag| taken.tags.iter().any(|set| set == tag.as_str()));
    let tags = tag_of_path.into_iter().chain(confirmed).collect();
    PushedManifest { digest, tags, unconfirmed_tags, media_type, bytes }
}

/// The digest of the manifest's bytes, by the algorithm of the digest that it is put under, else by
/// SHA-256.
fn checked_digest(manifest: &NewManifest) -> Result<Digest, Error> {
    match &manifest.reference {
        Reference::Tag(_) => Ok(Digest::of(Algorithm::Sha256, &manifest.bytes)),
        Reference::Digest(digest) => {
            let actual = Digest::of(digest.algorithm(), &manifest.bytes);
            if actual == *digest { Ok(actual) } else { Err(Error::WrongDigest) }
        }
    }
}
