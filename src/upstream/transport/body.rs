//! Bodies of upstream answers, read with an idle limit and counted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, StatusCode};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::OwnedSemaphorePermit;

use crate::metrics::Counter;
use crate::oci::UpstreamName;
use crate::upstream::error::{Error, ErrorKind, Fault, Operation, Symptom};
use crate::upstream::room::PageRoom;
use crate::upstream::seal::Seal;

/// The largest body that is read only to throw it away, so that its connection can be used again.
/// A larger one costs its connection.
const LARGEST_DISCARDED: u64 = 16 * 1024;
/// How long that may take.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// An answer whose headers are here and whose body is not.
pub(in crate::upstream) struct HttpResponse {
    pub(super) response: Response<Incoming>,
    /// The longest silence within the body.
    pub(super) idle: Duration,
    /// Counts the bytes of the body.
    pub(super) received: Counter,
    pub(super) seal: Arc<Seal>,
}

impl HttpResponse {
    pub(in crate::upstream) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(in crate::upstream) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Bytes of the body, if the framing says how many.
    fn announced(&self) -> Option<u64> {
        self.response.body().size_hint().exact()
    }

    /// The next bytes; `None` only at the clean end of the framing.
    ///
    /// # Errors
    /// `Timeout` after `idle` of silence, `Unreachable` if the body breaks off, `Sealed` if that is
    /// why.
    pub(in crate::upstream) async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        match tokio::time::timeout(self.idle, next_data(self.response.body_mut())).await {
            Ok(Ok(chunk)) => {
                self.received.inc_by(chunk.as_ref().map_or(0, Bytes::len) as u64);
                Ok(chunk)
            }
            Ok(Err(error)) => {
                let broken = Fault::new(ErrorKind::Unreachable, Symptom::Cut, "the body broke off");
                Err(self.seal.or_sealed(broken.because(error)))
            }
            Err(_) => Err(Fault::new(ErrorKind::Timeout, Symptom::Cut, "the body stalled")),
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// `Protocol` if it has more than `limit` bytes; else as [`HttpResponse::chunk`].
    pub(in crate::upstream) async fn whole(&mut self, limit: usize) -> Result<Bytes, Fault> {
        let announced = self.announced_within(limit)?;
        let mut whole = BytesMut::with_capacity(announced);
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > limit {
                return Err(too_large(limit));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// As [`HttpResponse::whole`]. A body of more than `room.small` bytes takes one of the places
    /// that there are for such, and holds it until its bytes are dropped.
    ///
    /// # Errors
    /// Also `OutOfResources` where no place is free in time.
    pub(in crate::upstream) async fn whole_in(
        &mut self,
        limit: usize,
        room: &PageRoom,
    ) -> Result<Bytes, Fault> {
        let announced = self.announced_within(limit)?;
        let mut place = if announced > room.small { Some(room.place().await?) } else { None };
        let mut whole = BytesMut::with_capacity(announced);
        while let Some(chunk) = self.chunk().await? {
            let len = whole.len() + chunk.len();
            if len > limit {
                return Err(too_large(limit));
            }
            if len > room.small && place.is_none() {
                place = Some(room.place().await?);
            }
            whole.extend_from_slice(&chunk);
        }
        let bytes = whole.freeze();
        Ok(match place {
            Some(place) => Bytes::from_owner(PlacedBytes { bytes, _place: place }),
            None => bytes,
        })
    }

    /// How many bytes are announced; none if that is not known. Checked before a byte is read.
    fn announced_within(&self, limit: usize) -> Result<usize, Fault> {
        let announced =
            self.announced().map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
        if announced > limit { Err(too_large(limit)) } else { Ok(announced) }
    }

    /// Reads a small body to its end; its content and its failures do not matter.
    pub(in crate::upstream) async fn discard(mut self) {
        if self.announced().is_some_and(|length| length <= LARGEST_DISCARDED) {
            let read = async { while let Ok(Some(_)) = self.chunk().await {} };
            let _ = tokio::time::timeout(DISCARD_TIME, read).await;
        }
    }
}

/// The fault of a body, or of one that a HEAD announces.
pub(in crate::upstream) fn too_large(limit: usize) -> Fault {
    let reason = format!("the answer is larger than {limit} bytes");
    Fault::new(ErrorKind::TooLarge, Symptom::Answered, reason)
}

/// Bytes that hold a place of [`PageRoom`].
struct PlacedBytes {
    bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for PlacedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The next frame that holds bytes; trailers are passed over.
async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, hyper::Error> {
    while let Some(frame) = body.frame().await {
        if let Ok(bytes) = frame?.into_data() {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// The bytes of a blob as they arrive.
pub struct BlobBody {
    incoming: HttpResponse,
    upstream: UpstreamName,
}

impl BlobBody {
    pub(in crate::upstream) fn new(incoming: HttpResponse, upstream: UpstreamName) -> Self {
        Self { incoming, upstream }
    }

    /// The next bytes; `None` only at the clean end of the framing.
    ///
    /// # Errors
    /// `Timeout` after `limits.upstream_idle` of silence, `Unreachable` if the body breaks off.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = self.incoming.chunk().await;
        chunk.map_err(|failure| failure.during(&self.upstream, Operation::BlobGet, 1))
    }
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody").field("upstream", &self.upstream).finish_non_exhaustive()
    }
}
