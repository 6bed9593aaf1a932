//! One password that is to be checked, who waits for that, and what came of it.

use std::time::Duration;

use tokio::sync::oneshot;

use super::failures::LoginPair;
use crate::access::users::StoredHash;
use crate::secret::Secret;

/// What is to be checked.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) hash: StoredHash,
    pub(super) password: Secret,
    /// The hash is the user's own, and not a decoy for somebody unknown.
    pub(super) known: bool,
    /// What the slowest hash of all users takes, roughly.
    pub(super) slowest: Duration,
}

/// Who wants to know.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) pair: LoginPair,
    pub(super) answer: oneshot::Sender<Verdict>,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// With the fingerprint of the hash that it was checked against.
    Right {
        fingerprint: String,
    },
    Wrong,
    /// Not hashed: this user has failed too often from this address.
    Throttled {
        retry_after: Duration,
    },
    /// Not hashed: others took its place.
    CrowdedOut,
}

impl Attempt {
    pub(super) fn verdict(&self, matches: bool) -> Verdict {
        if matches && self.known {
            return Verdict::Right { fingerprint: self.hash.fingerprint() };
        }
        Verdict::Wrong
    }
}

impl Waiter {
    pub(super) fn tell(self, verdict: Verdict) {
        // It fails if the client has hung up.
        let _ = self.answer.send(verdict);
    }
}
