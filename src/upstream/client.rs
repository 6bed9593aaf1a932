//! One registry behind us, as the rest of the proxy sees it.

use std::fmt;
use std::sync::atomic::AtomicBool;

use http::Method;
use tokio::time::Instant;

use super::call::attempt::Call;
use super::call::runner::CallRunner;
use super::error::{Error, Operation};
use super::transport::request::Transport;
use crate::clock::Clock;
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
    /// HEAD of a blob was refused where GET was not. ECR Public refuses it always, and asking again
    /// would cost a token each time (PROTOCOL §2.3).
    pub(super) refuses_blob_head: AtomicBool,
    /// The largest page of tags that the upstream gives: 100 at Quay, 1,000 at ECR.
    pub(super) page_limit: Option<u32>,
    caches_pushes: bool,
    /// Bytes of a manifest.
    pub(super) manifest_max: usize,
    /// Bytes of a page of tags or referrers.
    pub(super) page_max: usize,
}

impl UpstreamClient {
    pub(super) fn new(
        config: &config::Upstream,
        transport: Transport,
        clock: Clock,
        limits: &Limits,
    ) -> Self {
        Self {
            runner: CallRunner::new(config, transport, clock, limits),
            refuses_blob_head: AtomicBool::new(false),
            page_limit: config.page_limit,
            caches_pushes: config.writes == config::Writes::Kept,
            manifest_max: limits.manifest,
            page_max: limits.page,
        }
    }

    pub fn name(&self) -> &UpstreamName {
        self.runner.upstream()
    }

    /// Whether what is pushed to it is kept.
    pub fn caches_pushes(&self) -> bool {
        self.caches_pushes
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
