//! Whether an upstream may be asked at all. A sealed one is not: no name is looked up for it, no
//! connection made, no helper run. An operator may open it for a while; by itself it is sealed
//! again (SEAL-1, SEAL-2).

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::error::{ErrorKind, FailureClass, Fault, Symptom};
use crate::clock::{Clock, Moment, Timestamp};
use crate::metrics::Gauge;
use crate::oci::UpstreamName;

/// The seal of one upstream. It outlives the clients that a reload replaces, so that a connection of
/// an earlier one is cut as well.
#[derive(Debug)]
pub(super) struct Seal {
    upstream: UpstreamName,
    clock: Clock,
    state: RwLock<SealState>,
    /// 1 while it is sealed.
    shown: Gauge,
}

#[derive(Debug)]
struct SealState {
    /// What the configuration says.
    is_configured: bool,
    /// Opened by a command, although the configuration says that it is sealed.
    window: Option<OpenWindow>,
    /// When it was opened last, since this process began.
    opened: Option<Timestamp>,
    /// Cancelled when it is sealed; another one for each time that it is open.
    cut: CancellationToken,
}

/// While it is open. It ends by the clock that only goes on, whatever the wall clock is set to.
#[derive(Debug)]
struct OpenWindow {
    until: Moment,
    /// Cuts what is still open at its end, and tells.
    _end: AbortOnDropHandle<()>,
}

/// How an upstream stands, for an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealStatus {
    pub upstream: UpstreamName,
    /// What the configuration says.
    pub is_configured: bool,
    /// How long it is still open, if a command has opened it.
    pub open_for: Option<Duration>,
}

/// The upstream is sealed; what connectors say.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("it is sealed")]
pub(super) struct IsSealed;

impl SealState {
    fn is_shut(&self, now: Moment) -> bool {
        self.is_configured && self.window.as_ref().is_none_or(|window| window.until <= now)
    }
}

impl Seal {
    pub(super) fn new(upstream: UpstreamName, is_sealed: bool, clock: Clock, shown: Gauge) -> Self {
        let cut = CancellationToken::new();
        if is_sealed {
            cut.cancel();
            tracing::info!(%upstream, "it is sealed: nothing is asked of it");
        }
        shown.set(i64::from(is_sealed));
        let state = SealState { is_configured: is_sealed, window: None, opened: None, cut };
        Self { upstream, clock, state: RwLock::new(state), shown }
    }

    pub(super) fn is_shut(&self) -> bool {
        self.read().is_shut(self.clock.moment())
    }

    /// # Errors
    /// `Sealed` while it is.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.is_shut() { Err(sealed()) } else { Ok(()) }
    }

    /// What is cancelled once it is sealed, which may be now.
    pub(super) fn cut(&self) -> CancellationToken {
        let state = self.read();
        if !state.is_shut(self.clock.moment()) {
            return state.cut.clone();
        }
        let cut = CancellationToken::new();
        cut.cancel();
        cut
    }

    /// The fault of a call that failed, which is that of the seal if it may be the reason.
    pub(super) fn or_sealed(&self, fault: Fault) -> Fault {
        let says_something = fault.kind.class() != FailureClass::Passing;
        if says_something || !self.is_shut() { fault } else { sealed() }
    }

    /// When it was opened last: what was believed then was as good as confirmed (SEAL-3).
    pub(super) fn opened(&self) -> Option<Timestamp> {
        self.read().opened
    }

    pub(super) fn status(&self) -> SealStatus {
        let (state, now) = (self.read(), self.clock.moment());
        let window = state.window.as_ref().filter(|window| now < window.until);
        let open_for = window.map(|window| window.until.since(now));
        let upstream = self.upstream.clone();
        SealStatus { upstream, is_configured: state.is_configured, open_for }
    }

    /// The configuration says so from now on. What is under way is cut.
    pub(super) fn configure(&self, is_sealed: bool) {
        let now = self.clock.now();
        let mut state = self.write();
        if state.is_configured == is_sealed {
            return;
        }
        state.is_configured = is_sealed;
        state.window = None;
        if is_sealed {
            tracing::info!(upstream = %self.upstream,
                "sealed: nothing is asked of it from now on, and what was under way is cut");
            self.shut(&state);
        } else {
            tracing::info!(upstream = %self.upstream, "it is not sealed any more");
            self.open(&mut state, now);
        }
    }

    /// Opens it for a while, counted from now, also if it is open already; not if its configuration
    /// does not say that it is sealed.
    pub(super) fn open_for(self: &Arc<Self>, time: Duration) {
        let (now, until) = (self.clock.now(), self.clock.moment().plus(time));
        let mut state = self.write();
        if !state.is_configured {
            return;
        }
        let end = tokio::spawn(end_in_time(Arc::downgrade(self)));
        // The task of an earlier window is dropped with it.
        state.window = Some(OpenWindow { until, _end: AbortOnDropHandle::new(end) });
        self.open(&mut state, now);
        tracing::warn!(upstream = %self.upstream, seconds = time.as_secs(),
            "opened by a command, for so long");
    }

    /// Seals it before its time is over.
    pub(super) fn close(&self) {
        let mut state = self.write();
        if state.window.take().is_some() {
            tracing::warn!(upstream = %self.upstream, "sealed again by a command");
            self.shut(&state);
        }
    }

    /// How long it is still open; none if its window has ended, which is told then.
    fn left(&self) -> Option<Duration> {
        let now = self.clock.moment();
        let mut state = self.write();
        let until = state.window.as_ref()?.until;
        if now < until {
            return Some(until.since(now));
        }
        tracing::warn!(upstream = %self.upstream, "sealed again: its time is over");
        self.shut(&state);
        // Last: it is this task that is dropped.
        state.window = None;
        None
    }

    fn open(&self, state: &mut SealState, now: Timestamp) {
        state.opened = Some(now);
        if state.cut.is_cancelled() {
            state.cut = CancellationToken::new();
        }
        self.shown.set(0);
    }

    fn shut(&self, state: &SealState) {
        state.cut.cancel();
        self.shown.set(1);
    }

    fn read(&self) -> RwLockReadGuard<'_, SealState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, SealState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seals what a command has opened, also if nobody asks for anything then.
async fn end_in_time(seal: Weak<Seal>) {
    while let Some(left) = seal.upgrade().and_then(|seal| seal.left()) {
        tokio::time::sleep(left).await;
    }
}

/// Nothing was sent.
pub(super) fn sealed() -> Fault {
    Fault::new(ErrorKind::Sealed, Symptom::Local, "it is sealed; nothing is sent to it")
}
