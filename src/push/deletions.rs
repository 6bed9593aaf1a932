//! Deleting from the registry, and with it from what the cache believes of that repository.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Error, PushCore, PushThrough};
use crate::oci::{CanonicalName, Reference};
use crate::upstream::{self, DeleteTarget, FailureClass};

impl PushThrough {
    /// Deletes a manifest, a tag or a blob (end-9, end-10). Once begun, it is finished even if the
    /// client leaves: the registry may have deleted by then, and the cache has to follow.
    ///
    /// # Errors
    /// What the registry says; see [`Error`].
    pub(crate) async fn delete(
        &self,
        name: &CanonicalName,
        what: DeleteTarget,
    ) -> Result<(), Error> {
        let (inner, name) = (Arc::clone(&self.0), name.clone());
        let delete = async move { inner.delete(&name, what).await };
        self.0.pull.run_to_completion(delete).await.unwrap_or(Err(Error::Abandoned))
    }
}

impl PushCore {
    async fn delete(&self, name: &CanonicalName, what: DeleteTarget) -> Result<(), Error> {
        let upstream = self.upstream(&name.upstream)?;
        let deleted = upstream
            .delete(&name.repository, &what, Instant::now() + self.limits.flight_head)
            .await;
        // A 404 also means that it is gone: somebody else was quicker, or the answer to an earlier
        // attempt was lost.
        let is_gone = |error: &upstream::Error| error.class() == FailureClass::Absent;
        if deleted.as_ref().map_or_else(is_gone, |()| true) {
            match &what {
                DeleteTarget::Manifest(Reference::Digest(digest)) => {
                    self.pull.deleted_manifest(name, digest).await;
                }
                DeleteTarget::Manifest(Reference::Tag(tag)) => {
                    self.pull.deleted_tag(name, tag).await;
                }
                DeleteTarget::Blob(digest) => self.pull.deleted_blob(name, digest).await,
            }
        }
        Ok(deleted?)
    }
}
