//! The story of a blob: prove the right to it, look in the store, join or start the flight that
//! brings it.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt;
use tokio::sync::watch;

use super::ByteStream;
use super::Error;
use super::Outcome;
use super::PullThrough;
use super::facts::negative::Subject;
use super::transfer::fill::Fill;
use super::transfer::flight::{Boarding, Flight, FlightGuard, Opening, Source, State};
use super::transfer::relay;
use super::transfer::tail::Tail;
use crate::oci::{ByteSpan, CanonicalName, Digest, RangeRequest, Resolved};
use crate::oci::{Extent, Part};
use crate::store::{Blob, Found, Suspect};
use crate::upstream::BlobResponse;
use tokio::time::Instant;

/// A blob, or a part of it, ready to be sent.
#[derive(Debug)]
pub struct BlobAnswer {
    /// Of the whole blob, in bytes; `None` if upstream does not say.
    pub size: Option<u64>,
    /// What was asked for, if it is a part.
    pub part: Option<ByteSpan>,
    pub content: Content,
    pub outcome: Outcome,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Memory(_) => "Memory",
            Self::Stored(..) => "Stored",
            Self::Stream(_) => "Stream",
        })
    }
}

/// Where the bytes come from.
pub enum Content {
    Memory(Bytes),
    Stored(Blob, Range<u64>),
    /// From a download in progress, or passed through.
    Stream(ByteStream),
}

/// What is known about a blob without its bytes.
#[derive(Clone, Copy, Debug)]
pub struct BlobHead {
    pub size: Option<u64>,
    pub outcome: Outcome,
}

/// What is asked for.
#[derive(Clone, Copy)]
struct Asked<'a> {
    name: &'a CanonicalName,
    digest: &'a Digest,
    range: RangeRequest,
}

/// What a look at the store came to.
enum Stored {
    Content(Found),
    Absent,
    /// A disk fault; counts as a miss, because upstream still has the bytes.
    Unreadable,
}

/// What trying to follow a flight came to.
enum Followed {
    Answer(BlobAnswer),
    LookAgain,
}

impl PullThrough {
    /// The blob `digest` of `name`, or the range of it. Its headers can leave at once; its bytes
    /// may still be coming.
    ///
    /// # Errors
    /// What upstream says, or our own failure; see [`Error`].
    pub async fn blob(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        range: RangeRequest,
    ) -> Result<BlobAnswer, Error> {
        self.absent_before(&Subject::Blob(digest.clone()), name, Error::BlobUnknown)?;
        let asked = Asked { name, digest, range };
        loop {
            let mut proven = self.0.membership.standing(name, digest).await?.is_some();
            let stored = self.look_up(digest).await;
            if !proven && matches!(stored, Stored::Content(_)) {
                // The bytes are there, but only for others; knowing a digest is no right to it.
                self.0.membership.prove_blob(name, digest).await?;
                proven = true;
            }
            let readable = !matches!(stored, Stored::Unreadable);
            if let Stored::Content(found) = stored {
                return self.serve(asked, found).await;
            }
            match self.follow(asked, proven, readable).await? {
                Followed::Answer(answer) => return Ok(answer),
                // A flight has ended since the look at the store.
                Followed::LookAgain => {}
            }
        }
    }

    /// Size and existence of a blob. A cold one costs an upstream HEAD and starts no flight.
    ///
    /// # Errors
    /// As [`PullThrough::blob`].
    pub async fn blob_head(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<BlobHead, Error> {
        self.absent_before(&Subject::Blob(digest.clone()), name, Error::BlobUnknown)?;
        if self.0.membership.standing(name, digest).await?.is_some() {
            match self.look_up(digest).await {
                // Its size is as doubtful as its bytes.
                Stored::Content(Found::Unchecked(_)) => {}
                Stored::Content(found @ (Found::Memory(_) | Found::File(_))) => {
                    return Ok(BlobHead { size: Some(found.size()), outcome: Outcome::Hit });
                }
                Stored::Absent | Stored::Unreadable => {
                    let flight = self
                        .flight_of(name, digest)
                        .map(|flight| flight.watch().borrow().opening.clone());
                    if let Some(Opening::Open(Source { size, .. })) = flight {
                        return Ok(BlobHead { size, outcome: Outcome::Joined });
                    }
                }
            }
        }
        let size = self.0.membership.prove_blob(name, digest).await?;
        Ok(BlobHead { size: size.or(self.0.sizes.get(name, digest)), outcome: Outcome::Miss })
    }

    async fn look_up(&self, digest: &Digest) -> Stored {
        match self.0.store.open(digest).await {
            Ok(Some(found)) => Stored::Content(found),
            Ok(None) => Stored::Absent,
            Err(error) => {
                tracing::error!(%error, %digest, "cannot open a stored blob; fetching it");
                Stored::Unreadable
            }
        }
    }

    async fn serve(&self, asked: Asked<'_>, found: Found) -> Result<BlobAnswer, Error> {
        let size = found.size();
        let resolved = resolve(asked.range, size);
        let (part, content) = match found {
            Found::Memory(body) => {
                let (part, span) = resolved?;
                // A body in memory is far smaller than any usize.
                let within =
                    |at: u64| usize::try_from(at).map_or(body.len(), |at| at.min(body.len()));
                (part, Content::Memory(body.slice(within(span.start)..within(span.end))))
            }
            Found::File(blob) => {
                let (part, span) = resolved?;
                (part, Content::Stored(blob, span))
            }
            Found::Unchecked(suspect) => {
                return self.recheck(asked, suspect).await;
            }
        };
        Ok(BlobAnswer { size: Some(size), part, content, outcome: Outcome::Hit })
    }

    /// Hashes a stored file that nobody vouches for; everybody who asks reads along.
    async fn recheck(&self, asked: Asked<'_>, suspect: Suspect) -> Result<BlobAnswer, Error> {
        let flight = match self.board(asked, true, || false) {
            Boarding::Started(flight, guard) => {
                self.0.tasks.spawn(self.fill(asked, guard).recheck(suspect));
                flight
            }
            Boarding::Joined(flight) => flight,
            // Neither comes of a proven request that does not look at the store.
            Boarding::Foreign | Boarding::Stored => return Err(Error::Abandoned),
        };
        let answer = self.answer_from(&flight, asked, Outcome::Hit).await;
        if let Err(Error::RangeUnsatisfiable { .. }) = answer {
            verdict(&mut flight.watch()).await?; // the size may be what is wrong
        }
        answer
    }

    /// Joins the flight or starts it; every client, the first included, reads along.
    async fn follow(
        &self,
        asked: Asked<'_>,
        mut proven: bool,
        readable: bool,
    ) -> Result<Followed, Error> {
        let Asked { name, digest, range } = asked;
        if let Some(size) = self.0.sizes.get(name, digest) {
            resolve(range, size)?; // what cannot be met starts no flight (DESIGN §14.5)
        }
        let mut retried = false;
        loop {
            let stored = || readable && self.0.store.holds(digest);
            let (flight, outcome) = match self.board(asked, proven, stored) {
                Boarding::Joined(flight) => (flight, Outcome::Joined),
                Boarding::Started(flight, guard) => {
                    self.0.tasks.spawn(self.fill(asked, guard).run());
                    (flight, Outcome::Miss)
                }
                Boarding::Foreign => {
                    self.0.membership.prove_blob(name, digest).await?;
                    proven = true;
                    continue;
                }
                Boarding::Stored => return Ok(Followed::LookAgain),
            };
            match self.answer_from(&flight, asked, outcome).await {
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
        asked: Asked<'_>,
        outcome: Outcome,
    ) -> Result<BlobAnswer, Error> {
        let mut state = flight.watch();
        let opened = state.wait_for(|state| !matches!(state.opening, Opening::Pending)).await;
        let (opening, written) = opened.map_or((Opening::Failed(Error::Abandoned), 0), |state| {
            (state.opening.clone(), state.written)
        });
        let source = match opening {
            Opening::Open(source) => source,
            Opening::NoRoom => return self.relay(asked, flight.take_unstored()).await,
            Opening::Failed(error) => return Err(error),
            Opening::Pending => return Err(Error::Abandoned),
        };
        let hold_back = self.0.limits.hold_back;
        if source.size.is_some_and(|size| size <= hold_back) {
            // No byte may leave before the verdict, so the head waits for it as well and can still
            // say what is wrong.
            verdict(&mut state).await?;
        }
        let (part, span) =
            source.size.map_or(Ok((None, 0..u64::MAX)), |size| resolve(asked.range, size))?;
        if let Some(ahead) =
            part.filter(|part| part.first() > written.saturating_add(self.0.limits.read_ahead))
        {
            match self.relay_part(asked, ahead, source.size).await {
                // Upstream does not give the range, or not now; the flight brings it all the same.
                Err(Error::Untrue { .. } | Error::Upstream(_) | Error::RateLimited { .. }) => {}
                answer => return answer,
            }
        }
        let tail = Tail { state, source: source.clone(), span, hold_back };
        Ok(BlobAnswer {
            size: source.size,
            part,
            content: Content::Stream(tail.into_stream()),
            outcome,
        })
    }

    /// Passes the blob through without storing it: with the response that found no room, or one of
    /// our own.
    async fn relay(
        &self,
        asked: Asked<'_>,
        response: Option<BlobResponse>,
    ) -> Result<BlobAnswer, Error> {
        let Asked { name, digest, range } = asked;
        let response = match response {
            Some(response) => response,
            None => self.ask(asked, None).await?,
        };
        let Extent::Whole { size } = response.extent else {
            return Err(Error::untrue(&name.upstream, "a part where the whole was asked for"));
        };
        let size = size.or(self.0.sizes.get(name, digest));
        if let Some(total) = size
            && let (Some(part), _) = resolve(range, total)?
        {
            return self.relay_part(asked, part, Some(total)).await;
        }
        let hold_back = self.0.limits.hold_back;
        let stream = relay::whole(name.upstream.clone(), response.body, size, digest, hold_back);
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
        asked: Asked<'_>,
        part: ByteSpan,
        size: Option<u64>,
    ) -> Result<BlobAnswer, Error> {
        let name = asked.name;
        let response = self.ask(asked, Some(Part::Span(part))).await?;
        match response.extent {
            Extent::Part { span, total }
                if span == part && (total.is_none() || size.is_none() || total == size) =>
            {
                let stream = relay::part(name.upstream.clone(), response.body, part.len());
                Ok(BlobAnswer {
                    size,
                    part: Some(part),
                    content: Content::Stream(stream),
                    outcome: Outcome::Relay,
                })
            }
            Extent::Part { .. } | Extent::Whole { .. } => {
                Err(Error::untrue(&name.upstream, "other bytes than the range that was asked for"))
            }
        }
    }

    async fn ask(&self, asked: Asked<'_>, part: Option<Part>) -> Result<BlobResponse, Error> {
        let upstream = self.0.upstream(asked.name)?;
        let answer = upstream
            .get_blob(
                &asked.name.repository,
                asked.digest,
                part,
                Instant::now() + self.0.limits.flight_head,
            )
            .await;
        let subject = Subject::Blob(asked.digest.clone());
        self.0.membership.settle(asked.name, subject, answer, Error::BlobUnknown).await
    }

    fn flight_of(&self, name: &CanonicalName, digest: &Digest) -> Option<Arc<Flight>> {
        self.0.flights.get(&key(name, digest))
    }

    fn board(&self, asked: Asked<'_>, proven: bool, stored: impl FnOnce() -> bool) -> Boarding {
        self.0.flights.board(&key(asked.name, asked.digest), &asked.name.repository, proven, stored)
    }

    fn fill(&self, asked: Asked<'_>, guard: FlightGuard) -> Fill {
        Fill {
            inner: Arc::clone(&self.0),
            name: asked.name.clone(),
            digest: asked.digest.clone(),
            guard,
        }
    }
}

/// Waits for the end of a transfer.
async fn verdict(state: &mut watch::Receiver<State>) -> Result<(), Error> {
    let ended =
        state.wait_for(|state| state.ending.is_some()).await.map_err(|_| Error::Abandoned)?;
    ended.ending.clone().unwrap_or(Err(Error::Abandoned))
}

fn key(name: &CanonicalName, digest: &Digest) -> super::transfer::flight::Key {
    (name.upstream.clone(), digest.clone())
}

/// The asked part of a blob of `size` bytes, and the bytes to send.
fn resolve(range: RangeRequest, size: u64) -> Result<(Option<ByteSpan>, Range<u64>), Error> {
    match range.resolve(size) {
        Resolved::Whole => Ok((None, 0..size)),
        Resolved::Part(part) => Ok((Some(part), part.first()..part.end())),
        Resolved::Unsatisfiable => Err(Error::RangeUnsatisfiable { size }),
    }
}
