//! One registry behind us, as the rest of the proxy sees it.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use http::Method;
use tokio::time::Instant;

use super::call::request::Call;
use super::call::runner::CallRunner;
use super::error::{Error, Operation};
use super::room::PageRoom;
use super::transport::request::Transport;
use crate::clock::{Clock, Moment, Timestamp};
use crate::config;
use crate::limits::Limits;
use crate::oci::{Repository, UpstreamName};

/// One registry behind us; shared by everyone who pulls from it or pushes to it.
///
/// Every operation takes a `deadline` for its login, token, redirects and retries until the
/// response headers, and for manifests and pages the body as well. When it passes the answer is
/// [`Timeout`](super::error::ErrorKind::Timeout).
pub struct UpstreamClient {
    pub(super) runner: CallRunner,
    /// HEAD of a manifest was refused where GET was not.
    pub(super) manifest_head_refused: Learnt,
    /// The same for a blob. ECR Public refuses it always, and asking again would cost a token each
    /// time (PROTOCOL §2.3).
    pub(super) blob_head_refused: Learnt,
    /// The largest page of tags that the upstream gives: 100 at Quay, 1,000 at ECR.
    pub(super) page_limit: Option<u32>,
    shares_with: Vec<UpstreamName>,
    caches_pushes: bool,
    /// Bytes of a manifest.
    pub(super) manifest_max: usize,
    /// For pages of tags and referrers.
    pub(super) page_room: PageRoom,
}

/// How long something is believed that an upstream has shown of itself. It may be mended.
const LEARNT_LIFE: Duration = Duration::from_hours(1);

/// Something that an upstream has shown of itself, believed for a while.
pub(super) struct Learnt {
    clock: Clock,
    until: Mutex<Option<Moment>>,
}

impl Learnt {
    fn new(clock: Clock) -> Self {
        Self { clock, until: Mutex::default() }
    }

    pub(super) fn learn(&self) {
        *self.until.lock().expect("nothing panics while it holds the time") =
            Some(self.clock.moment().plus(LEARNT_LIFE));
    }

    pub(super) fn is_believed(&self) -> bool {
        let until = *self.until.lock().expect("nothing panics while it holds the time");
        until.is_some_and(|until| self.clock.moment() < until)
    }
}

impl UpstreamClient {
    pub(super) fn new(
        config: &config::Upstream,
        transport: Transport,
        clock: Clock,
        limits: &Limits,
        page_room: PageRoom,
    ) -> Self {
        Self {
            manifest_head_refused: Learnt::new(clock.clone()),
            blob_head_refused: Learnt::new(clock.clone()),
            runner: CallRunner::new(config, transport, clock, limits),
            page_limit: config.page_limit,
            shares_with: config.shares_with.clone(),
            caches_pushes: config.writes == config::Writes::Kept,
            manifest_max: limits.manifest,
            page_room,
        }
    }

    pub fn name(&self) -> &UpstreamName {
        self.runner.upstream()
    }

    /// Whether it is sealed: nothing may be asked of it (SEAL-1).
    pub fn is_sealed(&self) -> bool {
        self.runner.seal().is_shut()
    }

    /// Waits until it is sealed.
    pub async fn sealed(&self) {
        self.runner.seal().cut().cancelled().await;
    }

    /// When an operator opened it last. What was believed until then is as good as checked at that
    /// time (SEAL-3).
    pub fn opened(&self) -> Option<Timestamp> {
        self.runner.seal().opened()
    }

    /// Whether what is pushed to it is kept.
    pub fn caches_pushes(&self) -> bool {
        self.caches_pushes
    }

    /// Whether the repository is asked for without any credential.
    pub fn is_anonymous(&self, repository: &Repository) -> bool {
        self.runner.is_anonymous(repository)
    }

    /// Whether what its credentials have brought may be given to readers of `other`, if that says
    /// that it has it too.
    pub fn shares_with(&self, other: &UpstreamName) -> bool {
        self.shares_with.contains(other)
    }

    /// Waits until the login for the repository is known, for which a credential helper may have to
    /// run. The operations do so themselves; this is for those who would keep others waiting
    /// meanwhile.
    pub async fn ensure_login(
        &self,
        repository: &Repository,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.runner.ensure_login(repository, deadline).await
    }

    /// A call that needs the right to push; `path` may have a query behind it.
    pub(super) fn push_call<'a>(
        &self,
        operation: Operation,
        method: Method,
        repository: &'a Repository,
        path: &str,
    ) -> Call<'a> {
        let call = Call::get(operation, repository, self.runner.url(path), "*/*");
        Call { method, scope: format!("repository:{repository}:pull,push"), ..call }
    }
}

impl fmt::Debug for UpstreamClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamClient").field("name", self.name()).finish_non_exhaustive()
    }
}
