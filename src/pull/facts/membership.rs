//! Proof of membership: a repository's right to a digest (DESIGN §14.1).
//!
//! Bytes are shared by digest, rights are not. A digest is proven for (upstream, repository) only
//! by that upstream's 2xx for that content under that repository. Freshness is kept for the whole
//! repository: any 2xx renews it, and when it has run out, one HEAD confirms it again on use.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::freshness;
use super::negative::NegativeCache;
use super::subject::Subject;
use super::writes::{RecentWrites, WriteEpoch};
use crate::clock::{Clock, Timestamp};
use crate::limits::Limits;
use crate::oci::{CanonicalName, Digest, MediaType, Reference};
use crate::pull::error::{Error, Missing};
use crate::pull::parts::CacheSettings;
use crate::pull::single_flight::SingleFlight;
use crate::pull::source::Sources;
use crate::pull::tasks::Tasks;
use crate::store::{self, BlobStore, Member};
use crate::upstream::{self, FailureClass, ManifestHead};

/// Confirmations closer together than this are not worth a write: losing one costs a HEAD.
const CONFIRMED_WRITE_INTERVAL: Duration = Duration::from_secs(30);

type ProofKey = (CanonicalName, Digest, WriteEpoch);

/// Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Membership(Arc<MembershipCore>);

#[derive(Debug)]
struct MembershipCore {
    inputs: MembershipInputs,
    blob_proofs: SingleFlight<ProofKey, Result<Option<u64>, Error>>,
    manifest_proofs: SingleFlight<ProofKey, Result<ManifestHead, Error>>,
    confirmations: SingleFlight<CanonicalName, Result<bool, Error>>,
}

/// What membership is proven with.
#[derive(Debug)]
pub(crate) struct MembershipInputs {
    pub(crate) store: BlobStore,
    pub(crate) sources: Sources,
    pub(crate) negative: Arc<NegativeCache>,
    pub(crate) writes: Arc<RecentWrites>,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    pub(crate) settings: CacheSettings,
    pub(crate) tasks: Tasks,
}

impl Membership {
    pub(crate) fn new(inputs: MembershipInputs) -> Self {
        Self(Arc::new(MembershipCore {
            blob_proofs: SingleFlight::new(inputs.tasks.clone()),
            manifest_proofs: SingleFlight::new(inputs.tasks.clone()),
            confirmations: SingleFlight::new(inputs.tasks.clone()),
            inputs,
        }))
    }

    /// What `name` is proven to hold under `digest`; `None` if nothing is, or nothing is any more.
    ///
    /// # Errors
    /// If the proof is old and upstream refuses, or has failed for longer than a stale answer may
    /// live.
    pub(crate) async fn standing(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<Member>, Error> {
        let records = self.0.inputs.store.records();
        // An unreadable record proves nothing, so upstream is asked.
        let Some(member) = or_ask_upstream(records.member(name, digest).await).flatten() else {
            return Ok(None);
        };
        let confirmed = or_ask_upstream(records.confirmed(name).await).flatten();
        let now = self.0.inputs.clock.now();
        if confirmed
            .is_some_and(|confirmed| now.since(confirmed) < self.0.inputs.settings.load().proof_ttl)
        {
            return Ok(Some(member));
        }
        self.confirm(name, digest, &member, confirmed).await?;
        // The confirmation may have shown that just this digest is gone.
        Ok(or_ask_upstream(records.member(name, digest).await).flatten())
    }

    /// Upstream has answered 2xx for `digest` under `name` to a question that was sent at `sent_at`.
    /// If that was before a write through us, it proves nothing any more.
    pub(crate) async fn prove_as_of(
        &self,
        sent_at: Timestamp,
        name: &CanonicalName,
        digest: &Digest,
        media_type: Option<MediaType>,
    ) {
        let subjects =
            [Subject::Blob(digest.clone()), Subject::Manifest(Reference::Digest(digest.clone()))];
        if !subjects.iter().any(|subject| self.0.inputs.writes.outdates(subject, name, sent_at)) {
            self.prove(name, digest, media_type).await;
        }
    }

    /// Upstream has `digest` under `name` at this moment.
    pub(crate) async fn prove(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        media_type: Option<MediaType>,
    ) {
        let records = self.0.inputs.store.records();
        let member = Member { media_type };
        let known = or_ask_upstream(records.member(name, digest).await).flatten();
        if known.is_none_or(|known| known != member && member.media_type.is_some()) {
            or_ask_upstream(records.put_member(name, digest, member).await);
        }
        self.renew(name).await;
    }

    /// Upstream has refused or denied something: takes back what can no longer be believed.
    pub(crate) async fn withdraw(&self, name: &CanonicalName, subject: Subject, error: &Error) {
        let records = self.0.inputs.store.records();
        match error.class() {
            FailureClass::Refused => {
                or_ask_upstream(records.drop_members(name).await);
            }
            FailureClass::Absent => {
                if let Subject::Blob(digest) | Subject::Manifest(Reference::Digest(digest)) =
                    &subject
                {
                    or_ask_upstream(records.drop_member(name, digest).await);
                }
                self.0.inputs.negative.remember(subject, name, &self.0.inputs.limits);
            }
            // Nothing was said about the thing, or nothing that can be believed.
            FailureClass::Credential
            | FailureClass::Passing
            | FailureClass::Untrue
            | FailureClass::Ours => {}
        }
    }

    /// Asks upstream with one HEAD, shared by all who ask, whether `name` has the blob; gives its
    /// size.
    pub(crate) async fn prove_blob(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        self.ask_blob(name, digest, Instant::now() + self.0.inputs.limits.flight_head).await
    }

    /// The same for a manifest.
    pub(crate) async fn prove_manifest(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<ManifestHead, Error> {
        self.ask_manifest(name, digest, Instant::now() + self.0.inputs.limits.flight_head).await
    }

    async fn ask_blob(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Option<u64>, Error> {
        let epoch = self.0.inputs.writes.epoch(&Subject::Blob(digest.clone()), name);
        let (this, key) = (self.clone(), (name.clone(), digest.clone(), epoch));
        let head = self.0.blob_proofs.run(key.clone(), || async move {
            let (name, digest, _) = key;
            let sent_at = this.0.inputs.clock.now();
            let head = this
                .0
                .inputs
                .sources
                .upstream(&name)?
                .head_blob(&name.repository, &digest, deadline)
                .await;
            let size =
                this.settle(&name, Subject::Blob(digest.clone()), head, Missing::Blob).await?;
            this.prove_as_of(sent_at, &name, &digest, None).await;
            Ok(size)
        });
        head.await.unwrap_or(Err(Error::Abandoned))
    }

    async fn ask_manifest(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<ManifestHead, Error> {
        let reference = Reference::Digest(digest.clone());
        let epoch = self.0.inputs.writes.epoch(&Subject::Manifest(reference.clone()), name);
        let (this, key) = (self.clone(), (name.clone(), digest.clone(), epoch));
        let head = self.0.manifest_proofs.run(key.clone(), || async move {
            let (name, digest, _) = key;
            let sent_at = this.0.inputs.clock.now();
            let head = this
                .0
                .inputs
                .sources
                .upstream(&name)?
                .head_manifest(&name.repository, &reference, deadline)
                .await;
            let head =
                this.settle(&name, Subject::Manifest(reference), head, Missing::Manifest).await?;
            this.prove_as_of(sent_at, &name, &digest, head.media_type.clone()).await;
            Ok(head)
        });
        head.await.unwrap_or(Err(Error::Abandoned))
    }

    /// Renews an old proof: one HEAD of a manifest that is known, else of the digest itself.
    async fn confirm(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        member: &Member,
        confirmed: Option<Timestamp>,
    ) -> Result<(), Error> {
        let error = match self.ask_again(name, digest, member).await {
            // If only this digest is gone, the records say so now.
            Ok(()) => return Ok(()),
            Err(error) if error.is_absent(Missing::Blob) || error.is_absent(Missing::Manifest) => {
                return Ok(());
            }
            Err(error) => error,
        };
        let now = self.0.inputs.clock.now();
        let stands = confirmed.is_some_and(|at| {
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
        let (this, key) = (self.clone(), name.clone());
        let run = self
            .0
            .confirmations
            .run(name.clone(), || async move { this.confirm_by_any(&key).await });
        if run.await.unwrap_or(Err(Error::Abandoned))? {
            return Ok(());
        }
        // Nothing speaks for the whole repository, and what is found out about one digest says
        // nothing about another.
        let deadline = Instant::now() + self.0.inputs.limits.revalidate;
        match member.media_type {
            Some(_) => self.ask_manifest(name, digest, deadline).await.map(|_| ()),
            None => self.ask_blob(name, digest, deadline).await.map(|_| ()),
        }
    }

    /// Whether upstream still has some manifest that is known of `name`. One question for everybody
    /// whose proof has run out: any manifest speaks for the repository.
    async fn confirm_by_any(&self, name: &CanonicalName) -> Result<bool, Error> {
        let manifest =
            or_ask_upstream(self.0.inputs.store.records().any_manifest(name).await).flatten();
        let Some(manifest) = manifest else { return Ok(false) };
        match self
            .ask_manifest(name, &manifest, Instant::now() + self.0.inputs.limits.revalidate)
            .await
        {
            Ok(_) => Ok(true),
            Err(error) if error.is_absent(Missing::Manifest) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Passes what upstream answered; if it failed, takes back what that makes void. `missing` is
    /// what a 404 says is not there.
    pub(crate) async fn settle<T>(
        &self,
        name: &CanonicalName,
        subject: Subject,
        answer: Result<T, upstream::Error>,
        missing: Missing,
    ) -> Result<T, Error> {
        match answer {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let error = Error::from_upstream(error, missing);
                self.withdraw(name, subject, &error).await;
                Err(error)
            }
        }
    }

    async fn renew(&self, name: &CanonicalName) {
        let records = self.0.inputs.store.records();
        let now = self.0.inputs.clock.now();
        let confirmed = or_ask_upstream(records.confirmed(name).await).flatten();
        let pause = CONFIRMED_WRITE_INTERVAL.min(self.0.inputs.settings.load().proof_ttl / 4);
        if confirmed.is_none_or(|confirmed| now.since(confirmed) >= pause) {
            or_ask_upstream(records.put_confirmed(name, now).await);
        }
    }
}

/// Records that cannot be read prove nothing, and those that cannot be written are learnt again: in
/// both cases upstream is asked.
fn or_ask_upstream<T>(result: Result<T, store::Error>) -> Option<T> {
    result
        .inspect_err(|error| tracing::warn!(%error, "the records failed; asking upstream instead"))
        .ok()
}
