//! The story of a blob: check the repository's right to it, look in the store, and fetch it if it
//! is not there (`cold`).

use std::ops::Range;

use tokio::time::Instant;

use super::answers::{BlobAnswer, BlobHead, Content};
use super::core::PullThrough;
use super::error::{Error, Missing};
use super::facts::subject::Subject;
use super::outcome::Outcome;
use super::transfer::flight::{FlightKey, GrowingFile, Opening};
use crate::oci::{ByteRange, ByteSpan, CanonicalName, Digest, RangeRequest, Resolved};
use crate::store::{Found, Use};

/// The blob that a client wants, and by when its response headers have to leave.
#[derive(Clone, Copy)]
pub(super) struct BlobQuery<'a> {
    pub(super) name: &'a CanonicalName,
    pub(super) digest: &'a Digest,
    pub(super) range: RangeRequest,
    pub(super) deadline: Instant,
}

/// What a look at the store came to.
pub(super) enum Stored {
    Content(Found),
    Absent,
    /// A disk fault; treated as a miss, because upstream still has the bytes.
    Unreadable,
}

/// What trying to follow a flight came to.
pub(super) enum Followed {
    Answer(BlobAnswer),
    /// The store has the blob by now.
    LookAgain,
}

/// What a request's range means for a blob of known size.
pub(super) struct ResolvedRange {
    /// For `Content-Range`; `None` if the answer is the whole blob.
    pub(super) part: Option<ByteSpan>,
    /// The bytes to send.
    pub(super) span: Range<u64>,
}

impl PullThrough {
    /// The blob `digest` of `name`, or `range` of it. The response headers can leave at once,
    /// although bytes may still be on their way here.
    ///
    /// `deadline` bounds what is asked of upstream for this request alone. A flight is shared, so
    /// it has a deadline of its own.
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
        let answer = self.any_blob(BlobQuery { name, digest, range, deadline }).await;
        answer.map_err(|error| self.0.sources.or_sealed(name, Missing::Blob, error))
    }

    async fn any_blob(&self, query: BlobQuery<'_>) -> Result<BlobAnswer, Error> {
        let BlobQuery { name, digest, range, .. } = query;
        self.check_negative_cache(&Subject::Blob(digest.clone()), name, Missing::Blob)?;
        loop {
            let mut proven = self.membership().proven(name, digest).await?.is_some();
            let stored = self.look_up(name, digest, use_of(range)).await;
            if !proven && matches!(stored, Stored::Content(_)) {
                // The bytes were stored for other repositories, and knowing a digest gives no right
                // to it (DESIGN §14.1).
                self.membership().prove_blob(name, digest).await?;
                proven = true;
            }
            let readable = !matches!(stored, Stored::Unreadable);
            if let Stored::Content(found) = stored {
                return self.serve_stored(query, found).await;
            }
            if self.0.sources.is_sealed(name) {
                return Err(Error::Sealed { what: Missing::Blob });
            }
            // Boxed, so that a hit does not carry the room for it.
            match Box::pin(self.follow(query, proven, readable)).await? {
                Followed::Answer(answer) => return Ok(answer),
                // A flight has published the blob since the store was asked.
                Followed::LookAgain => {}
            }
        }
    }

    /// Whether `name` has the blob, and its size. A cold one costs an upstream HEAD and starts no
    /// flight (DESIGN §14.5): clients that push ask for blobs which they never fetch.
    ///
    /// # Errors
    /// As [`PullThrough::blob`].
    pub async fn blob_head(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<BlobHead, Error> {
        let head = self.any_blob_head(name, digest).await;
        head.map_err(|error| self.0.sources.or_sealed(name, Missing::Blob, error))
    }

    async fn any_blob_head(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<BlobHead, Error> {
        self.check_negative_cache(&Subject::Blob(digest.clone()), name, Missing::Blob)?;
        if self.membership().proven(name, digest).await?.is_some() {
            match self.look_up(name, digest, Use::Part).await {
                // A suspect may have been cut short, so its size is not told; upstream is asked.
                Stored::Content(Found::Unchecked(_)) if self.0.sources.is_sealed(name) => {
                    let size = self.0.described_size(name, digest).await;
                    return Ok(BlobHead { size, outcome: Outcome::Hit });
                }
                Stored::Content(Found::Unchecked(_)) => {}
                Stored::Content(found @ (Found::Memory(_) | Found::File(_))) => {
                    return Ok(BlobHead { size: Some(found.size()), outcome: Outcome::Hit });
                }
                Stored::Absent | Stored::Unreadable => {
                    let flight = self.0.flights.get(&FlightKey::of(name, digest));
                    let opening = flight.map(|flight| flight.watch().borrow().opening.clone());
                    if let Some(Opening::Open(GrowingFile { size, .. })) = opening {
                        return Ok(BlobHead { size, outcome: Outcome::Joined });
                    }
                }
            }
        }
        let size = match self.membership().prove_blob(name, digest).await? {
            None => self.0.described_size(name, digest).await,
            size => size,
        };
        Ok(BlobHead { size, outcome: Outcome::Miss })
    }

    pub(super) async fn look_up(&self, name: &CanonicalName, digest: &Digest, how: Use) -> Stored {
        match self.0.store.open(digest, how).await {
            Ok(Some(found)) if self.0.may_use(name, digest).await => Stored::Content(found),
            // What is another upstream's is not here.
            Ok(Some(_) | None) => Stored::Absent,
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
                let ResolvedRange { part, span } = resolved?;
                // A body in memory is far smaller than any usize.
                let within =
                    |at: u64| usize::try_from(at).map_or(body.len(), |at| at.min(body.len()));
                (part, Content::Memory(body.slice(within(span.start)..within(span.end))))
            }
            Found::File(blob) => {
                let ResolvedRange { part, span } = resolved?;
                (part, Content::Stored { blob, span })
            }
            // The range is not resolved yet: the size of the file may be what is wrong with it.
            Found::Unchecked(suspect) => return Box::pin(self.recheck(query, suspect)).await,
        };
        Ok(BlobAnswer { size: Some(size), part, content, outcome: Outcome::Hit })
    }
}

/// One use for a client that fetches a blob in parts, which begins with its first byte.
fn use_of(range: RangeRequest) -> Use {
    match range {
        RangeRequest::None | RangeRequest::One(ByteRange::From(0) | ByteRange::Between(0, _)) => {
            Use::Whole
        }
        RangeRequest::One(ByteRange::From(_) | ByteRange::Between(_, _) | ByteRange::Suffix(_))
        | RangeRequest::Multiple
        | RangeRequest::Unsatisfiable => Use::Part,
    }
}

/// Applies the requested range to a blob of `size` bytes.
///
/// # Errors
/// [`Error::RangeUnsatisfiable`] if it lies outside of the blob.
pub(super) fn resolve(range: RangeRequest, size: u64) -> Result<ResolvedRange, Error> {
    match range.resolve(size) {
        Resolved::Whole => Ok(ResolvedRange { part: None, span: 0..size }),
        Resolved::Part(part) => {
            Ok(ResolvedRange { part: Some(part), span: part.first()..part.end() })
        }
        Resolved::Unsatisfiable => Err(Error::RangeUnsatisfiable { size }),
    }
}
