//! Bodies of upstream answers, read with an idle limit and counted.

use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};

use crate::metrics::Counter;
use crate::oci::UpstreamName;
use crate::upstream::error::{Error, ErrorKind, Failure, Operation, Symptom};

/// A body that is thrown away is read up to this size, so that its connection can be used again.
const DISCARDED: u64 = 16 * 1024;
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// An answer whose headers are here and whose body is not.
pub(in crate::upstream) struct Incoming {
    pub(in crate::upstream) response: reqwest::Response,
    pub(in crate::upstream) idle: Duration,
    pub(in crate::upstream) received: Counter,
}

impl Incoming {
    pub(in crate::upstream) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(in crate::upstream) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The next bytes; `None` only at the clean end of the framing.
    pub(in crate::upstream) async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(chunk)) => {
                self.received.inc_by(chunk.as_ref().map_or(0, Bytes::len) as u64);
                Ok(chunk)
            }
            Ok(Err(error)) => {
                Err(Failure::new(ErrorKind::Unreachable, Symptom::Cut, "the body broke off")
                    .because(error.without_url()))
            }
            Err(_) => Err(Failure::new(ErrorKind::Timeout, Symptom::Cut, "the body stalled")),
        }
    }

    /// The whole body, if it has at most `limit` bytes.
    pub(in crate::upstream) async fn whole(&mut self, limit: usize) -> Result<Bytes, Failure> {
        let too_large = || Failure::protocol(format!("the body is larger than {limit} bytes"));
        let announced = self
            .response
            .content_length()
            .map_or(0, |length| usize::try_from(length).unwrap_or(usize::MAX));
        if announced > limit {
            return Err(too_large());
        }
        let mut whole = BytesMut::with_capacity(announced);
        while let Some(chunk) = self.chunk().await? {
            if whole.len() + chunk.len() > limit {
                return Err(too_large());
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Reads a small body to its end; its content and its failures do not matter.
    pub(in crate::upstream) async fn discard(mut self) {
        if self.response.content_length().is_some_and(|length| length <= DISCARDED) {
            let read = async { while let Ok(Some(_)) = self.chunk().await {} };
            let _ = tokio::time::timeout(DISCARD_TIME, read).await;
        }
    }
}

/// The bytes of a blob as they arrive.
pub struct BlobBody {
    incoming: Incoming,
    upstream: UpstreamName,
}

impl BlobBody {
    pub(in crate::upstream) fn new(incoming: Incoming, upstream: UpstreamName) -> Self {
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
