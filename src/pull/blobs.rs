//! The story of a blob: prove the right to it, look in the store, and if it is not there, have it
//! brought (`cold`).

use std::ops::Range;

use tokio::time::Instant;

use super::answers::{BlobAnswer, BlobHead, Content};
use super::core::PullThrough;
use super::error::{Error, Missing};
use super::facts::subject::Subject;
use super::outcome::Outcome;
use super::transfer::flight::{FlightKey, GrowingFile, Opening};
use crate::oci::{ByteSpan, CanonicalName, Digest, RangeRequest, Resolved};
use crate::store::Found;

/// The blob that a client wants, and by when its response headers have to leave.
#[derive(Clone, Copy)]
pub(super) struct BlobQuery<'a> {
    pub(super) name: &'a CanonicalName,
    pub(super) digest: &'a Digest,
    pub(super) range: RangeRequest,
    pub(super) deadline: Instant,
}

/// What a look at the store came to.
enum Stored {
    Content(Found),
    Absent,
    /// A disk fault; counts as a miss, because upstream still has the bytes.
    Unreadable,
}

/// What trying to follow a flight came to.
pub(super) enum Followed {
    Answer(BlobAnswer),
    LookAgain,
}

impl PullThrough {
    /// The blob `digest` of `name`, or the range of it. Its headers can leave at once; its bytes
    /// may still be coming. `deadline` is for what is asked of upstream on this request's behalf
    /// alone; a flight is shared, and has its own.
    ///
    /// # Errors
    /// What upstream says, or our own failure; see [`Error`].
    pub async fn blob(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        range: RangeRequest,
        deadline: Instant,
    ) -> Result<BlobAnswer, Error> {
        self.check_negative_cache(&Subject::Blob(digest.clone()), name, Missing::Blob)?;
        let query = BlobQuery { name, digest, range, deadline };
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
                return self.serve_stored(query, found).await;
            }
            match self.follow(query, proven, readable).await? {
                Followed::Answer(answer) => return Ok(answer),
                // A flight has ended since the look at the store.
                Followed::LookAgain => {}
            }
        }
    }

    /// Size and existence of a blob. A cold one costs an upstream HEAD and starts no flight: clients
    /// that push ask for blobs which they never fetch.
    ///
    /// # Errors
    /// As [`PullThrough::blob`].
    pub async fn blob_head(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<BlobHead, Error> {
        self.check_negative_cache(&Subject::Blob(digest.clone()), name, Missing::Blob)?;
        if self.0.membership.standing(name, digest).await?.is_some() {
            match self.look_up(digest).await {
                // Its size is as doubtful as its bytes.
                Stored::Content(Found::Unchecked(_)) => {}
                Stored::Content(found @ (Found::Memory(_) | Found::File(_))) => {
                    return Ok(BlobHead { size: Some(found.size()), outcome: Outcome::Hit });
                }
                Stored::Absent | Stored::Unreadable => {
                    let flight = self.0.flights.get(&flight_key(name, digest));
                    let opening = flight.map(|flight| flight.watch().borrow().opening.clone());
                    if let Some(Opening::Open(GrowingFile { size, .. })) = opening {
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

    async fn serve_stored(&self, query: BlobQuery<'_>, found: Found) -> Result<BlobAnswer, Error> {
        let size = found.size();
        let resolved = resolve(query.range, size);
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
            // Not resolved yet: its size may be what is wrong with it.
            Found::Unchecked(suspect) => return self.recheck(query, suspect).await,
        };
        Ok(BlobAnswer { size: Some(size), part, content, outcome: Outcome::Hit })
    }
}

pub(super) fn flight_key(name: &CanonicalName, digest: &Digest) -> FlightKey {
    (name.upstream.clone(), digest.clone())
}

/// The asked part of a blob of `size` bytes, and the bytes to send.
pub(super) fn resolve(
    range: RangeRequest,
    size: u64,
) -> Result<(Option<ByteSpan>, Range<u64>), Error> {
    match range.resolve(size) {
        Resolved::Whole => Ok((None, 0..size)),
        Resolved::Part(part) => Ok((Some(part), part.first()..part.end())),
        Resolved::Unsatisfiable => Err(Error::RangeUnsatisfiable { size }),
    }
}
