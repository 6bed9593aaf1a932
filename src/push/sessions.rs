//! The mirrors of uploads that are not complete, held between the requests of each upload.
//!
//! They are held in memory only. After a restart, or when one has been dropped, the upload goes on
//! without it, because its address at the registry is with the client; the blob is then fetched
//! when it is wanted.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::oci::Algorithm;
use crate::store::Staged;

/// Uploads that are mirrored at once; each may hold an open file and room in the cache.
const SESSIONS_MAX: usize = 256;

/// How long an upload may have no request in progress before its mirror is dropped.
const SESSION_IDLE_MAX: Duration = Duration::from_mins(10);

/// Names an upload in the addresses that its client gets. Addresses outlive a restart and sessions
/// do not, so the name is random: an old address must not name a newer upload.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SessionId(u128);

impl SessionId {
    /// Reads 32 hexadecimal digits, as `Display` writes them.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u128::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The copy of an upload that the cache keeps while it is passed through.
#[derive(Debug)]
pub(super) enum Mirrored {
    /// No bytes yet. They will be hashed by this algorithm, unless the blob's digest comes with the
    /// first of them.
    Empty(Algorithm),
    /// The bytes of all requests so far.
    Partial(Staged),
}

#[derive(Debug)]
struct UploadSession {
    mirrored: Mirrored,
    /// When the last request of the upload ended.
    idle_since: Instant,
}

/// A session is taken out while a request uses it, so that two requests of one upload cannot write
/// to one mirror: the second finds none and is forwarded without.
#[derive(Debug)]
pub(super) struct Sessions {
    entries: Mutex<HashMap<SessionId, UploadSession>>,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { entries: Mutex::default() }
    }

    /// A name for a new upload. With an `algorithm` to hash it by, it is mirrored if there is a
    /// place.
    pub(super) fn begin(&self, algorithm: Option<Algorithm>) -> SessionId {
        let mut bytes = [0; 16];
        // If the system gives no randomness, every upload has the same name, and their bytes would
        // mix. So none is mirrored then.
        let is_random = aws_lc_rs::rand::fill(&mut bytes).is_ok();
        let id = SessionId(u128::from_be_bytes(bytes));
        if let Some(algorithm) = algorithm.filter(|_| is_random) {
            self.insert(id.clone(), Mirrored::Empty(algorithm));
        }
        id
    }

    /// Takes the mirror out; the caller is then the only one who has it.
    pub(super) fn take(&self, id: &SessionId) -> Option<Mirrored> {
        self.lock().remove(id).map(|session| session.mirrored)
    }

    /// Keeps what is mirrored so far for the next request.
    pub(super) fn keep_partial(&self, id: &SessionId, staged: Staged) {
        self.insert(id.clone(), Mirrored::Partial(staged));
    }

    /// Starts the mirror again: the client will send all bytes of the upload once more.
    pub(super) fn restart(&self, id: &SessionId, algorithm: Algorithm) {
        self.insert(id.clone(), Mirrored::Empty(algorithm));
    }

    pub(super) fn remove(&self, id: &SessionId) {
        self.lock().remove(id);
    }

    /// Drops mirrors of uploads that have had no request for too long: clients give up without a
    /// word.
    pub(super) fn sweep(&self) {
        self.lock().retain(|_, session| session.idle_since.elapsed() < SESSION_IDLE_MAX);
    }

    /// Drops the mirror if there is no place: an upload does not need one.
    fn insert(&self, id: SessionId, mirrored: Mirrored) {
        let mut entries = self.lock();
        if entries.len() < SESSIONS_MAX {
            entries.insert(id, UploadSession { mirrored, idle_since: Instant::now() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, UploadSession>> {
        // No code that holds the lock leaves the table half changed, so a panic elsewhere is no
        // reason to refuse uploads.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn idle_sessions_are_dropped_and_their_number_is_bounded() {
        let sessions = Sessions::new();
        let first = sessions.begin(Some(Algorithm::Sha256));
        for _ in 0..2 * SESSIONS_MAX {
            sessions.begin(Some(Algorithm::Sha256));
        }
        assert_eq!(sessions.lock().len(), SESSIONS_MAX);
        sessions.sweep();
        assert!(matches!(sessions.take(&first), Some(Mirrored::Empty(Algorithm::Sha256))));
        assert!(sessions.take(&first).is_none(), "taken once");
        tokio::time::advance(SESSION_IDLE_MAX).await;
        sessions.sweep();
        assert_eq!(sessions.lock().len(), 0);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        let id = Sessions::new().begin(None);
        assert_eq!(SessionId::parse(&id.to_string()), Some(id));
        for bad in
            ["", "0", "+123456789012345678901234567890123", "g1234567890123456789012345678901"]
        {
            assert_eq!(SessionId::parse(bad), None, "{bad}");
        }
    }
}
