//! One part after the other, as a client would pull it who lets all others come first.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::parts::Part;
use super::patience::Patience;
use super::progress::WarmProgress;
use crate::limits::Limits;
use crate::oci::{CanonicalName, Digest, Manifest, MediaType, Reference, UpstreamName};
use crate::pull::{Asker, Error, PullThrough, UpstreamFault, Want};

/// What it takes to warm.
#[derive(Clone, Debug)]
pub(crate) struct WarmTools {
    pub(super) pull: PullThrough,
    pub(super) limits: Limits,
    pub(super) progress: Arc<WarmProgress>,
    /// Those that did not answer for so long that something was given up: nothing else waits as long.
    failing: Arc<Mutex<HashSet<UpstreamName>>>,
}

/// A manifest that was fetched.
#[derive(Clone, Debug)]
pub(super) struct Fetched {
    pub(super) digest: Digest,
    /// Bytes.
    pub(super) size: u64,
    pub(super) media_type: MediaType,
    pub(super) manifest: Manifest,
}

impl WarmTools {
    pub(crate) fn new(pull: &PullThrough, limits: Limits, progress: Arc<WarmProgress>) -> Self {
        Self {
            pull: pull.asked_by(Asker::patient("warm")),
            limits,
            progress,
            failing: Arc::default(),
        }
    }

    /// Waits before something is tried again.
    ///
    /// # Errors
    /// The failure, if there is no use in that.
    pub(super) async fn pause(
        &self,
        patience: &mut Patience,
        name: &CanonicalName,
        error: Error,
    ) -> Result<(), Error> {
        patience.is_short = self.failing().contains(&name.upstream);
        let pause = patience.after(&error, self.limits.retry_pause);
        let Some(pause) = pause else {
            if is_outage(&error) {
                self.failing().insert(name.upstream.clone());
            }
            return Err(error);
        };
        self.progress.waits(name, pause, error.to_string());
        tokio::time::sleep(pause).await;
        Ok(())
    }

    fn failing(&self) -> MutexGuard<'_, HashSet<UpstreamName>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has come from there.
    fn works(&self, name: &CanonicalName) {
        self.failing().remove(&name.upstream);
    }

    /// Fetches the manifest, as a pull does: what is known of a tag is renewed.
    pub(super) async fn manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
    ) -> Result<Fetched, Error> {
        let mut patience = Patience::default();
        loop {
            match self.read_manifest(name, reference).await {
                Err(error) => self.pause(&mut patience, name, error).await?,
                Ok(fetched) => {
                    self.works(name);
                    return Ok(fetched);
                }
            }
        }
    }

    async fn read_manifest(
        &self,
        name: &CanonicalName,
        reference: &Reference,
    ) -> Result<Fetched, Error> {
        let answer = self.pull.manifest(name, reference, Want::Body).await?;
        let (digest, size, media_type) = (answer.digest, answer.size, answer.media_type);
        let bytes = answer.content.bytes(self.limits.manifest).await?.unwrap_or_default();
        let manifest = Manifest::inspect(&bytes, &media_type).map_err(|error| Error::Untrue {
            upstream: name.upstream.clone(),
            reason: format!("something that is no manifest: {error}").into(),
        })?;
        Ok(Fetched { digest, size, media_type, manifest })
    }

    /// The configuration of an image, as far as it is one that can be read.
    pub(super) async fn document(
        &self,
        name: &CanonicalName,
        digest: &Digest,
    ) -> Result<Option<Bytes>, Error> {
        let mut patience = Patience::default();
        loop {
            match self.pull.keep_document(name, digest, self.limits.manifest).await {
                Err(error) => self.pause(&mut patience, name, error).await?,
                document => return document,
            }
        }
    }

    pub(super) async fn blob(&self, name: &CanonicalName, blob: &Part) -> Result<(), Error> {
        let was_here = self.pull.has(name, &blob.digest).await;
        let came = AtomicU64::new(0);
        let arrivals = |bytes: u64| {
            let before = came.fetch_max(bytes, Ordering::Relaxed);
            if !was_here && bytes > before {
                self.progress.bytes_came(bytes - before);
            }
        };
        let mut patience = Patience::default();
        while let Err(error) = self.pull.keep_blob(name, &blob.digest, &arrivals).await {
            self.pause(&mut patience, name, error).await?;
        }
        self.works(name);
        if !was_here {
            self.progress.bytes_came(blob.size.saturating_sub(came.load(Ordering::Relaxed)));
            self.progress.blob_came();
        }
        Ok(())
    }

    /// Whether a part is here for good. What upstream has refused meanwhile of the repository casts
    /// doubt on all of it, and is asked for once more.
    pub(super) async fn keeps(&self, name: &CanonicalName, part: &Part) -> bool {
        if self.pull.keeps(name, &part.digest).await {
            return true;
        }
        if !self.pull.has(name, &part.digest).await {
            return false;
        }
        let proven = if part.is_manifest() {
            let reference = Reference::Digest(part.digest.clone());
            self.pull.manifest(name, &reference, Want::Body).await.map(drop)
        } else {
            self.pull.keep_blob(name, &part.digest, &|_| {}).await
        };
        proven.is_ok() && self.pull.keeps(name, &part.digest).await
    }
}

/// Whether it is the whole upstream that fails.
fn is_outage(error: &Error) -> bool {
    let Error::Upstream { fault, .. } = error else { return false };
    matches!(fault, UpstreamFault::Unreachable | UpstreamFault::Silent | UpstreamFault::NoLogin)
}
