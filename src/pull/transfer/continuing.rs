//! What it takes to continue a transfer that broke off: patience, and the same bytes as before
//! (DESIGN §14.6).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::oci::{CanonicalName, Hasher, UpstreamName};
use crate::pull::core::PullCore;
use crate::pull::error::Error;
use crate::pull::source::SourceBody;

/// An attempt that brings fewer bytes than this counts as a failure. An upstream that sends a
/// little and breaks off could otherwise keep a transfer alive for ever (DESIGN §14.6).
const RESUME_PROGRESS_MIN: u64 = 1 << 20;

/// Failures in a row after which a transfer is given up.
const RESUME_FAILURES_MAX: u32 = 3;

/// The failures in a row of a transfer.
#[derive(Clone, Debug, Default)]
pub(super) struct TransferFailures {
    count: u32,
    /// `None` if the body ended cleanly, but too soon.
    last: Option<Error>,
}

impl TransferFailures {
    /// The body has stopped, `progress` bytes after it was begun or continued.
    pub(super) fn stopped(&mut self, progress: u64, last: Option<Error>) {
        self.count = if progress < RESUME_PROGRESS_MIN { self.count + 1 } else { 0 };
        self.last = last;
    }

    /// The rest could not be had.
    ///
    /// # Errors
    /// A refusal ends the transfer: upstream has taken the blob back, or will not say more for now.
    pub(super) fn not_resumed(&mut self, error: Error) -> Result<(), Error> {
        // Storage that says 404 once may have the blob in another place (UP-12).
        if matches!(
            error,
            Error::Upstream { .. }
                | Error::Unconfirmed { .. }
                | Error::Exhausted(_)
                | Error::Overloaded
        ) {
            (self.count, self.last) = (self.count + 1, Some(error));
            Ok(())
        } else {
            Err(error)
        }
    }

    /// Waits before the rest is asked for.
    ///
    /// # Errors
    /// If it has failed too often.
    pub(super) async fn pause(&self, core: &PullCore, name: &CanonicalName) -> Result<(), Error> {
        if self.count >= RESUME_FAILURES_MAX {
            return Err(match self.last.clone() {
                Some(last) => Error::Broken { attempts: self.count, last: last.into() },
                None => Error::untrue(&name.upstream, "fewer bytes than it announced"),
            });
        }
        core.metrics.fills.resumes.with_label_values(&[name.upstream.as_str()]).inc();
        tokio::time::sleep(core.limits.retry_pause * self.count).await;
        Ok(())
    }
}

/// Reads over the first `bytes` of a body that the source sends a second time; they must be what
/// `known` has hashed (RELIABILITY U-5). Readers may have those bytes, so others cannot be put in
/// their place. Counts them as bytes that `came`.
pub(super) async fn skip_prefix(
    upstream: &UpstreamName,
    body: &mut SourceBody,
    (known, bytes): (Hasher, u64),
    came: &AtomicU64,
) -> Result<(), Error> {
    let expected = known.finish();
    let mut hasher = Hasher::new(expected.algorithm());
    let mut left = bytes;
    while left > 0 {
        let Some(mut chunk) = body.chunk().await? else {
            return Err(Error::untrue(upstream, "fewer bytes than before"));
        };
        let known = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
        body.put_back(chunk.split_off(known));
        hasher.update(&chunk);
        left -= known as u64;
        came.fetch_add(known as u64, Ordering::Relaxed);
    }
    if hasher.finish() == expected {
        Ok(())
    } else {
        Err(Error::untrue(upstream, "other bytes than before"))
    }
}
