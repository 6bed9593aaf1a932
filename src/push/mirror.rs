//! The mirror of an upload: the copy that the cache keeps while it passes the bytes through, and
//! stores once the registry has accepted them. It is never needed: an upload without one goes on
//! all the same, and its blob is fetched when it is wanted.

use super::PushCore;
use super::relay::ClientChunk;
use super::sessions::{Mirrored, SessionId};
use crate::oci::{CanonicalName, Digest};
use crate::store::{ContentSender, EvictionClass, RoomOwner, Staged};
use crate::upstream::UpstreamClient;

impl PushCore {
    /// The mirror that these bytes are appended to. None where pushes are not cached, where the
    /// mirror was lost, and where the bytes do not follow what is mirrored.
    ///
    /// A mirror that is taken here and not put back is dropped, and its file with it. So after a
    /// gap or a failure the upload goes on without one.
    pub(super) async fn mirror_for<B>(
        &self,
        upstream: &UpstreamClient,
        session: &SessionId,
        chunk: &ClientChunk<B>,
    ) -> Option<Staged> {
        if !upstream.caches_pushes() {
            return None;
        }
        match self.sessions.take(session)? {
            // Without Content-Range the bytes follow those before, as with dockerd's PATCH.
            Mirrored::Partial(staged) => {
                chunk.range.is_none_or(|range| range.first == staged.written()).then_some(staged)
            }
            Mirrored::Empty(algorithm) => {
                // Until the first byte is hashed, the digest of the blob is the better source: the
                // POST need not have named its algorithm.
                let algorithm = chunk.digest.as_ref().map_or(algorithm, Digest::algorithm);
                // With a digest these are all bytes of the blob, so that room for all of it can be
                // reserved at once.
                let size = chunk.length.filter(|_| chunk.digest.is_some());
                self.store.stage_unnamed(algorithm, size, RoomOwner::of(&chunk.asker)).await.ok()
            }
        }
    }

    /// Keeps the mirror for the next request, if the registry has received as much as it holds. A
    /// mirror that differs from what the registry has could never get the blob's digest.
    pub(super) fn keep_mirror(
        &self,
        session: &SessionId,
        staged: Staged,
        received: Option<u64>,
        digest: Option<&Digest>,
    ) {
        let in_step = match received {
            Some(bytes) => bytes == staged.written(),
            // Without Range a chunk has arrived whole. A chunk with a digest would have ended the
            // upload if it had arrived.
            None => digest.is_none(),
        };
        match digest {
            _ if in_step => self.sessions.keep_partial(session, staged),
            // A registry that does not take a blob with the POST answers 202 and has nothing; the
            // client then sends all bytes again.
            Some(digest) => self.sessions.restart(session, digest.algorithm()),
            None => {}
        }
    }

    /// Stores the mirror as a blob, if it has the digest of what the registry has accepted. A
    /// failure is only logged: the push has succeeded, and the blob is fetched when it is wanted.
    pub(super) async fn publish_mirror(
        &self,
        name: &CanonicalName,
        mirror: Option<Staged>,
        digest: &Digest,
    ) {
        let Some(staged) = mirror else { return };
        let Ok(verified) = staged.verify_as(digest) else {
            tracing::warn!(%digest,
                "the copy of an upload is not what the registry has accepted; not kept");
            return;
        };
        // The registry has these very bytes, and nobody has shown that they are public.
        let sender = ContentSender { upstream: name.upstream.clone(), is_public: false };
        let kept = verified.publish(EvictionClass::Blob, self.clock.now(), sender).await;
        if let Err(error) = kept {
            tracing::error!(%error, %digest, "cannot keep what was pushed");
        }
    }
}
