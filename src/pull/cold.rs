//! A blob that is not in the store: everybody who wants it reads along with the one flight that
//! brings it, or gets it passed through where it cannot be kept.

use std::sync::Arc;

use futures_util::TryStreamExt;
use tokio::sync::watch;

use super::answers::{BlobAnswer, Content};
use super::blobs::{BlobQuery, Followed, flight_key, resolve};
use super::core::PullThrough;
use super::error::Error;
use super::facts::subject::Subject;
use super::outcome::Outcome;
use super::source::Arrived;
use super::transfer::fill::Fill;
use super::transfer::flight::{Flight, FlightGuard, FlightState, JoinedOrStarted, Opening};
use super::transfer::relay;
use super::transfer::tail::Tail;
use crate::oci::{ByteSpan, Extent, Part};
use crate::store::Suspect;

impl PullThrough {
    /// Hashes a stored file that nobody vouches for; everybody who asks reads along (DESIGN §14.9).
    pub(super) async fn recheck(
        &self,
        query: BlobQuery<'_>,
        suspect: Suspect,
    ) -> Result<BlobAnswer, Error> {
        let flight = match self.join_or_start(query, true, || false) {
            JoinedOrStarted::Started(flight, guard) => {
                self.0.tasks.spawn(self.fill(query, guard).recheck(suspect));
                flight
            }
            JoinedOrStarted::Joined(flight) => flight,
            // Neither comes of a proven request that does not look at the store.
            JoinedOrStarted::NotProven | JoinedOrStarted::Stored => return Err(Error::Abandoned),
        };
        let answer = self.answer_from(&flight, query, Outcome::Hit).await;
        if let Err(Error::RangeUnsatisfiable { .. }) = answer {
            verdict(&mut flight.watch()).await?; // the size may be what is wrong
        }
        answer
    }

    /// Joins the flight or starts it; every client, the first included, reads along.
    ///
    /// `readable`: the store could be asked, so that it may be asked again under the flights' lock.
    pub(super) async fn follow(
        &self,
        query: BlobQuery<'_>,
        mut proven: bool,
        readable: bool,
    ) -> Result<Followed, Error> {
        let BlobQuery { name, digest, range, .. } = query;
        if let Some(size) = self.0.sizes.get(name, digest) {
            resolve(range, size)?; // what cannot be met starts no flight (DESIGN §14.5)
        }
        let mut retried = false;
        loop {
            let stored = || readable && self.0.store.holds(digest);
            let (flight, outcome) = match self.join_or_start(query, proven, stored) {
                JoinedOrStarted::Joined(flight) => (flight, Outcome::Joined),
                JoinedOrStarted::Started(flight, guard) => {
                    self.0.tasks.spawn(self.fill(query, guard).run());
                    (flight, Outcome::Miss)
                }
                JoinedOrStarted::NotProven => {
                    self.0.membership.prove_blob(name, digest).await?;
                    proven = true;
                    continue;
                }
                JoinedOrStarted::Stored => return Ok(Followed::LookAgain),
            };
            match self.answer_from(&flight, query, outcome).await {
                // A failure before headers belongs to the repository that started the flight
                // (DESIGN §14.3).
                Err(_) if flight.starter != name.repository && !retried => retried = true,
                answer => return answer.map(Followed::Answer),
            }
        }
    }

    async fn answer_from(
        &self,
        flight: &Flight,
        query: BlobQuery<'_>,
        outcome: Outcome,
    ) -> Result<BlobAnswer, Error> {
        let mut state = flight.watch();
        let opened = state.wait_for(|state| !matches!(state.opening, Opening::Pending)).await;
        let (opening, written) = opened.map_or((Opening::Failed(Error::Abandoned), 0), |state| {
            (state.opening.clone(), state.written)
        });
        let file = match opening {
            Opening::Open(file) => file,
            Opening::NoRoom => return self.relay(query, flight.take_unstored()).await,
            Opening::Failed(error) => return Err(error),
            Opening::Pending => return Err(Error::Abandoned),
        };
        let hold_back = self.0.limits.hold_back;
        if file.size.is_some_and(|size| size <= hold_back) {
            // No byte may leave before the verdict, so the head waits for it as well and can still
            // say what is wrong.
            verdict(&mut state).await?;
        }
        let (part, span) =
            file.size.map_or(Ok((None, 0..u64::MAX)), |size| resolve(query.range, size))?;
        let far_ahead =
            |part: &ByteSpan| part.first() > written.saturating_add(self.0.limits.read_ahead);
        if let Some(part) = part.filter(far_ahead) {
            match self.relay_part(query, part, file.size).await {
                // Upstream does not give the range, or not now; the flight brings it all the same.
                Err(Error::Untrue { .. } | Error::Upstream { .. } | Error::RateLimited { .. }) => {}
                answer => return answer,
            }
        }
        let size = file.size;
        let tail = Tail { state, file, span, hold_back };
        Ok(BlobAnswer { size, part, content: Content::Stream(tail.into_stream()), outcome })
    }

    /// Passes the blob through without storing it: with the answer that found no room, or one of our
    /// own.
    async fn relay(
        &self,
        query: BlobQuery<'_>,
        arrived: Option<Arrived>,
    ) -> Result<BlobAnswer, Error> {
        let BlobQuery { name, digest, range, .. } = query;
        let arrived = match arrived {
            Some(arrived) => arrived,
            None => self.fetch_directly(query, None).await?,
        };
        let Extent::Whole { size } = arrived.extent else {
            return Err(Error::untrue(&name.upstream, "a part where the whole was asked for"));
        };
        let size = size.or(self.0.sizes.get(name, digest));
        if let Some(total) = size
            && let (Some(part), _) = resolve(range, total)?
        {
            return self.relay_part(query, part, Some(total)).await;
        }
        let hold_back = self.0.limits.hold_back;
        let stream = relay::whole(name.upstream.clone(), arrived.body, size, digest, hold_back);
        let content = if size.is_some_and(|size| size <= hold_back) {
            // No byte may leave before the verdict: an empty blob has none whose lack could be
            // noticed.
            Content::Memory(stream.try_collect::<Vec<_>>().await?.concat().into())
        } else {
            Content::Stream(stream)
        };
        Ok(BlobAnswer { size, part: None, content, outcome: Outcome::Relay })
    }

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
                let stream = relay::part(upstream.clone(), arrived.body, part.len());
                let content = Content::Stream(stream);
                Ok(BlobAnswer { size, part: Some(part), content, outcome: Outcome::Relay })
            }
            Extent::Part { .. } | Extent::Whole { .. } => {
                Err(Error::untrue(upstream, "other bytes than the range that was asked for"))
            }
        }
    }

    /// Opens the source for this request alone, and believes what it says of the blob.
    async fn fetch_directly(
        &self,
        query: BlobQuery<'_>,
        part: Option<Part>,
    ) -> Result<Arrived, Error> {
        let BlobQuery { name, digest, deadline, .. } = query;
        let opened = self.0.sources.open(name, digest, part, deadline).await;
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
        let key = flight_key(query.name, query.digest);
        self.0.flights.join_or_start(&key, &query.name.repository, proven, stored)
    }

    fn fill(&self, query: BlobQuery<'_>, guard: FlightGuard) -> Fill {
        let (name, digest) = (query.name.clone(), query.digest.clone());
        Fill { core: Arc::clone(&self.0), name, digest, guard }
    }
}

/// Waits for the end of a transfer.
async fn verdict(state: &mut watch::Receiver<FlightState>) -> Result<(), Error> {
    let ended =
        state.wait_for(|state| state.ending.is_some()).await.map_err(|_| Error::Abandoned)?;
    ended.ending.clone().unwrap_or(Err(Error::Abandoned))
}
