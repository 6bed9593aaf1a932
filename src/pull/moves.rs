//! The story of a tag that has moved: it leads to its old manifest until what it leads to now is
//! here (DESIGN §14.2).
//!
//! A registry may answer HEAD and refuse GET, as Docker Hub does whose limit counts only GETs. A
//! client that were told the new digest could then pull neither. So the new manifest is fetched
//! first, and of an index the manifests whose platforms were pulled through the old one.

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::answers::{ManifestAnswer, Want};
use super::core::{PullCore, PullThrough, TagHeadKey};
use super::error::Error;
use super::facts::freshness::{self, Known};
use super::facts::subject::Subject;
use super::outcome::Outcome;
use super::single_flight::Unwanted;
use crate::oci::{CanonicalName, Descriptor, Digest, Manifest, Platform, Tag};
use crate::store::TagRecord;
use crate::upstream::FailureClass;

/// Manifests of an index that are fetched before its tag moves. Clients of one tag are of few
/// platforms, and each costs a pull.
const COUNTERPARTS_MAX: usize = 8;

impl PullThrough {
    /// Moves the tag from `old` to `new`, once for everybody who asks. Whoever does not wait for it
    /// changes nothing.
    ///
    /// # Errors
    /// If what `new` leads to cannot be had now. The tag then stays where it is.
    pub(super) async fn move_tag(
        &self,
        name: &CanonicalName,
        tag: &Tag,
        old: &Digest,
        new: Known,
    ) -> Result<ManifestAnswer, Error> {
        let epoch = self.0.writes.epoch(&Subject::Tags, name);
        let key = TagHeadKey { name: name.clone(), tag: tag.clone(), epoch };
        let (this, old) = (self.clone(), old.clone());
        let moved =
            self.0.tag_moves.run(key.clone(), &self.1, Unwanted::Finished, |interest| async move {
                let (this, TagHeadKey { name, tag, .. }) = (this.for_all(interest), key);
                let answer = this.manifest_by_digest(&name, &new.digest, Want::Body).await?;
                this.fetch_counterparts(&name, &old, &answer).await?;
                let record = TagRecord { digest: new.digest, checked: new.checked };
                this.0.put_tag(&name, &tag, record).await;
                Ok(answer.with(Outcome::Miss))
            });
        moved.await.unwrap_or(Err(Error::Abandoned))
    }

    /// Fetches the manifests of the index `new` that those who pulled through the index `old` will
    /// ask for.
    async fn fetch_counterparts(
        &self,
        name: &CanonicalName,
        old: &Digest,
        new: &ManifestAnswer,
    ) -> Result<(), Error> {
        let pulled = self.0.pulled_platforms(name, old).await;
        let Some(bytes) = new.content.clone().bytes(self.0.limits.manifest).await? else {
            return Ok(());
        };
        let Ok(new) = Manifest::inspect(&bytes, &new.media_type) else { return Ok(()) };
        let fetches =
            counterparts(&pulled, new.descriptors()).into_iter().map(|child| async move {
                match self.manifest_by_digest(name, &child, Want::Body).await {
                    Ok(_) => Ok(()),
                    // The registry's word on that manifest is for whoever asks for it. Indexes may
                    // list what their repository does not have.
                    Err(error)
                        if matches!(
                            error.class(),
                            FailureClass::Absent | FailureClass::Refused
                        ) =>
                    {
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            });
        try_join_all(fetches).await.map(|_| ())
    }
}

impl PullCore {
    /// Whether the tag leads to another digest than this, whose bytes may stand in for it.
    pub(super) async fn is_moving(&self, name: &CanonicalName, tag: &Tag, digest: &Digest) -> bool {
        let Ok(Some(record)) = self.store.records().tag(name, tag).await else { return false };
        let stale_if_error = self.settings.load().stale_if_error;
        record.digest != *digest
            && freshness::may_stand_in(record.checked, stale_if_error, self.clock.now())
    }

    /// The platforms that were pulled through a manifest that is proven and stored: those of the
    /// manifests of an index that somebody has fetched, or that of an image's configuration.
    async fn pulled_platforms(&self, name: &CanonicalName, digest: &Digest) -> Vec<Platform> {
        let Some(manifest) = self.inspect_stored(name, digest).await else { return Vec::new() };
        let mut pulled = Vec::new();
        for listed in manifest.descriptors() {
            if let Some(platform) = &listed.platform
                && self.is_kept(name, &listed.digest).await
            {
                pulled.push(platform.clone());
            }
        }
        let config = manifest.descriptors().first().filter(|listed| listed.platform.is_none());
        if let Some(config) = config
            && let Some(bytes) = self.stored_bytes(name, &config.digest).await
            && let Ok(document) = serde_json::from_slice(&bytes)
        {
            pulled.extend(Platform::read(&document));
        }
        pulled
    }

    async fn inspect_stored(&self, name: &CanonicalName, digest: &Digest) -> Option<Manifest> {
        let member = self.store.records().member(name, digest).await.ok()??;
        let bytes = self.stored_bytes(name, digest).await?;
        Manifest::inspect(&bytes, &member.media_type?).ok()
    }

    /// What is stored, if it is no larger than a manifest.
    async fn stored_bytes(&self, name: &CanonicalName, digest: &Digest) -> Option<Bytes> {
        let stored = self.stored_manifest(name, digest).await?;
        stored.content.bytes(self.limits.manifest).await.ok()?
    }

    /// Whether somebody has pulled it from `name`, so that it is proven and stored.
    async fn is_kept(&self, name: &CanonicalName, digest: &Digest) -> bool {
        self.store.holds(digest)
            && matches!(self.store.records().member(name, digest).await, Ok(Some(_)))
    }
}

/// Those of `listed` that are for the platforms of `pulled`: of the same version of the system if
/// there is one, else of any.
fn counterparts(pulled: &[Platform], listed: &[Descriptor]) -> Vec<Digest> {
    let mut found = Vec::new();
    for platform in pulled {
        let of = |exact: bool| {
            let fits = move |child: &&Descriptor| {
                child.platform.as_ref().is_some_and(|other| {
                    if exact { other == platform } else { other.runs_like(platform) }
                })
            };
            listed.iter().filter(fits).map(|child| child.digest.clone())
        };
        let exact = of(true).next().is_some();
        for digest in of(exact) {
            if !found.contains(&digest) {
                found.push(digest);
            }
        }
    }
    found.truncate(COUNTERPARTS_MAX);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{Algorithm, MediaType, OCI_INDEX};

    /// An index of a manifest for each of these: operating system, architecture, variant, version.
    fn index(version: u8, platforms: &[[&str; 4]]) -> Manifest {
        let entries =
            platforms.iter().enumerate().map(|(nth, [os, architecture, variant, build])| {
                let digest =
                    Digest::of(Algorithm::Sha256, &[&[version][..], &nth.to_le_bytes()].concat());
                serde_json::json!({ "digest": digest.as_str(), "size": 1, "platform": {
                "os": os, "architecture": architecture, "variant": variant, "os.version": build } })
            });
        let document = serde_json::json!({ "manifests": entries.collect::<Vec<_>>() });
        let media_type = MediaType::parse(OCI_INDEX).expect("a type");
        Manifest::inspect(document.to_string().as_bytes(), &media_type).expect("an index")
    }

    #[test]
    fn a_platform_that_was_pulled_is_found_in_the_next_index() {
        let old = index(
            1,
            &[
                ["linux", "amd64", "", ""],
                ["linux", "arm64", "v8", ""],
                ["windows", "amd64", "", "10.0.1"],
                ["unknown", "unknown", "", ""],
            ],
        );
        let new = index(
            2,
            &[
                ["windows", "amd64", "", "10.0.2"],
                ["linux", "arm64", "", ""],
                ["linux", "arm", "v7", ""],
                ["linux", "amd64", "", ""],
                ["unknown", "unknown", "", ""],
            ],
        );
        let of = |places: &[usize]| {
            let pulled = places.iter().filter_map(|nth| old.descriptors()[*nth].platform.clone());
            let pulled: Vec<_> = pulled.collect();
            let found = counterparts(&pulled, new.descriptors());
            let place = |digest| new.descriptors().iter().position(|child| child.digest == digest);
            found.into_iter().map(|digest| place(digest).expect("listed")).collect::<Vec<_>>()
        };
        assert_eq!(of(&[0]), [3]);
        assert_eq!(of(&[1]), [1], "v8 is what arm64 is without a variant");
        assert_eq!(of(&[2]), [0], "another build of the same system");
        assert_eq!(of(&[3]), [0; 0], "what is no platform is nobody's");
        assert_eq!(of(&[0, 1, 0]), [3, 1]);
    }
}
