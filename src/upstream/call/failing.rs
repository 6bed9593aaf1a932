//! What keeps failing, each by itself (DESIGN §14.4). An upstream that chokes on one manifest stays
//! open for all others, and is not asked for that manifest by each of a thousand clients.

use std::time::Duration;

use http::Method;
use http::header::RANGE;
use tokio::time::Instant;

use super::request::Call;
use crate::clock::Clock;
use crate::expiring::ExpiringCache;
use crate::upstream::error::{Fault, Operation, Symptom, Unanswered};

/// How long a failure stands for the next ones.
const FAILURE_LIFE: Duration = Duration::from_secs(5);
/// Things that are remembered; the one that was not asked for for longest makes room.
const FAILURES_MAX: u64 = 1024;

/// The reads of one upstream that have just failed.
#[derive(Debug)]
pub(super) struct FailingCalls(ExpiringCache<CallKey, CallFailure>);

/// What was asked for: operation, method, path and query. The method, because a HEAD of a blob that
/// fails is put to a GET of its first byte, which is the same operation (BLOB-13).
type CallKey = (Operation, Method, String);

#[derive(Clone, Debug)]
struct CallFailure {
    fault: Fault,
    /// How long somebody waited, where there was no answer in that time.
    silence: Option<Duration>,
}

impl FailingCalls {
    pub(super) fn new(clock: Clock) -> Self {
        Self(ExpiringCache::new(FAILURES_MAX, clock))
    }

    /// The failure of a moment ago, for somebody who would wait until `deadline`.
    pub(super) fn recent(&self, call: &Call<'_>, deadline: Instant) -> Option<Fault> {
        let CallFailure { fault, silence } = self.0.get(&key(call)?)?;
        // Three seconds of silence, all that the check of a tag has, say nothing to somebody who
        // has half a minute.
        let patience = deadline.saturating_duration_since(Instant::now());
        silence.is_none_or(|silence| patience <= silence * 2).then(|| fault.of_a_moment_ago())
    }

    pub(super) fn note(&self, call: &Call<'_>, fault: &Fault, waited: Duration) {
        let silence = match fault.symptom {
            Symptom::Status(408 | 425 | 499 | 500..) => None,
            // That is the breaker's to judge, not a matter of this one thing.
            _ if fault.unanswered == Some(Unanswered::NoConnection) => return,
            Symptom::Reset => None,
            Symptom::Silence => Some(waited),
            Symptom::Connect
            | Symptom::Cut
            | Symptom::Status(_)
            | Symptom::Answered
            | Symptom::Local => return,
        };
        if let Some(key) = key(call) {
            self.0.insert(key, CallFailure { fault: fault.clone(), silence }, FAILURE_LIFE);
        }
    }

    /// What was written may have been mended by it. The query of a write names further tags, which
    /// are other things.
    pub(super) fn forget(&self, written: &Call<'_>) {
        let path = format!("{}?", written.url.path());
        self.0.remove(&(Operation::ManifestHead, Method::HEAD, path.clone()));
        self.0.remove(&(Operation::ManifestGet, Method::GET, path));
    }
}

fn path_and_query(call: &Call<'_>) -> String {
    format!("{}?{}", call.url.path(), call.url.query().unwrap_or_default())
}

/// `None` for calls that are made whatever came before: writes, which nobody else makes, and the
/// rest of a transfer that broke off, whose pauses are its own.
fn key(call: &Call<'_>) -> Option<CallKey> {
    let is_rest = call.operation == Operation::BlobGet && call.headers.contains_key(RANGE);
    (!call.operation.is_write() && !is_rest)
        .then(|| (call.operation, call.method.clone(), path_and_query(call)))
}
