//! The task that runs a flight: a source's bytes into a staged file, verified, released, made
//! durable, published.
//!
//! It belongs to no request: its clients may come and go (BLOB-9). `resume` receives the bytes, and
//! continues a transfer that breaks off.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::time::Instant;

use super::flight::{FlightGuard, GrowingFile};
use super::turns::TransferPlace;
use crate::metrics::Counted;
use crate::oci::{CanonicalName, Digest, Extent};
use crate::pull::asker::Asker;
use crate::pull::core::{PullCore, Unstorable};
use crate::pull::error::{Error, Missing};
use crate::pull::facts::subject::Subject;
use crate::pull::interest::Interest;
use crate::pull::shares::Precedence;
use crate::pull::source::{Arrived, Question};
use crate::store::{
    ContentSender, EvictionClass, RoomOwner, StageError, Staged, Suspect, Verified,
};
use crate::upstream::FailureClass;

/// What a fill needs; it runs once.
pub(crate) struct Fill {
    pub(in crate::pull) core: Arc<PullCore>,
    pub(crate) name: CanonicalName,
    pub(crate) digest: Digest,
    /// Who has started it.
    pub(in crate::pull) asker: Asker,
    pub(crate) guard: FlightGuard,
    /// Bytes that the source has sent, those among them that were here already.
    pub(super) came: AtomicU64,
}

/// How many bytes there will be.
#[derive(Clone, Copy, Debug)]
pub(super) struct ExpectedSize {
    /// Content-Length: a transfer that brings fewer or more is broken, or untrue.
    pub(super) announced: Option<u64>,
    /// What a manifest says, where nothing is announced. A hint: the digest decides.
    pub(super) described: Option<u64>,
}

impl Fill {
    /// For `asker`, who is the first to follow it.
    pub(in crate::pull) fn new(
        core: Arc<PullCore>,
        (name, digest): (CanonicalName, Digest),
        asker: Asker,
        guard: FlightGuard,
    ) -> Self {
        Self { core, name, digest, asker, guard, came: AtomicU64::new(0) }
    }

    /// Of those who follow it.
    pub(super) fn interest(&self) -> &Interest {
        &self.guard.flight().interest
    }

    /// Runs the flight to its end; every failure reaches the readers through the guard.
    pub(crate) async fn run(self) {
        let _counted = Counted::one(&self.core.metrics.fills.in_flight);
        if let Err(error) = self.transfer().await {
            if !is_upstreams_no(&error) {
                self.report(&error);
            }
            let subject = Subject::Blob(self.digest.clone());
            // Before the readers learn of it: whoever asks again then must not be served by a proof
            // that upstream has just denied.
            self.core.membership.withdraw(&self.name, subject, &error).await;
            self.guard.end(Err(error));
        }
    }

    /// Hashes a stored file again while its readers follow (DESIGN §14.9).
    pub(crate) async fn recheck(self, suspect: Suspect) {
        let size = suspect.size();
        self.guard.open(GrowingFile { reader: suspect.reader(), size: Some(size) });
        let checked = suspect.check(|hashed| self.guard.watermark()(hashed)).await;
        self.guard.end(match checked {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::Damaged(self.digest.clone())),
            Err(error) => Err(error.into()),
        });
    }

    async fn transfer(&self) -> Result<(), Error> {
        // One deadline for the login, the queue and the headers (DESIGN §14.8).
        let deadline = Instant::now() + self.core.limits.flight_head;
        let mut question = self.while_waited_for(self.question(deadline)).await?;
        // Before the question: a write that happens while it is under way must win.
        let sent_at = self.core.clock.now();
        let arrived = question.whole_blob(&self.name, &self.digest, deadline).await?;
        let size = self.size_of(&arrived).await?;
        let (is_proof, may_be_a_page) = (arrived.proves_membership, arrived.may_be_a_page);
        if is_proof && !may_be_a_page {
            self.core.membership.prove_as_of(sent_at, &self.name, &self.digest, None).await;
        }
        // Only now: what is not there, and what is slow to answer, takes no place from what comes.
        let (place, arrived) = self.first_place(question, arrived).await?;
        // Room is reserved before the readers are let in, so that a full disk is noticed before
        // their response headers leave (DESIGN §14.10).
        let promised = size.announced.or(size.described);
        let Some(staged) = self.stage(promised).await else {
            self.guard.give_away(arrived);
            return Ok(());
        };
        self.guard.open(GrowingFile { reader: staged.reader(), size: promised });
        let body = arrived.map(|arrived| arrived.body);
        let (staged, is_public) = self.receive_all(staged, place, body, size).await?;
        let written = staged.written();
        let verified = staged
            .verify()
            .map_err(|mismatch| self.untrue(format!("wrong content: {mismatch}")))?;
        // Before the readers learn of it, as above.
        if is_proof && may_be_a_page {
            self.core.membership.prove_as_of(sent_at, &self.name, &self.digest, None).await;
        }
        if size.described.is_some_and(|described| described != written) {
            self.core.sizes.dispute(&self.name, &self.digest);
        }
        let sender = ContentSender { upstream: self.name.upstream.clone(), is_public };
        self.publish(verified, sender).await;
        Ok(())
    }

    /// The login comes before the question: a credential helper that hangs must not hold one that
    /// others have.
    async fn question(&self, deadline: Instant) -> Result<Question, Error> {
        self.core.sources.prepare(&self.name, deadline).await?;
        self.core.sources.ask(&self.name, Missing::Blob, self.interest(), deadline).await
    }

    /// Waits for a place among the downloads. The answer waits beside it, as long as nobody else
    /// has a use for its question; then the blob is asked for again once there is a place.
    async fn first_place(
        &self,
        mut question: Question,
        arrived: Arrived,
    ) -> Result<(TransferPlace, Option<Arrived>), Error> {
        let until = Instant::now() + self.core.limits.fill_queue;
        let place = self.core.turns.place(&self.name, self.interest(), Precedence::Wanted, until);
        let place = self.while_waited_for(place);
        tokio::pin!(place);
        tokio::select! {
            biased;
            place = &mut place => Ok((place?, Some(arrived))),
            () = question.wanted_elsewhere() => {
                drop((question, arrived));
                Ok((place.await?, None))
            }
        }
    }

    /// Does it as long as somebody waits for this download, and it may go on.
    async fn while_waited_for<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.core.sources.sealed(&self.name) => Err(Error::Sealed { what: Missing::Blob }),
            () = self.interest().unwanted_for_long() => Err(Error::Abandoned),
        }
    }

    /// Waits for another place, after the first was given back. Whoever is served meanwhile comes
    /// to an end some time, or yields as well.
    pub(super) async fn place_again(&self, precedence: Precedence) -> Result<TransferPlace, Error> {
        let patience = self.core.settings.load().abandon_after.max(self.core.limits.fill_queue);
        let until = Instant::now() + patience;
        self.core.turns.place(&self.name, self.interest(), precedence, until).await
    }

    /// Does it unless nobody has wanted the blob for so long, or its upstream is sealed meanwhile. The
    /// staged file is dropped then, and leaves nothing.
    pub(super) async fn unless_abandoned<T>(
        &self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let abandon_after = self.core.settings.load().abandon_after;
        tokio::select! {
            done = work => done,
            () = self.core.sources.sealed(&self.name) => Err(Error::Sealed { what: Missing::Blob }),
            () = self.interest().unwanted(abandon_after) => Err(Error::Abandoned),
        }
    }

    /// The size by Content-Length, else by the repository's descriptor (DESIGN §14.5).
    async fn size_of(&self, arrived: &Arrived) -> Result<ExpectedSize, Error> {
        let Extent::Whole { size: announced } = arrived.extent else {
            return Err(self.untrue("a part where the whole was asked for"));
        };
        let described = match announced {
            Some(_) => None,
            None => self.core.described_size(&self.name, &self.digest).await,
        };
        Ok(ExpectedSize { announced, described })
    }

    /// A staged file for the bytes, if there is room for them.
    async fn stage(&self, size: Option<u64>) -> Option<Staged> {
        // Without a length it would be written until it is too much again, and what others use would
        // go for it.
        let size = match self.core.unstorable.get(&self.digest) {
            Some(Unstorable::Failed) => return None,
            Some(Unstorable::Outgrown(least)) => size.or(Some(least)),
            None => size,
        };
        let staged = self.core.store.stage(&self.digest, size, RoomOwner::of(&self.asker)).await;
        if let Err(StageError::Failed(error)) = &staged {
            tracing::error!(%error, digest = %self.digest,
                "cannot store a blob; passing it through");
        }
        staged.ok()
    }

    /// Releases the readers, and only then waits for the disk: an fsync takes longer than sending
    /// the last 64 KiB, and readers lose nothing if it fails.
    async fn publish(&self, verified: Verified, sender: ContentSender) {
        self.guard.end(Ok(()));
        // The flight stays on the table until the guard is dropped, which is after this: whoever
        // comes meanwhile joins it instead of fetching the blob again.
        let now = self.core.clock.now();
        if let Err(error) = verified.publish(EvictionClass::Blob, now, sender).await {
            tracing::error!(%error, digest = %self.digest, "cannot publish a blob");
        }
    }

    pub(super) fn untrue(&self, reason: impl Into<Arc<str>>) -> Error {
        Error::untrue(&self.name.upstream, reason)
    }

    /// Counts and logs a download that failed.
    fn report(&self, error: &Error) {
        let labels = [self.name.upstream.as_str(), error.reason()];
        self.core.metrics.fills.failures.with_label_values(&labels).inc();
        tracing::warn!(upstream = %self.name.upstream, repository = %self.name.repository,
            digest = %self.digest, reason = error.reason(), %error, "a download stored nothing");
    }
}

/// Whether upstream has said no. Its clients are told so; counted as a failed download, it would
/// only alarm the operator.
fn is_upstreams_no(error: &Error) -> bool {
    matches!(error.class(), FailureClass::Absent | FailureClass::Refused)
        || matches!(error, Error::RateLimited { .. })
}
