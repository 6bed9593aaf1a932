//! Pushing to the private registry behind us: everything is passed through, and what passes through
//! whole is in the cache when the registry has taken it (PROTOCOL §3.9, ACCESS §7).
//!
//! The registry decides; nothing is answered on its behalf. `relay` carries the bytes of one
//! request in both directions of pressure, `sessions` keeps what has gone by of an upload until the
//! registry says what it is.

mod error;
mod relay;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;

use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::oci::{
    Algorithm, CanonicalName, ChunkRange, Digest, Reference, Repository, Tag, UpstreamName,
};
use crate::pull::{PullThrough, PushedManifest};
use crate::store::{BlobStore, EvictionClass, Staged};
use crate::upstream::{
    self, FailureClass, UploadAddress, UploadProgress, UploadStatus, UpstreamClient, Upstreams,
};
use tokio::time::Instant;

pub use crate::upstream::{DeleteTarget, NewManifest, UploadStart};
pub use error::Error;
pub use sessions::SessionId;

use sessions::{Passed, Sessions};

/// How often uploads that nobody goes on with are looked for.
const SWEEP: Duration = Duration::from_mins(1);

/// The service; clones share it.
#[derive(Clone, Debug)]
pub struct PushThrough(Arc<PushCore>);

#[derive(Debug)]
struct PushCore {
    upstreams: Arc<Upstreams>,
    store: BlobStore,
    pull: PullThrough,
    sessions: Sessions,
    limits: Limits,
    metrics: Arc<Metrics>,
    clock: crate::clock::Clock,
}

/// An upload as its client holds it: the registry's address, and by what name we know what has
/// passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    id: SessionId,
    address: UploadAddress,
}

impl Ticket {
    /// To be sealed: the address is between the registry and us.
    pub fn to_text(&self) -> String {
        format!("{} {}", self.id, self.address.as_str())
    }

    /// What [`Ticket::to_text`] gave.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, address) = text.split_once(' ')?;
        Some(Self { id: SessionId::parse(id)?, address: UploadAddress::new(address.to_owned()) })
    }
}

/// What became of a request about an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upload {
    Open {
        ticket: Ticket,
        progress: UploadHeaders,
    },
    /// The repository has the blob.
    Done(Digest),
}

/// What the registry says of an upload that goes on, to be passed on as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadHeaders {
    /// `Range`: what has arrived, in the form `0-1023` (UPL-5).
    pub range: Option<String>,
    pub uuid: Option<String>,
    pub min_chunk: Option<String>,
}

/// What the registry says of a manifest that it has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenManifest {
    /// The digest that the registry has it by.
    pub digest: Digest,
    /// Only a registry that keeps referrers says this (ACCESS §7.4).
    pub subject: Option<Digest>,
    pub tags: Vec<String>,
}

/// The bytes of a request, and what it says of them.
#[derive(Debug)]
pub struct Sent<B> {
    pub body: B,
    /// Bytes, if announced.
    pub length: Option<u64>,
    pub range: Option<ChunkRange>,
    /// What the upload becomes with them.
    pub digest: Option<Digest>,
}

impl PushThrough {
    pub fn new(parts: &crate::pull::Parts, pull: PullThrough) -> Self {
        Self(Arc::new(PushCore {
            upstreams: Arc::clone(&parts.upstreams),
            store: parts.store.clone(),
            pull,
            sessions: Sessions::new(),
            limits: parts.limits.clone(),
            metrics: Arc::clone(&parts.metrics),
            clock: parts.clock.clone(),
        }))
    }

    /// Lets go of uploads that nobody goes on with; never returns.
    pub async fn maintain(&self) {
        loop {
            tokio::time::sleep(SWEEP).await;
            self.0.sessions.sweep();
        }
    }

    /// Begins an upload, or mounts a blob that another repository of the same registry has (end-4a,
    /// end-11).
    ///
    /// # Errors
    /// What the registry says; see [`Error`].
    pub async fn begin(&self, name: &CanonicalName, start: &UploadStart) -> Result<Upload, Error> {
        let inner = &self.0;
        let upstream = inner.upstream(&name.upstream)?;
        let uploaded = inner.begin_upload(&upstream, &name.repository, start).await?;
        match (uploaded, &start.mount) {
            (UploadStatus::Open(progress), _) => {
                let algorithm = start.algorithm.unwrap_or(Algorithm::Sha256);
                Ok(Upload::open(inner.session(&upstream, algorithm), progress))
            }
            (UploadStatus::Complete(told), Some((digest, _))) => {
                inner.done(name, digest.clone(), told, None).await
            }
            (UploadStatus::Complete(_), None) => {
                Err(Error::Untrue("the end of an upload that has only begun"))
            }
        }
    }

    /// A whole blob in the request that begins its upload (end-4b).
    ///
    /// # Errors
    /// What the registry or the client did; see [`Error`].
    pub async fn whole<B>(&self, name: &CanonicalName, sent: Sent<B>) -> Result<Upload, Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error,
    {
        let upstream = self.0.upstream(&name.upstream)?;
        let algorithm = sent.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let id = self.0.session(&upstream, algorithm);
        self.carry(name, id, None, sent).await
    }

    /// Adds to an upload (end-5), or ends it (end-6).
    ///
    /// # Errors
    /// What the registry or the client did; see [`Error`].
    pub async fn go_on<B>(
        &self,
        name: &CanonicalName,
        ticket: Ticket,
        sent: Sent<B>,
    ) -> Result<Upload, Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error,
    {
        self.carry(name, ticket.id, Some(ticket.address), sent).await
    }

    async fn carry<B>(
        &self,
        name: &CanonicalName,
        id: SessionId,
        address: Option<UploadAddress>,
        sent: Sent<B>,
    ) -> Result<Upload, Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error,
    {
        let inner = &self.0;
        let upstream = inner.upstream(&name.upstream)?;
        let digest = sent.digest.clone();
        let passed = inner.passed(&upstream, &id, &sent).await;
        let request = relay::Request { upstream: &upstream, repository: &name.repository, address };
        let (uploaded, passed) = relay::carry(request, sent, passed, inner).await?;
        match (uploaded, digest) {
            (UploadStatus::Open(progress), digest) => {
                if let Some(staged) = passed {
                    let again = digest.as_ref().map(Digest::algorithm);
                    inner.sessions.put_back(&id, staged, progress.received, again);
                }
                Ok(Upload::open(id, progress))
            }
            (UploadStatus::Complete(told), Some(digest)) => {
                inner.done(name, digest, told, passed).await
            }
            (UploadStatus::Complete(_), None) => {
                Err(Error::Untrue("the end of an upload that goes on"))
            }
        }
    }

    /// What has arrived of an upload (end-13).
    ///
    /// # Errors
    /// What the registry says; see [`Error`].
    pub async fn status(&self, name: &CanonicalName, ticket: Ticket) -> Result<Upload, Error> {
        let upstream = self.0.upstream(&name.upstream)?;
        let status = upstream
            .upload_status(&name.repository, &ticket.address, Instant::now() + self.0.limits.head)
            .await?;
        match status {
            UploadStatus::Open(progress) => Ok(Upload::open(ticket.id, progress)),
            UploadStatus::Complete(_) => {
                Err(Error::Untrue("the end of an upload that was only asked about"))
            }
        }
    }

    /// Gives an upload up (end-14).
    ///
    /// # Errors
    /// What the registry says; see [`Error`].
    pub async fn cancel(&self, name: &CanonicalName, ticket: &Ticket) -> Result<(), Error> {
        self.0.sessions.forget(&ticket.id);
        let upstream = self.0.upstream(&name.upstream)?;
        Ok(upstream
            .cancel_upload(&name.repository, &ticket.address, Instant::now() + self.0.limits.head)
            .await?)
    }

    /// Puts a manifest (end-7). It is seen through even if the client leaves: the registry may have
    /// it by then.
    ///
    /// # Errors
    /// [`Error::WrongDigest`] if it goes by a digest that is not its own; else what the registry
    /// says.
    pub async fn manifest(
        &self,
        name: &CanonicalName,
        manifest: NewManifest,
    ) -> Result<TakenManifest, Error> {
        let digest = digest_of(&manifest)?;
        let (inner, name) = (Arc::clone(&self.0), name.clone());
        let put = async move { inner.put_manifest(&name, digest, manifest).await };
        self.0.pull.see_through(put).await.unwrap_or(Err(Error::Abandoned))
    }

    /// Deletes (end-9, end-10), and sees it through.
    ///
    /// # Errors
    /// What the registry says; see [`Error`].
    pub async fn delete(&self, name: &CanonicalName, what: DeleteTarget) -> Result<(), Error> {
        let (inner, name) = (Arc::clone(&self.0), name.clone());
        let delete = async move { inner.delete(&name, what).await };
        self.0.pull.see_through(delete).await.unwrap_or(Err(Error::Abandoned))
    }
}

impl PushCore {
    fn upstream(&self, name: &UpstreamName) -> Result<Arc<UpstreamClient>, Error> {
        self.upstreams.get(name).ok_or(Error::Gone)
    }

    /// A name for a new upload, which takes no place where nothing is kept.
    fn session(&self, upstream: &UpstreamClient, algorithm: Algorithm) -> SessionId {
        self.sessions.begin(Some(algorithm).filter(|_| upstream.caches_pushes()))
    }

    /// A mount that the registry does not do is an upload like any other (UPL-7).
    async fn begin_upload(
        &self,
        upstream: &UpstreamClient,
        repository: &Repository,
        start: &UploadStart,
    ) -> Result<UploadStatus, upstream::Error> {
        let begun = upstream
            .begin_upload(repository, start, Instant::now() + self.limits.flight_head)
            .await;
        match begun {
            Err(error)
                if start.mount.is_some()
                    && matches!(error.class(), FailureClass::Refused | FailureClass::Absent) =>
            {
                let plain = UploadStart { mount: None, ..start.clone() };
                upstream
                    .begin_upload(repository, &plain, Instant::now() + self.limits.flight_head)
                    .await
            }
            begun => begun,
        }
    }

    /// What has passed of the upload so far, if it is kept and these bytes follow it; a place for
    /// them if they are the first.
    async fn passed<B>(
        &self,
        upstream: &UpstreamClient,
        id: &SessionId,
        sent: &Sent<B>,
    ) -> Option<Staged> {
        if !upstream.caches_pushes() {
            return None;
        }
        match self.sessions.take(id)? {
            Passed::Some(staged)
                if sent.range.is_none_or(|range| range.first == staged.written()) =>
            {
                Some(staged)
            }
            Passed::Some(_) => None,
            Passed::Nothing(algorithm) => {
                let algorithm = sent.digest.as_ref().map_or(algorithm, Digest::algorithm);
                let whole = sent.length.filter(|_| sent.digest.is_some());
                self.store.stage_unnamed(algorithm, whole).await.ok()
            }
        }
    }

    /// The registry has the blob: keeps and proves it, under the digest that the registry has it
    /// by. That may be of another algorithm than was asked for, but not another one of the same.
    async fn done(
        &self,
        name: &CanonicalName,
        asked: Digest,
        told: Option<Digest>,
        passed: Option<Staged>,
    ) -> Result<Upload, Error> {
        if told.as_ref().is_some_and(|told| told.algorithm() == asked.algorithm() && *told != asked)
        {
            return Err(Error::Untrue("another digest than the blob has"));
        }
        let digest = told.unwrap_or(asked);
        self.keep(passed, &digest).await;
        self.pull.pushed_blob(name, &digest).await;
        Ok(Upload::Done(digest))
    }

    async fn put_manifest(
        &self,
        name: &CanonicalName,
        digest: Digest,
        manifest: NewManifest,
    ) -> Result<TakenManifest, Error> {
        let upstream = self.upstream(&name.upstream)?;
        let taken = upstream
            .put_manifest(&name.repository, &manifest, Instant::now() + self.limits.flight_head)
            .await;
        if let (Err(error), Reference::Tag(tag)) = (&taken, &manifest.reference)
            && error.may_have_taken_effect()
        {
            self.pull.expire_tag(name, tag).await;
        }
        let taken = taken?;
        let told = taken.digest.clone().unwrap_or_else(|| digest.clone());
        let untrue = told.algorithm() == digest.algorithm() && told != digest;
        let NewManifest { reference, tags, media_type, bytes } = manifest;
        let own: Option<Tag> = if let Reference::Tag(tag) = reference { Some(tag) } else { None };
        // A registry that does not know the parameter takes the manifest and sets no tag.
        let (set, unconfirmed_tags): (Vec<_>, _) =
            tags.into_iter().partition(|tag| taken.tags.iter().any(|set| set == tag.as_str()));
        let tags = own.into_iter().chain(set).collect();
        let pushed = PushedManifest { digest, tags, unconfirmed_tags, media_type, bytes };
        // Whatever it is that it has taken, what was known of the tag is void.
        self.pull.pushed_manifest(name, pushed, upstream.caches_pushes() && !untrue).await;
        if untrue {
            Err(Error::Untrue("another digest than the manifest has"))
        } else {
            Ok(TakenManifest { digest: told, subject: taken.subject, tags: taken.tags })
        }
    }

    async fn delete(&self, name: &CanonicalName, what: DeleteTarget) -> Result<(), Error> {
        let upstream = self.upstream(&name.upstream)?;
        let deleted = upstream
            .delete(&name.repository, &what, Instant::now() + self.limits.flight_head)
            .await;
        // What is not there is gone as well: somebody was quicker, or an answer to this was lost.
        let gone = |error: &upstream::Error| error.class() == FailureClass::Absent;
        if deleted.as_ref().map_or_else(gone, |()| true) {
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

    /// Publishes what has passed, if it is what the registry has taken.
    async fn keep(&self, passed: Option<Staged>, digest: &Digest) {
        let Some(staged) = passed else { return };
        let Ok(verified) = staged.verify_as(digest) else {
            tracing::warn!(%digest, "an upload passed by as something else than the registry has taken; not kept");
            return;
        };
        if let Err(error) = verified.publish(EvictionClass::Blob, self.clock.now()).await {
            tracing::error!(%error, %digest, "cannot keep what was pushed");
        }
    }
}

impl Upload {
    fn open(id: SessionId, progress: UploadProgress) -> Self {
        let UploadProgress { address, range, uuid, min_chunk, .. } = progress;
        let progress = UploadHeaders { range, uuid, min_chunk };
        Self::Open { ticket: Ticket { id, address }, progress }
    }
}

/// The digest of a manifest: of the algorithm that it goes by, if it goes by one.
fn digest_of(manifest: &NewManifest) -> Result<Digest, Error> {
    match &manifest.reference {
        Reference::Tag(_) => Ok(Digest::of(Algorithm::Sha256, &manifest.bytes)),
        Reference::Digest(digest) => {
            let actual = Digest::of(digest.algorithm(), &manifest.bytes);
            if actual == *digest { Ok(actual) } else { Err(Error::WrongDigest) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_read_as_it_was_written() {
        let id = Sessions::new().begin(None);
        let ticket =
            Ticket { id, address: UploadAddress::new("/v2/a/blobs/uploads/1?x=a b".to_owned()) };
        assert_eq!(Ticket::parse(&ticket.to_text()), Some(ticket));
        for bad in ["", "x", "x /v2/", "0123"] {
            assert_eq!(Ticket::parse(bad), None, "{bad}");
        }
    }
}
