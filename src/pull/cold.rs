//! A blob that is not in the store: everybody who wants it follows the one flight that fetches it,
//! or gets it passed through where it cannot be stored.

use std::sync::Arc;

use futures_util::{FutureExt, TryStreamExt};
use tokio::sync::watch;
use tokio::time::Instant;

use super::answers::{BlobAnswer, Content, PieceMax};
use super::blobs::{BlobQuery, Followed, ResolvedRange, resolve};
use super::core::PullThrough;
use super::error::{Error, Missing};
use super::facts::subject::Subject;
use super::outcome::Outcome;
use super::shares::Precedence;
use super::source::{Arrived, SourceBody};
use super::transfer::fill::Fill;
use super::transfer::flight::{
    FlightGuard, FlightKey, FlightState, Follower, GrowingFile, JoinedOrStarted,
};
use super::transfer::relay::RelayedBlob;
use super::transfer::tail::{Fallback, Tail};
use super::transfer::turns::TransferPlace;
use crate::limits::Limits;
use crate::oci::{ByteSpan, CanonicalName, Digest, Extent, Part, RangeRequest};
use crate::store::Suspect;

impl PullThrough {
    /// Hashes a stored file again that may have been changed; everybody who wants it follows the
    /// hashing like a download (DESIGN §14.9).
    pub(super) async fn recheck(
        &self,
        query: BlobQuery<'_>,
        suspect: Suspect,
    ) -> Result<BlobAnswer, Error> {
        let follower = self.follow_check(query, suspect)?;
        let flight = Arc::clone(&follower.flight);
        let answer = self.answer_from(follower, query, Outcome::Hit).await;
        if let Err(Error::RangeUnsatisfiable { .. }) = answer {
            // The file may have been cut short. A 416 is true only if the hashing succeeds; else
            // the file is removed, and the next request fetches the blob.
            wait_for_ending(&mut flight.watch()).await?;
        }
        answer
    }

    /// Joins the hashing, or starts it.
    pub(super) fn follow_check(
        &self,
        query: BlobQuery<'_>,
        suspect: Suspect,
    ) -> Result<Follower, Error> {
        match self.join_or_start(query, true, || false) {
            JoinedOrStarted::Started(follower, guard) => {
                self.0.tasks.spawn(self.fill(query, guard).recheck(suspect));
                Ok(follower)
            }
            JoinedOrStarted::Joined(follower) => Ok(follower),
            // Both are impossible: the request is proven, and the store was said to have nothing.
            JoinedOrStarted::NotProven | JoinedOrStarted::Stored => Err(Error::Abandoned),
        }
    }

    /// Joins the flight or starts it. Every client, the first included, follows its file.
    ///
    /// `readable` says that the store could be read. If it could not, the blob is fetched even
    /// though the store lists it; otherwise this request would look there again and again.
    pub(super) async fn follow(
        &self,
        query: BlobQuery<'_>,
        mut proven: bool,
        readable: bool,
    ) -> Result<Followed, Error> {
        let BlobQuery { name, digest, range, .. } = query;
        proven |= self.check_range(name, digest, range).await?;
        let mut retried = false;
        loop {
            let Some((follower, outcome)) = self.join(query, &mut proven, readable).await? else {
                return Ok(Followed::LookAgain);
            };
            let flight = FollowedFlight::of(&follower, query, outcome);
            match self.answer_from(follower, query, outcome).await {
                Err(error) if !retried && flight.leaves_hope(&error) => retried = true,
                answer => return answer.map(Followed::Answer),
            }
        }
    }

    /// As [`PullThrough::follow`], and leaves it to the caller what it makes of the flight; `None` if
    /// the store has the blob by now.
    pub(super) async fn join(
        &self,
        query: BlobQuery<'_>,
        proven: &mut bool,
        readable: bool,
    ) -> Result<Option<(Follower, Outcome)>, Error> {
        let BlobQuery { name, digest, .. } = query;
        loop {
            let is_stored = || self.0.store.holds(digest) && self.0.may_use_now(name, digest);
            let stored = || readable && is_stored();
            match self.join_or_start(query, *proven, stored) {
                JoinedOrStarted::Joined(follower) => return Ok(Some((follower, Outcome::Joined))),
                JoinedOrStarted::Started(follower, guard) => {
                    self.0.tasks.spawn(self.fill(query, guard).run());
                    return Ok(Some((follower, Outcome::Miss)));
                }
                JoinedOrStarted::NotProven => {
                    // The flight proves the digest for the repository that started it, and for no
                    // other (DESIGN §14.1).
                    self.membership().prove_blob(name, digest).await?;
                    *proven = true;
                }
                JoinedOrStarted::Stored => return Ok(None),
            }
        }
    }

    /// A range that cannot be met starts no flight (DESIGN §14.5). But that it cannot is only what
    /// a manifest says, so upstream is asked; then the digest is proven as well.
    async fn check_range(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        range: RangeRequest,
    ) -> Result<bool, Error> {
        let described = self.0.sizes.get(name, digest);
        if described.is_none_or(|size| resolve(range, size).is_ok()) {
            return Ok(false);
        }
        let size = self.membership().prove_blob(name, digest).await?;
        if let Some(size) = size {
            resolve(range, size)?;
        }
        self.0.sizes.dispute(name, digest);
        Ok(true)
    }

    /// An answer that follows the flight, once its source has answered.
    async fn answer_from(
        &self,
        mut follower: Follower,
        query: BlobQuery<'_>,
        outcome: Outcome,
    ) -> Result<BlobAnswer, Error> {
        let Some(file) = follower.opened().await? else {
            return self.relay(query, follower.flight.take_unstored()).await;
        };
        let file = match self.verified_if_small(file, &mut follower.state).await {
            Err(error) if error.is_of_our_disk() => return self.relay(query, None).await,
            file => file?,
        };
        // Without a size a range cannot be resolved, and is ignored (DESIGN §14.5).
        let whole = ResolvedRange { part: None, span: 0..u64::MAX };
        let ResolvedRange { part, span } =
            file.size.map_or(Ok(whole), |size| resolve(query.range, size))?;
        let state = &follower.state;
        let far_ahead = |part: &ByteSpan| is_far_ahead(&state.borrow(), part, &self.0.limits);
        if let Some(part) = part.filter(far_ahead)
            && let Some(answer) = self.part_by_itself(query, part, file.size).await?
        {
            return Ok(answer);
        }
        let (size, is_part, piece_max) = (file.size, part.is_some(), PieceMax::default());
        let (blob, hold_back) = (self.relayed(query.name, query.digest), self.0.limits.hold_back);
        let tail = Tail { follower, file, span, hold_back, piece_max: piece_max.clone() };
        let stream = tail.into_stream(Fallback { blob, is_part });
        let content = Content::Stream { stream, piece_max };
        Ok(BlobAnswer { size, part, content, outcome })
    }

    /// All of a blob that is no larger than the hold-back is held back until it is verified. So the
    /// head waits as well, and a wrong digest is a 502 with a reason instead of a body that is cut
    /// (DESIGN §14.7).
    async fn verified_if_small(
        &self,
        file: GrowingFile,
        state: &mut watch::Receiver<FlightState>,
    ) -> Result<GrowingFile, Error> {
        if file.size.is_some_and(|size| size <= self.0.limits.hold_back) {
            wait_for_ending(state).await?;
        }
        // What is verified has the size that it has, whatever was said before.
        let state = state.borrow();
        let verified = matches!(state.ending, Some(Ok(())));
        let size = if verified { Some(state.written) } else { file.size };
        Ok(GrowingFile { size, ..file })
    }

    /// A part that is fetched for this request alone; `None` if it has to wait for the flight.
    async fn part_by_itself(
        &self,
        query: BlobQuery<'_>,
        part: ByteSpan,
        size: Option<u64>,
    ) -> Result<Option<BlobAnswer>, Error> {
        match self.relay_part(query, part, size).await {
            // Upstream ignores Range, or cannot be asked or throttles just now. The flight brings
            // these bytes as well, only later. A refusal stays a refusal.
            Err(
                Error::Untrue { .. }
                | Error::Upstream { .. }
                | Error::Unconfirmed { .. }
                | Error::Exhausted(_)
                | Error::Overloaded
                | Error::RateLimited { .. },
            ) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// Passes the blob through without storing it. One request takes over the answer `arrived`
    /// whose bytes found no room; all others ask the source themselves.
    async fn relay(
        &self,
        query: BlobQuery<'_>,
        arrived: Option<Arrived>,
    ) -> Result<BlobAnswer, Error> {
        let BlobQuery { name, digest, range, .. } = query;
        // Only what upstream itself announces is promised: nothing is kept, so that a wrong hint
        // would be found out anew by each client.
        let arrived = match arrived {
            Some(arrived) => arrived,
            None => self.fetch_directly(query, None).await?,
        };
        let Extent::Whole { size } = arrived.extent else {
            return Err(Error::untrue(&name.upstream, "a part where the whole was asked for"));
        };
        if let Some(total) = size
            && let Some(part) = resolve(range, total)?.part
        {
            return self.relay_part(query, part, Some(total)).await;
        }
        let (place, body) = self.relay_place(query, arrived.body).await?;
        let hold_back = self.0.limits.hold_back;
        let stream = self.relayed(name, digest).whole(place, body, size);
        let content = if size.is_some_and(|size| size <= hold_back) {
            // As with a flight, what is no larger than the hold-back is verified before its head
            // leaves. An upstream that answers with Content-Length 0 would otherwise make a
            // complete, empty 200: there is no last byte whose absence the client could notice.
            Content::Memory(stream.try_collect::<Vec<_>>().await?.concat().into())
        } else {
            Content::Stream { stream, piece_max: PieceMax::default() }
        };
        Ok(BlobAnswer { size, part: None, content, outcome: Outcome::Relay })
    }

    /// Passes a part through. It cannot be verified: a digest is for the whole blob.
    async fn relay_part(
        &self,
        query: BlobQuery<'_>,
        part: ByteSpan,
        size: Option<u64>,
    ) -> Result<BlobAnswer, Error> {
        let upstream = &query.name.upstream;
        let arrived = self.fetch_directly(query, Some(Part::Span(part))).await?;
        match arrived.extent {
            Extent::Part { span, total }
                if span == part && (total.is_none() || size.is_none() || total == size) =>
            {
                let (place, body) = self.relay_place(query, arrived.body).await?;
                let stream = self.relayed(query.name, query.digest).part(place, body, part);
                let content = Content::Stream { stream, piece_max: PieceMax::default() };
                Ok(BlobAnswer { size, part: Some(part), content, outcome: Outcome::Relay })
            }
            Extent::Part { .. } | Extent::Whole { .. } => {
                Err(Error::untrue(upstream, "other bytes than the range that was asked for"))
            }
        }
    }

    /// What is passed through takes a place like any other transfer. A `body` that would have to
    /// wait for it is let go, and asked for again then.
    async fn relay_place(
        &self,
        query: BlobQuery<'_>,
        body: SourceBody,
    ) -> Result<(TransferPlace, Option<SourceBody>), Error> {
        let interest = self.1.interest();
        let until = query.deadline.min(Instant::now() + self.0.limits.fill_queue);
        let place = self.0.turns.place(query.name, &interest, Precedence::Wanted, until);
        tokio::pin!(place);
        if let Some(place) = place.as_mut().now_or_never() {
            return Ok((place?, Some(body)));
        }
        drop(body);
        Ok((place.await?, None))
    }

    fn relayed(&self, name: &CanonicalName, digest: &Digest) -> RelayedBlob {
        let (name, digest) = (name.clone(), digest.clone());
        RelayedBlob { core: Arc::clone(&self.0), name, digest, interest: self.1.interest() }
    }

    /// Opens the source for this request alone. A refusal takes back what was believed of the blob.
    async fn fetch_directly(
        &self,
        query: BlobQuery<'_>,
        part: Option<Part>,
    ) -> Result<Arrived, Error> {
        let BlobQuery { name, digest, deadline, .. } = query;
        let question =
            self.0.sources.ask(name, Missing::Blob, &self.1.interest(), deadline).await?;
        let opened = question.blob(&name.repository, digest, part, deadline).await;
        if let Err(error) = &opened {
            let subject = Subject::Blob(digest.clone());
            self.0.membership.withdraw(name, subject, error).await;
        }
        opened
    }

    fn join_or_start(
        &self,
        query: BlobQuery<'_>,
        proven: bool,
        stored: impl FnOnce() -> bool,
    ) -> JoinedOrStarted {
        let key = FlightKey::of(query.name, query.digest);
        self.0.flights.join_or_start(&key, (&query.name.repository, self.1.asker()), proven, stored)
    }

    fn fill(&self, query: BlobQuery<'_>, guard: FlightGuard) -> Fill {
        let blob = (query.name.clone(), query.digest.clone());
        Fill::new(Arc::clone(&self.0), blob, self.1.asker(), guard)
    }
}

/// Of a flight, what tells whether its failure is the last word.
pub(super) struct FollowedFlight {
    is_anothers: bool,
    is_joined: bool,
}

impl FollowedFlight {
    pub(super) fn of(follower: &Follower, query: BlobQuery<'_>, outcome: Outcome) -> Self {
        let is_anothers = follower.flight.starter != query.name.repository;
        Self { is_anothers, is_joined: outcome == Outcome::Joined }
    }

    /// A failure before headers belongs to the repository that started the flight: upstream may
    /// refuse that one and serve this one (DESIGN §14.3). And those who began it may have waited for
    /// long, or have left.
    pub(super) fn leaves_hope(&self, error: &Error) -> bool {
        self.is_anothers
            || (self.is_joined && matches!(error, Error::Overloaded | Error::Abandoned))
    }
}

/// Whether a part begins too far ahead of the transfer to wait for it: more bytes than are read
/// ahead for anybody, or more time at its present pace than a reader should wait (DESIGN §13).
fn is_far_ahead(state: &FlightState, part: &ByteSpan, limits: &Limits) -> bool {
    let is_near = part.first() <= state.written.saturating_add(limits.read_ahead)
        && state.pace.reaches_soon(Instant::now(), state.written, part.first());
    state.ending.is_none() && !is_near
}

/// Waits for the end of a transfer, and gives its result.
async fn wait_for_ending(state: &mut watch::Receiver<FlightState>) -> Result<(), Error> {
    let ended =
        state.wait_for(|state| state.ending.is_some()).await.map_err(|_| Error::Abandoned)?;
    ended.ending.clone().unwrap_or(Err(Error::Abandoned))
}
