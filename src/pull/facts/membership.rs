//! Proof of membership: a repository's right to a digest (DESIGN §14.1).
//!
//! Bytes are shared by digest, rights are not. A digest is proven for (upstream, repository) only
//! by that upstream's 2xx for that content under that repository. Freshness is kept for the whole
//! repository: any 2xx renews it, and when it has run out, one HEAD confirms it again on use.

use std::sync::Arc;
use std::time::Duration;

use super::freshness;
use super::negative::{Absences, Era, Subject};
use crate::clock::{Clock, Timestamp};
use crate::limits::Limits;
use crate::oci::{CanonicalName, Digest, MediaType, Reference};
use crate::pull::Ages;
use crate::pull::Error;
use crate::pull::single_flight::SingleFlight;
use crate::pull::tasks::Tasks;
use crate::store::{self, BlobStore, Member};
use crate::upstream::{ManifestHead, Upstream, Upstreams};
use tokio::time::Instant;

/// Confirmations closer together than this are not worth a write.
const WRITE_EVERY: Duration = Duration::from_secs(30);

type Key = (CanonicalName, Digest, Era);

/// Clones share everything.
#[derive(Clone, Debug)]
pub(in crate::pull) struct Membership(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: BlobStore,
    upstreams: Arc<Upstreams>,
    absences: Arc<Absences>,
    clock: Clock,
    limits: Limits,
    ages: Ages,
    blob_proofs: SingleFlight<Key, Result<Option<u64>, Error>>,
    manifest_proofs: SingleFlight<Key, Result<ManifestHead, Error>>,
    confirmations: SingleFlight<CanonicalName, Result<bool, Error>>,
}

impl Membership {
    pub(in crate::pull) fn new(
        parts: &crate::pull::Parts,
        absences: Arc<Absences>,
        ages: Ages,
        tasks: &Tasks,
    ) -> Self {
        Self(Arc::new(Inner {
            store: parts.store.clone(),
            upstreams: Arc::clone(&parts.upstreams),
            absences,
            clock: parts.clock.clone(),
            limits: parts.limits.clone(),
            ages,
            blob_proofs: SingleFlight::new(tasks.clone()),
            manifest_proofs: SingleFlight::new(tasks.clone()),
            confirmations: SingleFlight::new(tasks.clone()),
        }))
    }

    /// What `name` is proven to hold under `digest`; `None` if nothing is, or nothing is any more.
    ///
    /// # Errors
    /// If the proof is old and upstream refuses, or has failed for longer than a stale answer may
    /// live.
    pub(in crate::pull) async fn standing(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<Member>, Error> {
        let records = self.0.store.records();
        // An unreadable record proves nothing, so upstream is asked.
        let Some(member) = note(records.member(name, digest).await).flatten() else {
            return Ok(None);
        };
        let confirmed = note(records.confirmed(name).await).flatten();
        let now = self.0.clock.now();
        if confirmed.is_some_and(|confirmed| now.since(confirmed) < self.0.ages.load().proof_ttl) {
            return Ok(Some(member));
        }
        self.confirm(name, digest, &member, confirmed).await?;
        // The confirmation may have shown that just this digest is gone.
        Ok(note(records.member(name, digest).await).flatten())
    }

    /// Upstream has answered 2xx for `digest` under `name` to a question of this time; one from
    /// before a change proves nothing any more.
    pub(in crate::pull) async fn prove_as_of(
        &self,
        asked: Timestamp,
        name: &CanonicalName,
        digest: &Digest,
        media_type: Option<MediaType>,
    ) {
        let subjects =
            [Subject::Blob(digest.clone()), Subject::Manifest(Reference::Digest(digest.clone()))];
        if !subjects.iter().any(|subject| self.0.absences.outdated(subject, name, asked)) {
            self.prove(name, digest, media_type).await;
        }
    }

    /// Upstream has `digest` under `name` at this moment.
    pub(in crate::pull) async fn prove(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        media_type: Option<MediaType>,
    ) {
        let records = self.0.store.records();
        let member = Member { media_type };
        let known = note(records.member(name, digest).await).flatten();
        if known.is_none_or(|known| known != member && member.media_type.is_some()) {
            note(records.put_member(name, digest, member).await);
        }
        self.renew(name).await;
    }

    /// Upstream has refused or denied something: takes back what can no longer be believed.
    pub(in crate::pull) async fn withdraw(
        &self,
        name: &CanonicalName,
        subject: Subject,
        error: &Error,
    ) {
        let records = self.0.store.records();
        match error {
            Error::Refused(_) => {
                note(records.drop_members(name).await);
            }
            Error::BlobUnknown
            | Error::ManifestUnknown
            | Error::NameUnknown
            | Error::NoReferrers => {
                if let Subject::Blob(digest) | Subject::Manifest(Reference::Digest(digest)) =
                    &subject
                {
                    note(records.drop_member(name, digest).await);
                }
                self.0.absences.hold(subject, name, &self.0.limits);
            }
            Error::RateLimited { .. }
            | Error::Upstream(_)
            | Error::Untrue { .. }
            | Error::Broken { .. }
            | Error::Overloaded
            | Error::Late(_)
            | Error::RangeUnsatisfiable { .. }
            | Error::Damaged(_)
            | Error::Storage(_)
            | Error::NoRoom
            | Error::Abandoned => {}
        }
    }

    /// Asks upstream with one HEAD, shared by all who ask, whether `name` has the blob; gives its
    /// size.
    pub(in crate::pull) async fn prove_blob(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<u64>, Error> {
        self.ask_blob(name, digest, Instant::now() + self.0.limits.flight_head).await
    }

    /// The same for a manifest.
    pub(in crate::pull) async fn prove_manifest(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<ManifestHead, Error> {
        self.ask_manifest(name, digest, Instant::now() + self.0.limits.flight_head).await
    }

    async fn ask_blob(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Option<u64>, Error> {
        let era = self.0.absences.era(&Subject::Blob(digest.clone()), name);
        let (this, key) = (self.clone(), (name.clone(), digest.clone(), era));
        let head = self.0.blob_proofs.run(key.clone(), || async move {
            let (name, digest, _) = key;
            let asked = this.0.clock.now();
            let head = this.upstream(&name)?.head_blob(&name.repository, &digest, deadline).await;
            let size =
                this.settle(&name, Subject::Blob(digest.clone()), head, Error::BlobUnknown).await?;
            this.prove_as_of(asked, &name, &digest, None).await;
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
        let era = self.0.absences.era(&Subject::Manifest(reference.clone()), name);
        let (this, key) = (self.clone(), (name.clone(), digest.clone(), era));
        let head = self.0.manifest_proofs.run(key.clone(), || async move {
            let (name, digest, _) = key;
            let asked = this.0.clock.now();
            let head =
                this.upstream(&name)?.head_manifest(&name.repository, &reference, deadline).await;
            let head = this
                .settle(&name, Subject::Manifest(reference), head, Error::ManifestUnknown)
                .await?;
            this.prove_as_of(asked, &name, &digest, head.media_type.clone()).await;
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
            Ok(()) | Err(Error::BlobUnknown | Error::ManifestUnknown) => return Ok(()),
            Err(error) => error,
        };
        let now = self.0.clock.now();
        let stands = confirmed
            .is_some_and(|at| freshness::may_stand_in(at, self.0.ages.load().stale_if_error, now));
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
        let deadline = Instant::now() + self.0.limits.revalidate;
        match member.media_type {
            Some(_) => self.ask_manifest(name, digest, deadline).await.map(|_| ()),
            None => self.ask_blob(name, digest, deadline).await.map(|_| ()),
        }
    }

    /// Whether upstream still has some manifest that is known of `name`; one question for all who
    /// doubt.
    async fn confirm_by_any(&self, name: &CanonicalName) -> Result<bool, Error> {
        let manifest = note(self.0.store.records().any_manifest(name).await).flatten();
        let Some(manifest) = manifest else { return Ok(false) };
        match self.ask_manifest(name, &manifest, Instant::now() + self.0.limits.revalidate).await {
            Ok(_) => Ok(true),
            Err(Error::ManifestUnknown) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Folds an upstream answer, and withdraws what a refusal makes void.
    pub(in crate::pull) async fn settle<T>(
        &self,
        name: &CanonicalName,
        subject: Subject,
        answer: Result<T, crate::upstream::Error>,
        absent: Error,
    ) -> Result<T, Error> {
        match answer {
            Ok(answer) => Ok(answer),
            Err(error) => {
                let error = Error::from_upstream(error, absent);
                self.withdraw(name, subject, &error).await;
                Err(error)
            }
        }
    }

    async fn renew(&self, name: &CanonicalName) {
        let records = self.0.store.records();
        let now = self.0.clock.now();
        let confirmed = note(records.confirmed(name).await).flatten();
        let pause = WRITE_EVERY.min(self.0.ages.load().proof_ttl / 4);
        if confirmed.is_none_or(|confirmed| now.since(confirmed) >= pause) {
            note(records.put_confirmed(name, now).await);
        }
    }

    fn upstream(&self, name: &CanonicalName) -> Result<Arc<Upstream>, Error> {
        self.0.upstreams.get(&name.upstream).ok_or(Error::NameUnknown)
    }
}

/// Logs a failure of the records; without them upstream is asked.
fn note<T>(result: Result<T, store::Error>) -> Option<T> {
    result
        .inspect_err(|error| {
            tracing::warn!(%error, "the records failed; asking upstream instead");
        })
        .ok()
}
