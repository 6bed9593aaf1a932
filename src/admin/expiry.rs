//! What we present and what ends by itself: the certificate for clients, and the licences for
//! upstreams. Their ends are metrics, and a warning a day from [`EXPIRY_NOTICE`] on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, Timestamp};
use crate::licence::{EXPIRY_NOTICE, calendar};
use crate::metrics::{ExpiryMetrics, Metrics};
use crate::server::Service;
use crate::upstream::{PresentedLicence, Upstreams};

/// Between two warnings about the same thing.
const WARNING_INTERVAL: Duration = Duration::from_hours(24);

/// Looks at what ends.
#[derive(Debug)]
pub(crate) struct Expiries {
    service: Arc<Service>,
    upstreams: Arc<Upstreams>,
    clock: Clock,
    metrics: Arc<Metrics>,
}

/// When one thing ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Ending {
    Certificate,
    Licence(PresentedLicence),
}

impl Expiries {
    pub(crate) fn new(service: Arc<Service>, upstreams: Arc<Upstreams>, clock: Clock) -> Self {
        let metrics = Arc::clone(&service.metrics);
        Self { service, upstreams, clock, metrics }
    }

    /// Shows what is presented now, with when it ends.
    pub(super) fn measure(&self) {
        let ExpiryMetrics { certificate, licence } = &self.metrics.expiry;
        certificate.reset();
        licence.reset();
        for (what, ends) in self.presented() {
            let seconds = i64::try_from(ends.unix().as_secs()).unwrap_or(i64::MAX);
            match what {
                Ending::Certificate => certificate.with_label_values::<&str>(&[]).set(seconds),
                Ending::Licence(PresentedLicence { upstream, id, .. }) => {
                    licence.with_label_values(&[upstream.as_str(), id.as_str()]).set(seconds);
                }
            }
        }
    }

    /// Warns for as long as it runs; never returns.
    pub(crate) async fn warn(self: Arc<Self>) {
        let mut warned = HashMap::new();
        loop {
            self.warn_once(&mut warned);
            tokio::time::sleep(self.service.limits.expiry_check).await;
        }
    }

    fn warn_once(&self, warned: &mut HashMap<Ending, Timestamp>) {
        let now = self.clock.now();
        warned.retain(|_, at| now.is_within(WARNING_INTERVAL, *at));
        for (what, ends) in self.presented() {
            if ends.since(now) <= EXPIRY_NOTICE && !warned.contains_key(&what) {
                what.warn(ends, now);
                warned.insert(what, now);
            }
        }
    }

    fn presented(&self) -> Vec<(Ending, Timestamp)> {
        let certificate = self.service.certificate_end().map(|ends| (Ending::Certificate, ends));
        let licences = self.upstreams.licences().into_iter();
        let licences = licences.map(|licence| {
            let ends = licence.expires;
            (Ending::Licence(licence), ends)
        });
        certificate.into_iter().chain(licences).collect()
    }
}

impl Ending {
    fn warn(&self, ends: Timestamp, now: Timestamp) {
        let day = calendar::day(ends);
        let verb = if ends > now { "ends" } else { "has ended" };
        match self {
            Self::Certificate => {
                tracing::warn!(on = %day, "the certificate for clients {verb} on {day}");
            }
            Self::Licence(PresentedLicence { upstream, id, issuer, .. }) => tracing::warn!(
                %upstream,
                licence = %id,
                on = %day,
                "licence {id} for {upstream} {verb} on {day}; ask {issuer} for another"
            ),
        }
    }
}
