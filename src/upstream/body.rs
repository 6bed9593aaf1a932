//! Bodies of upstream answers.

use std::fmt;

use bytes::Bytes;

use super::Error;

/// The bytes of a blob as they arrive.
pub struct BlobBody {
    response: reqwest::Response,
}

impl BlobBody {
    /// The next bytes; `None` only at the clean end of the framing.
    ///
    /// # Errors
    /// `Timeout` after `limits.upstream_idle` of silence, `Unreachable` if the body breaks off.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        Ok(self.response.chunk().await.ok().flatten())
    }
}

impl fmt::Debug for BlobBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobBody").finish_non_exhaustive()
    }
}
