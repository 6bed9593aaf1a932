//! What has passed by of uploads that are not complete: kept between the requests of one upload, in
//! memory only. After a restart, or when it has been let go of, an upload goes on all the same, and
//! what it becomes is fetched when it is wanted.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::oci::Algorithm;
use crate::store::Staged;

/// Uploads at once of which something is kept; each may hold a file.
const MOST: usize = 256;

/// How long an upload may rest between two requests and still be kept.
const REST: Duration = Duration::from_mins(10);

/// By which we know an upload again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(u128);

impl SessionId {
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

/// What there is of an upload.
#[derive(Debug)]
pub(super) enum Passed {
    /// Nothing yet; it will be hashed like this.
    Nothing(Algorithm),
    Some(Staged),
}

#[derive(Debug)]
struct Entry {
    passed: Passed,
    since: Instant,
}

#[derive(Debug)]
pub(super) struct Sessions {
    entries: Mutex<HashMap<SessionId, Entry>>,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { entries: Mutex::default() }
    }

    /// A name for a new upload; what passes of it is kept if there is a place, and an algorithm to
    /// hash it with.
    pub(super) fn begin(&self, algorithm: Option<Algorithm>) -> SessionId {
        let mut bytes = [0; 16];
        // Without randomness every upload has the same name, and none is taken up again.
        let named = aws_lc_rs::rand::fill(&mut bytes).is_ok();
        let id = SessionId(u128::from_be_bytes(bytes));
        if let Some(algorithm) = algorithm.filter(|_| named) {
            self.insert(id.clone(), Passed::Nothing(algorithm));
        }
        id
    }

    /// What has passed; whoever takes it is the only one who has it.
    pub(super) fn take(&self, id: &SessionId) -> Option<Passed> {
        self.lock().remove(id).map(|entry| entry.passed)
    }

    /// Keeps it for the next request, if the registry has as much of it as has passed here. A
    /// registry that does not take a blob with the request that begins its upload has nothing; then
    /// it passes `again`, to be hashed like this.
    pub(super) fn put_back(
        &self,
        id: &SessionId,
        staged: Staged,
        received: Option<u64>,
        again: Option<Algorithm>,
    ) {
        let all = received.map_or(again.is_none(), |bytes| bytes == staged.written());
        match again {
            _ if all => self.insert(id.clone(), Passed::Some(staged)),
            Some(algorithm) => self.insert(id.clone(), Passed::Nothing(algorithm)),
            None => {}
        }
    }

    pub(super) fn forget(&self, id: &SessionId) {
        self.lock().remove(id);
    }

    /// Lets go of what has rested for too long.
    pub(super) fn sweep(&self) {
        self.lock().retain(|_, entry| entry.since.elapsed() < REST);
    }

    fn insert(&self, id: SessionId, passed: Passed) {
        let mut entries = self.lock();
        if entries.len() < MOST {
            entries.insert(id, Entry { passed, since: Instant::now() });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_rests_too_long_is_let_go_of_and_places_are_bounded() {
        let sessions = Sessions::new();
        let first = sessions.begin(Some(Algorithm::Sha256));
        for _ in 0..2 * MOST {
            sessions.begin(Some(Algorithm::Sha256));
        }
        assert_eq!(sessions.lock().len(), MOST);
        sessions.sweep();
        assert!(matches!(sessions.take(&first), Some(Passed::Nothing(Algorithm::Sha256))));
        assert!(sessions.take(&first).is_none(), "taken once");
        tokio::time::advance(REST).await;
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
