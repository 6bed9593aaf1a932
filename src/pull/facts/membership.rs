//! Proof of membership: a repository's right to a digest (DESIGN §14.1).
//!
//! Bytes are shared by digest, rights are not. A digest is proven for (upstream, repository) only
//! by that upstream's 2xx for that content under that repository. This file records proofs, takes
//! them back, and asks for them with HEAD; `confirmation` says how long a proof is believed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::negative::NegativeCache;
use super::subject::Subject;
use super::writes::{RecentWrites, WriteEpoch};
use crate::clock::{Clock, Timestamp};
use crate::limits::Limits;
use crate::oci::{CanonicalName, Digest, MediaType, Reference};
use crate::pull::asker::Asker;
use crate::pull::error::{Error, Missing};
use crate::pull::interest::Behalf;
use crate::pull::parts::CacheSettings;
use crate::pull::single_flight::{SingleFlight, Unwanted};
use crate::pull::source::Sources;
use crate::pull::tasks::Tasks;
use crate::pull::transfer::flight::{FlightKey, Flights};
use crate::store::{self, BlobStore, Member};
use crate::upstream::{self, FailureClass, ManifestHead};

/// The least time between two writes of a confirmation time. A confirmation that is
/// lost with the process costs one HEAD.
const CONFIRMED_WRITE_INTERVAL: Duration = Duration::from_secs(30);

/// Questions are shared by those who ask for the same digest with no write of it in between.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct ProofKey {
    name: CanonicalName,
    digest: Digest,
    epoch: WriteEpoch,
}

/// Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Membership(pub(super) Arc<MembershipCore>, pub(super) Behalf);

#[derive(Debug)]
pub(super) struct MembershipCore {
    pub(super) inputs: MembershipInputs,
    blob_proofs: SingleFlight<ProofKey, Result<Option<u64>, Error>>,
    manifest_proofs: SingleFlight<ProofKey, Result<ManifestHead, Error>>,
    /// Questions whether what was proven still is so: of one digest, or by some known manifest of
    /// all blobs of the repository.
    pub(super) confirmations: SingleFlight<(CanonicalName, Option<Digest>), Result<bool, Error>>,
}

/// What membership is proven with.
#[derive(Debug)]
pub(crate) struct MembershipInputs {
    pub(crate) store: BlobStore,
    pub(crate) sources: Sources,
    pub(crate) flights: Flights,
    pub(crate) negative: Arc<NegativeCache>,
    pub(crate) writes: Arc<RecentWrites>,
    pub(crate) clock: Clock,
    pub(crate) limits: Limits,
    pub(crate) settings: CacheSettings,
    pub(crate) tasks: Tasks,
}

impl Membership {
    pub(crate) fn new(inputs: MembershipInputs) -> Self {
        let core = MembershipCore {
            blob_proofs: SingleFlight::new(inputs.tasks.clone()),
            manifest_proofs: SingleFlight::new(inputs.tasks.clone()),
            confirmations: SingleFlight::new(inputs.tasks.clone()),
            inputs,
        };
        Self(Arc::new(core), Behalf::One(Asker::default()))
    }

    /// The same, whose questions are asked for these.
    pub(in crate::pull) fn on_behalf(&self, behalf: Behalf) -> Self {
        Self(Arc::clone(&self.0), behalf)
    }

    /// Records that upstream has answered 2xx for `digest` under `name` to a question that was sent
    /// at `sent_at`.
    ///
    /// An answer that was on its way while the digest was written or deleted through us, or refused
    /// by upstream, says what was true before. It would prove again what was just taken back, so it
    /// is ignored.
    pub(crate) async fn prove_as_of(
        &self,
        sent_at: Timestamp,
        name: &CanonicalName,
        digest: &Digest,
        media_type: Option<MediaType>,
    ) {
        // A digest does not say whether it is a blob's or a manifest's.
        let subjects =
            [Subject::Blob(digest.clone()), Subject::Manifest(Reference::Digest(digest.clone()))];
        let writes = &self.0.inputs.writes;
        let outdated = || subjects.iter().any(|subject| writes.outdates(subject, name, sent_at));
        if outdated() {
            return;
        }
        self.prove(name, digest, media_type).await;
        // Taken back while this was being recorded: losing a proof is safe, keeping it is not.
        if outdated() {
            self.take_back(name, digest).await;
        }
    }

    /// Records that upstream has `digest` under `name` at this moment.
    pub(crate) async fn prove(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        media_type: Option<MediaType>,
    ) {
        let records = self.0.inputs.store.records();
        let member = Member { media_type, doubted: None, seen: self.0.inputs.clock.now() };
        let known = or_ask_upstream(records.member(name, digest).await).flatten();
        // That a manifest's bytes are there as a blob too says nothing of the manifest, which may be
        // deleted, and must not lose its type: it is served with that.
        let adds = |known: Member| {
            (known.media_type.is_none() || member.media_type.is_some())
                && (known.doubted.is_some()
                    || known.media_type != member.media_type
                    || self.may_be_renewed(known.seen))
        };
        if known.is_none_or(adds) {
            or_ask_upstream(records.put_member(name, digest, member).await);
        }
        self.renew(name).await;
    }

    /// Takes back what cannot be believed any more, because upstream has failed like this.
    pub(crate) async fn withdraw(&self, name: &CanonicalName, subject: Subject, error: &Error) {
        match error.class() {
            FailureClass::Refused => self.refused(name, subject).await,
            FailureClass::Absent => {
                if let Some(digest) = subject.digest() {
                    self.take_back(name, digest).await;
                }
                self.0.inputs.negative.remember(subject, name, &self.0.inputs.limits);
            }
            // What it brought is not served any more: proofs that are still fresh would be believed
            // without asking (UP-13).
            FailureClass::Withdrawn => {
                or_ask_upstream(self.0.inputs.store.records().doubt_members(name).await);
            }
            // Nothing was said about the thing, or nothing that can be believed.
            FailureClass::Credential
            | FailureClass::Passing
            | FailureClass::Untrue
            | FailureClass::Ours => {}
        }
    }

    /// A refusal is about the thing that was asked for: registries refuse what does not exist, or
    /// one quarantined tag. But it may be about the repository as well. So this thing is taken
    /// back, and each of the others has to be confirmed by itself before it is believed again.
    async fn refused(&self, name: &CanonicalName, subject: Subject) {
        let MembershipInputs { store, writes, .. } = &self.0.inputs;
        // First: answers that are on their way must not prove it again.
        writes.note(subject.clone(), name);
        if let Subject::Manifest(Reference::Tag(_)) = subject {
            writes.note(Subject::Tags, name);
        }
        if let Some(digest) = subject.digest() {
            self.take_back(name, digest).await;
        }
        or_ask_upstream(store.records().doubt_members(name).await);
    }

    /// Forgets that `name` holds `digest`. Whoever asks for it now proves it first, even if a
    /// transfer is under way that was begun for `name`.
    pub(crate) async fn take_back(&self, name: &CanonicalName, digest: &Digest) {
        let MembershipInputs { store, flights, .. } = &self.0.inputs;
        flights.disown(&FlightKey::of(name, digest), &name.repository);
        or_ask_upstream(store.records().drop_member(name, digest).await);
    }

    /// Passes on what upstream answered; if it failed, takes back what that makes void. `missing`
    /// is what a 404 says is not there.
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

    /// Asks upstream with one HEAD, shared by all who ask, whether `name` has the blob. Gives its
    /// size in bytes, if upstream says.
    ///
    /// # Errors
    /// What upstream says; 404 is [`Missing::Blob`].
    pub(crate) async fn prove_blob(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        self.prove_blob_by(name, digest, Instant::now() + self.0.inputs.limits.shared_question())
            .await
    }

    /// As [`Membership::prove_blob`], for a manifest.
    pub(crate) async fn prove_manifest(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<ManifestHead, Error> {
        self.prove_manifest_by(
            name,
            digest,
            Instant::now() + self.0.inputs.limits.shared_question(),
        )
        .await
    }

    /// Whoever joins a question that is under way waits until its deadline, not this one.
    pub(super) async fn prove_blob_by(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Option<u64>, Error> {
        let epoch = self.0.inputs.writes.epoch(&Subject::Blob(digest.clone()), name);
        let key = ProofKey { name: name.clone(), digest: digest.clone(), epoch };
        let this = self.clone();
        let head = self.0.blob_proofs.run(
            key.clone(),
            &self.1,
            Unwanted::Cancelled,
            |interest| async move {
                let ProofKey { name, digest, .. } = key;
                let MembershipInputs { clock, sources, .. } = &this.0.inputs;
                // Before the question: a write that happens while it is under way must win.
                let sent_at = clock.now();
                let upstream = sources.ask(&name, Missing::Blob, &interest, deadline).await?;
                let head = upstream.head_blob(&name.repository, &digest, deadline).await;
                let subject = Subject::Blob(digest.clone());
                let size = this.settle(&name, subject, head, Missing::Blob).await?;
                this.prove_as_of(sent_at, &name, &digest, None).await;
                Ok(size)
            },
        );
        head.await.unwrap_or(Err(Error::Abandoned))
    }

    /// As [`Membership::prove_blob_by`], for a manifest.
    pub(super) async fn prove_manifest_by(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<ManifestHead, Error> {
        let reference = Reference::Digest(digest.clone());
        let epoch = self.0.inputs.writes.epoch(&Subject::Manifest(reference.clone()), name);
        let key = ProofKey { name: name.clone(), digest: digest.clone(), epoch };
        let this = self.clone();
        let head = self.0.manifest_proofs.run(
            key.clone(),
            &self.1,
            Unwanted::Cancelled,
            |interest| async move {
                let ProofKey { name, digest, .. } = key;
                let MembershipInputs { clock, sources, .. } = &this.0.inputs;
                let sent_at = clock.now();
                let upstream = sources.ask(&name, Missing::Manifest, &interest, deadline).await?;
                let known =
                    or_ask_upstream(this.0.inputs.store.records().member(&name, &digest).await);
                let known = known.flatten();
                let head = if known.is_some() {
                    upstream.head_known_manifest(&name.repository, &reference, deadline).await
                } else {
                    upstream.head_manifest(&name.repository, &reference, deadline).await
                };
                let subject = Subject::Manifest(reference);
                let head = this.settle(&name, subject, head, Missing::Manifest).await?;
                let media_type =
                    head.media_type.clone().or(known.and_then(|known| known.media_type));
                this.prove_as_of(sent_at, &name, &digest, media_type).await;
                Ok(head)
            },
        );
        head.await.unwrap_or(Err(Error::Abandoned))
    }

    /// Records that the repository has just been confirmed, unless that was recorded a moment ago.
    async fn renew(&self, name: &CanonicalName) {
        let records = self.0.inputs.store.records();
        let now = self.0.inputs.clock.now();
        let confirmed = or_ask_upstream(records.confirmed(name).await).flatten();
        if confirmed.is_none_or(|confirmed| self.may_be_renewed(confirmed)) {
            or_ask_upstream(records.put_confirmed(name, now).await);
        }
    }

    /// Whether a confirmation was recorded so long ago that the next one is worth a write.
    fn may_be_renewed(&self, confirmed: Timestamp) -> bool {
        let MembershipInputs { clock, settings, .. } = &self.0.inputs;
        // Where `proof_ttl` is shorter than the interval, a proof would look old although it has
        // been confirmed within its time.
        let pause = CONFIRMED_WRITE_INTERVAL.min(settings.load().proof_ttl / 4);
        !clock.now().is_within(pause, confirmed)
    }
}

/// Logs a failure of the records, and goes on without them: what cannot be read proves nothing, and
/// what cannot be written is learnt again, so in both cases upstream is asked.
pub(super) fn or_ask_upstream<T>(result: Result<T, store::Error>) -> Option<T> {
    result
        .inspect_err(|error| tracing::warn!(%error, "the records failed; asking upstream instead"))
        .ok()
}
