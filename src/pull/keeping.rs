//! The story of a blob that nobody reads now: it is brought in as if a client had pulled it, so that
//! clients find it later (WARM-1).

use bytes::Bytes;
use tokio::time::Instant;

use super::blobs::{BlobQuery, Stored};
use super::cold::FollowedFlight;
use super::core::PullThrough;
use super::error::{Error, Missing};
use super::facts::subject::Subject;
use super::transfer::flight::Follower;
use crate::oci::{CanonicalName, Digest, RangeRequest};
use crate::store::{Found, Use};

/// How many bytes of a blob are here, whoever brings them.
pub type Arrivals<'a> = &'a (dyn Fn(u64) + Sync);

impl PullThrough {
    /// Brings a blob in, unless it is here, and waits until it is stored. It is proven for `name`
    /// then.
    ///
    /// # Errors
    /// As [`PullThrough::blob`]; `NoRoom` if it is not kept.
    pub async fn keep_blob(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        arrivals: Arrivals<'_>,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + self.0.limits.head;
        let query = BlobQuery { name, digest, range: RangeRequest::None, deadline };
        let kept = self.keep(query, arrivals).await;
        kept.map_err(|error| self.0.sources.or_sealed(name, Missing::Blob, error))
    }

    async fn keep(&self, query: BlobQuery<'_>, arrivals: Arrivals<'_>) -> Result<(), Error> {
        let BlobQuery { name, digest, .. } = query;
        self.check_negative_cache(&Subject::Blob(digest.clone()), name, Missing::Blob)?;
        let mut proven = self.membership().proven(name, digest).await?.is_some();
        let stored = self.look_up(name, digest, Use::Whole).await;
        if !proven && matches!(stored, Stored::Content(_)) {
            self.membership().prove_blob(name, digest).await?;
            proven = true;
        }
        match stored {
            Stored::Content(Found::Memory(_) | Found::File(_)) => return Ok(()),
            Stored::Content(Found::Unchecked(suspect)) => {
                return ended(self.follow_check(query, suspect)?, arrivals).await;
            }
            Stored::Absent | Stored::Unreadable => {}
        }
        let readable = !matches!(stored, Stored::Unreadable);
        let mut retried = false;
        while let Some((follower, outcome)) = self.join(query, &mut proven, readable).await? {
            let flight = FollowedFlight::of(&follower, query, outcome);
            match ended(follower, arrivals).await {
                Err(error) if !retried && flight.leaves_hope(&error) => retried = true,
                ended => {
                    ended?;
                    break;
                }
            }
        }
        if self.0.store.holds(digest) { Ok(()) } else { Err(Error::NoRoom) }
    }

    /// As [`PullThrough::keep_blob`], of a small document, with its bytes; none if it has more than
    /// `limit`.
    ///
    /// # Errors
    /// As [`PullThrough::keep_blob`].
    pub async fn keep_document(
        &self,
        name: &CanonicalName,
        digest: &Digest,
        limit: usize,
    ) -> Result<Option<Bytes>, Error> {
        self.keep_blob(name, digest, &|_| {}).await?;
        match self.0.stored_manifest(name, digest).await {
            Some(stored) => stored.content.bytes(limit).await,
            None => Ok(None),
        }
    }

    /// Whether the bytes are here, and may be used for `name`; says nothing of its right to them.
    pub async fn has(&self, name: &CanonicalName, digest: &Digest) -> bool {
        self.0.store.holds(digest) && self.0.may_use(name, digest).await
    }

    /// Whether a client that may pull `name` finds it here without asking upstream what it is.
    pub async fn keeps(&self, name: &CanonicalName, digest: &Digest) -> bool {
        let member = self.0.store.records().member(name, digest).await;
        member.is_ok_and(|member| member.is_some_and(|member| member.doubted.is_none()))
            && self.has(name, digest).await
    }
}

/// Waits until a flight is over, and what it has brought is stored.
async fn ended(mut follower: Follower, arrivals: Arrivals<'_>) -> Result<(), Error> {
    if follower.opened().await?.is_none() {
        // Its answer is there for a reader, of whom there is none.
        drop(follower.flight.take_unstored());
        return Err(Error::NoRoom);
    }
    loop {
        {
            let state = follower.state.borrow_and_update();
            arrivals(state.written);
            match &state.ending {
                Some(Err(error)) => return Err(error.clone()),
                Some(Ok(())) if state.is_over => return Ok(()),
                Some(Ok(())) | None => {}
            }
        }
        follower.state.changed().await.map_err(|_| Error::Abandoned)?;
    }
}
