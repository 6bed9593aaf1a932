//! Which of an upstream's credentials it rejects: one line in the log when that begins and one when
//! it ends, and a gauge, however many requests notice it.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard};

use super::identity::UpstreamIdentity;
use crate::config::WhenRejected;
use crate::metrics::Gauge;
use crate::oci::UpstreamName;
use crate::upstream::error::{FailureClass, Fault};
use crate::upstream::transport::throttle::CredentialIndex;

/// The credentials that an upstream rejects; at most as many as are configured.
#[derive(Debug)]
pub(super) struct RejectedLogins {
    upstream: UpstreamName,
    rejected: Mutex<HashSet<CredentialIndex>>,
    gauge: Gauge,
}

impl RejectedLogins {
    pub(super) fn new(upstream: UpstreamName, gauge: Gauge) -> Self {
        gauge.set(0);
        Self { upstream, rejected: Mutex::default(), gauge }
    }

    /// Takes note of a failure if it is that the upstream rejects the login.
    pub(super) fn note_failure(&self, identity: &UpstreamIdentity, fault: &Fault) {
        if !matches!(fault.kind.class(), FailureClass::Credential | FailureClass::Withdrawn) {
            return;
        }
        let mut rejected = self.rejected();
        if rejected.insert(identity.credential) {
            self.gauge.set(1);
            let (upstream, said) = (&self.upstream, fault.said());
            match identity.when_rejected {
                WhenRejected::ServeStale => tracing::warn!(%upstream, said,
                    "the registry rejects the credential that is configured for it; \
                     what is cached is served for stale_if_error"),
                WhenRejected::Withhold => tracing::warn!(%upstream, said,
                    "the registry has taken back the credential that is configured for it; \
                     what is cached is withheld"),
            }
        }
    }

    /// Takes note that the upstream has accepted the login.
    pub(super) fn note_success(&self, identity: &UpstreamIdentity) {
        let mut rejected = self.rejected();
        if rejected.remove(&identity.credential) {
            self.gauge.set(i64::from(!rejected.is_empty()));
            tracing::warn!(upstream = %self.upstream,
                "the registry accepts the credential again that is configured for it");
        }
    }

    fn rejected(&self) -> MutexGuard<'_, HashSet<CredentialIndex>> {
        self.rejected.lock().expect("nothing panics while it holds the credentials")
    }
}
