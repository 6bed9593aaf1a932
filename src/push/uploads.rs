//! The story of a blob that is pushed: an upload begins, receives its bytes in one or several
//! requests, and ends with the digest that the client gives.
//!
//! Clients differ. dockerd, containers/image and go-containerregistry send POST, PATCH and an empty
//! PUT; containerd sends POST and one PUT with all bytes; others use the POST alone, or several
//! times PATCH with `Content-Range` (PROTOCOL §3.9).

use bytes::Bytes;
use http_body::Body;
use tokio::time::Instant;

use super::relay::{self, ClientChunk};
use super::sessions::SessionId;
use super::{Error, PushCore, PushThrough};
use crate::oci::{Algorithm, CanonicalName, Digest, Repository};
use crate::store::Staged;
use crate::upstream::{
    self, FailureClass, UploadAddress, UploadProgress, UploadStart, UploadStatus, UpstreamClient,
};

/// What names an upload to its client: the session that holds the mirror, and the registry's own
/// address of the upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UploadHandle {
    session: SessionId,
    address: UploadAddress,
}

impl UploadHandle {
    /// Plain text, which the caller has to seal before a client sees it: the registry's address may
    /// hold secrets, and must not be altered (ACCESS §7.2).
    pub(crate) fn to_text(&self) -> String {
        format!("{} {}", self.session, self.address.as_str())
    }

    /// Reads what [`UploadHandle::to_text`] wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (session, address) = text.split_once(' ')?;
        let address = UploadAddress::new(address.to_owned());
        Some(Self { session: SessionId::parse(session)?, address })
    }
}

/// The state of an upload after a request about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Upload {
    Open {
        handle: UploadHandle,
        progress: UploadHeaders,
    },
    /// The repository has the blob, under this digest.
    Done(Digest),
}

impl Upload {
    fn open(session: SessionId, progress: UploadProgress) -> Self {
        let UploadProgress { address, range, uuid, min_chunk, .. } = progress;
        let progress = UploadHeaders { range, uuid, min_chunk };
        Self::Open { handle: UploadHandle { session, address }, progress }
    }
}

/// What the registry says of an open upload; the client gets it as it is (UPL-5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct UploadHeaders {
    /// `Range`: what has arrived, in the form `0-1023` (UPL-5).
    pub range: Option<String>,
    /// `Docker-Upload-UUID`.
    pub uuid: Option<String>,
    /// `OCI-UploadChunk-Min-Length`, in bytes.
    pub min_chunk: Option<String>,
}

impl PushThrough {
    /// Begins an upload, or mounts a blob that another repository of the same registry has (end-4a,
    /// end-11).
    ///
    /// # Errors
    /// What the registry says; see [`Error`].
    pub(crate) async fn begin_upload(
        &self,
        name: &CanonicalName,
        start: &UploadStart,
    ) -> Result<Upload, Error> {
        let inner = &self.0;
        let upstream = inner.upstream(&name.upstream)?;
        let uploaded = inner.begin_or_mount(&upstream, &name.repository, start).await?;
        match (uploaded, &start.mount) {
            (UploadStatus::Open(progress), _) => {
                let algorithm = start.algorithm.unwrap_or(Algorithm::Sha256);
                Ok(Upload::open(inner.begin_session(&upstream, algorithm), progress))
            }
            (UploadStatus::Complete(reported), Some((digest, _))) => {
                inner.complete(name, digest.clone(), reported, None).await
            }
            (UploadStatus::Complete(_), None) => {
                Err(Error::Untrue("the end of an upload that has only begun"))
            }
        }
    }

    /// Sends a whole blob in the request that begins its upload (end-4b).
    ///
    /// # Errors
    /// What the registry or the client did; see [`Error`].
    pub(crate) async fn upload_whole<B>(
        &self,
        name: &CanonicalName,
        chunk: ClientChunk<B>,
    ) -> Result<Upload, Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error,
    {
        let upstream = self.0.upstream(&name.upstream)?;
        let algorithm = chunk.digest.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let session = self.0.begin_session(&upstream, algorithm);
        self.0.forward_chunk(name, session, None, chunk).await
    }

    /// Adds to an upload (end-5), or ends it if the chunk has a digest (end-6).
    ///
    /// # Errors
    /// What the registry or the client did; see [`Error`].
    pub(crate) async fn continue_upload<B>(
        &self,
        name: &CanonicalName,
        handle: UploadHandle,
        chunk: ClientChunk<B>,
    ) -> Result<Upload, Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error,
    {
        self.0.forward_chunk(name, handle.session, Some(handle.address), chunk).await
    }

    /// Asks the registry how much of an upload has arrived (end-13).
    ///
    /// # Errors
    /// What the registry says; see [`Error`].
    pub(crate) async fn upload_status(
        &self,
        name: &CanonicalName,
        handle: UploadHandle,
    ) -> Result<Upload, Error> {
        let upstream = self.0.upstream(&name.upstream)?;
        let status = upstream
            .upload_status(&name.repository, &handle.address, Instant::now() + self.0.limits.head)
            .await?;
        match status {
            UploadStatus::Open(progress) => Ok(Upload::open(handle.session, progress)),
            UploadStatus::Complete(_) => {
                Err(Error::Untrue("the end of an upload that was only asked about"))
            }
        }
    }

    /// Cancels an upload (end-14).
    ///
    /// # Errors
    /// What the registry says; see [`Error`]. The mirror is dropped in any case.
    pub(crate) async fn cancel_upload(
        &self,
        name: &CanonicalName,
        handle: &UploadHandle,
    ) -> Result<(), Error> {
        self.0.sessions.remove(&handle.session);
        let upstream = self.0.upstream(&name.upstream)?;
        Ok(upstream
            .cancel_upload(&name.repository, &handle.address, Instant::now() + self.0.limits.head)
            .await?)
    }
}

impl PushCore {
    /// A session for a new upload. Where pushes are not cached it takes no place, because the
    /// places are bounded and other uploads need them.
    fn begin_session(&self, upstream: &UpstreamClient, algorithm: Algorithm) -> SessionId {
        self.sessions.begin(Some(algorithm).filter(|_| upstream.caches_pushes()))
    }

    /// Begins an upload. A mount that the registry refuses becomes a plain upload, as if none had
    /// been asked for (UPL-7): the proxy's account may be allowed to write here and not to read
    /// there. Some say so by refusing the login a token for both.
    async fn begin_or_mount(
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
                    && matches!(
                        error.class(),
                        FailureClass::Refused
                            | FailureClass::Absent
                            | FailureClass::Credential
                            | FailureClass::Untrue
                    ) =>
            {
                let plain = UploadStart { mount: None, ..start.clone() };
                upstream
                    .begin_upload(repository, &plain, Instant::now() + self.limits.flight_head)
                    .await
            }
            begun => begun,
        }
    }

    /// Forwards a chunk to the registry and mirrors it; `address` is None for a new upload.
    async fn forward_chunk<B>(
        &self,
        name: &CanonicalName,
        session: SessionId,
        address: Option<UploadAddress>,
        chunk: ClientChunk<B>,
    ) -> Result<Upload, Error>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: std::error::Error,
    {
        let upstream = self.upstream(&name.upstream)?;
        let digest = chunk.digest.clone();
        let mirror = self.mirror_for(&upstream, &session, &chunk).await;
        let destination =
            relay::Destination { upstream: &upstream, repository: &name.repository, address };
        let forwarded = relay::forward(destination, chunk, mirror, self).await?;
        match (forwarded.uploaded, digest) {
            (UploadStatus::Open(progress), digest) => {
                if let Some(staged) = forwarded.mirror {
                    self.keep_mirror(&session, staged, progress.received, digest.as_ref());
                }
                Ok(Upload::open(session, progress))
            }
            (UploadStatus::Complete(reported), Some(digest)) => {
                self.complete(name, digest, reported, forwarded.mirror).await
            }
            (UploadStatus::Complete(_), None) => {
                Err(Error::Untrue("the end of an upload that goes on"))
            }
        }
    }

    /// The registry has the blob: publishes the mirror and records the proof.
    ///
    /// `reported` is the digest that the registry has it by, if it says. CNCF distribution accepts
    /// a sha512 digest and stores the blob by sha256, so another algorithm is accepted here as
    /// well. Another digest of the same algorithm is another blob.
    async fn complete(
        &self,
        name: &CanonicalName,
        requested: Digest,
        reported: Option<Digest>,
        mirror: Option<Staged>,
    ) -> Result<Upload, Error> {
        let differs = |reported: &Digest| {
            reported.algorithm() == requested.algorithm() && *reported != requested
        };
        if reported.as_ref().is_some_and(differs) {
            return Err(Error::Untrue("another digest than the blob has"));
        }
        let digest = reported.unwrap_or(requested);
        // The bytes before the proof: a pull that finds the proof first would fetch them again.
        self.publish_mirror(name, mirror, &digest).await;
        self.pull.pushed_blob(name, &digest).await;
        Ok(Upload::Done(digest))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sessions::Sessions;
    use super::*;

    #[test]
    fn a_handle_is_read_as_it_was_written() {
        let session = Sessions::new().begin(None);
        let address = UploadAddress::new("/v2/a/blobs/uploads/1?x=a b".to_owned());
        let handle = UploadHandle { session, address };
        assert_eq!(UploadHandle::parse(&handle.to_text()), Some(handle));
        for bad in ["", "x", "x /v2/", "0123"] {
            assert_eq!(UploadHandle::parse(bad), None, "{bad}");
        }
    }
}
