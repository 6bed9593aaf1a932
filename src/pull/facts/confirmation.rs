//! How long a proof of membership is believed (DESIGN §14.1).
//!
//! Freshness of blobs is kept for the whole repository: any 2xx renews it. A manifest is an image,
//! which may be deleted while others of its repository stay, so only what is said of itself renews
//! its own. When `proof_ttl` has passed without that, the next request asks upstream once more. A
//! proof that a refusal of something else has put in doubt is asked about by itself, whatever else
//! was confirmed since. While upstream fails, proofs stand for as long as a stale answer may be
//! served; while it is sealed, for as long as that lasts.

use tokio::time::Instant;

use super::freshness;
use super::membership::{Membership, or_ask_upstream};
use crate::clock::Timestamp;
use crate::oci::{CanonicalName, Digest};
use crate::pull::error::{Error, Missing};
use crate::pull::interest::Behalf;
use crate::pull::single_flight::Unwanted;
use crate::store::Member;
use crate::upstream::FailureClass;

/// What is recorded of a digest.
struct Proof {
    member: Member,
    /// When the repository was last confirmed.
    confirmed: Option<Timestamp>,
}

impl Membership {
    /// What `name` is proven to hold under `digest`. `None` if there is no proof, or if upstream
    /// has just said that the digest is gone.
    ///
    /// # Errors
    /// If the proof is old or in doubt, and upstream refuses, or has failed for longer than a stale
    /// answer may live.
    pub(crate) async fn proven(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<Member>, Error> {
        let Some(proof) = self.proof(name, digest).await else { return Ok(None) };
        if self.is_fresh(&proof) || self.is_frozen(name, &proof) {
            return Ok(Some(proof.member));
        }
        self.confirm(name, digest, proof).await?;
        // The confirmation may have shown that just this digest is gone.
        Ok(self.proof(name, digest).await.map(|proof| proof.member))
    }

    /// What the records say. An unreadable record proves nothing, so upstream is asked.
    async fn proof(&self, name: &CanonicalName, digest: &Digest) -> Option<Proof> {
        let records = self.0.inputs.store.records();
        let member = or_ask_upstream(records.member(name, digest).await).flatten()?;
        let confirmed = or_ask_upstream(records.confirmed(name).await).flatten();
        Some(Proof { member, confirmed })
    }

    fn is_fresh(&self, proof: &Proof) -> bool {
        let proof_ttl = self.0.inputs.settings.load().proof_ttl;
        let now = self.0.inputs.clock.now();
        let Member { media_type, doubted, seen } = &proof.member;
        let confirmed = if media_type.is_some() { Some(*seen) } else { proof.confirmed };
        doubted.is_none() && confirmed.is_some_and(|at| now.is_within(proof_ttl, at))
    }

    /// Nobody can be asked, so that no time counts. What a refusal has put in doubt is no better off
    /// than in an outage (SEAL-3).
    fn is_frozen(&self, name: &CanonicalName, proof: &Proof) -> bool {
        proof.member.doubted.is_none() && self.0.inputs.sources.is_sealed(name)
    }

    /// Confirms a proof, or lets it stand while upstream fails.
    async fn confirm(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        proof: Proof,
    ) -> Result<(), Error> {
        let sources = &self.0.inputs.sources;
        let confirmed = || proof.confirmed.map(|at| sources.stands_since(name, at));
        let believed = proof.member.doubted.or_else(confirmed);
        let error = match self.ask_again(name, digest, &proof.member).await {
            Ok(()) => return Ok(()),
            // Only this digest is gone. Its record is dropped by now, and the caller looks again.
            Err(error) if error.is_absent(Missing::Blob) || error.is_absent(Missing::Manifest) => {
                return Ok(());
            }
            Err(error) => error,
        };
        let now = self.0.inputs.clock.now();
        let stands = believed.is_some_and(|at| {
            freshness::may_stand_in(at, self.0.inputs.settings.load().stale_if_error, now)
        });
        if stands && error.may_serve_stale() { Ok(()) } else { Err(error) }
    }

    async fn ask_again(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        member: &Member,
    ) -> Result<(), Error> {
        let is_blob = member.media_type.is_none();
        if is_blob && member.doubted.is_none() && self.repository_is_confirmed(name).await? {
            return Ok(());
        }
        // It is a manifest, or none answers for the repository. What a HEAD finds out about one
        // digest says nothing about another, so each gets a HEAD of its own.
        let (this, key) = (self.clone(), (name.clone(), Some(digest.clone())));
        let (name, digest) = (name.clone(), digest.clone());
        let run =
            self.0.confirmations.run(key, &self.1, Unwanted::Cancelled, |interest| async move {
                let this = this.on_behalf(Behalf::All(interest));
                // A run may have ended after this caller looked at the records.
                match this.proof(&name, &digest).await {
                    Some(proof) if !this.is_fresh(&proof) => {
                        this.confirm_by_itself(&name, &digest, &proof.member).await
                    }
                    _ => Ok(true),
                }
            });
        run.await.unwrap_or(Err(Error::Abandoned)).map(|_| ())
    }

    async fn confirm_by_itself(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        member: &Member,
    ) -> Result<bool, Error> {
        let deadline = Instant::now() + self.0.inputs.limits.revalidate;
        match member.media_type {
            Some(_) => self.prove_manifest_by(name, digest, deadline).await.map(|_| true),
            None => self.prove_blob_by(name, digest, deadline).await.map(|_| true),
        }
    }

    /// One question for everybody whose proof of a blob has become old: any manifest stands for
    /// the blobs of its repository.
    async fn repository_is_confirmed(&self, name: &CanonicalName) -> Result<bool, Error> {
        let (this, key, asked) = (self.clone(), name.clone(), (name.clone(), None));
        let run =
            self.0.confirmations.run(asked, &self.1, Unwanted::Cancelled, |interest| async move {
                this.on_behalf(Behalf::All(interest)).confirm_by_manifest(&key).await
            });
        run.await.unwrap_or(Err(Error::Abandoned))
    }

    /// Whether upstream still has a manifest of `name` that is known here.
    async fn confirm_by_manifest(&self, name: &CanonicalName) -> Result<bool, Error> {
        let records = self.0.inputs.store.records();
        let manifest = or_ask_upstream(records.any_manifest(name).await).flatten();
        let Some(manifest) = manifest else { return Ok(false) };
        let deadline = Instant::now() + self.0.inputs.limits.revalidate;
        match self.prove_manifest_by(name, &manifest, deadline).await {
            Ok(_) => Ok(true),
            // What is said of that manifest is said of no other content.
            Err(error) if matches!(error.class(), FailureClass::Absent | FailureClass::Refused) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
