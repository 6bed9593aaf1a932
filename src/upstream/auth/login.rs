//! Which login an upstream's configuration has for a repository.
//!
//! The login of a helper is cached, since helpers do not tell how long it lives, and asked for
//! again when the upstream rejects it. A helper that failed is left alone for a moment.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use super::helper::CredentialHelper;
use super::identity::{BasicLogin, UpstreamIdentity};
use crate::clock::{Clock, Moment};
use crate::config::{self, Credential, WhenRejected};
use crate::limits::Limits;
use crate::oci::{Pattern, Repository};
use crate::upstream::error::{ErrorKind, Fault, Symptom};
use crate::upstream::seal::{Seal, sealed};
use crate::upstream::transport::throttle::CredentialIndex;

/// Before a helper is run again that failed, or that was run because the upstream had rejected a
/// login: else each request for a login that is bad for good would start a process.
const HELPER_RERUN_PAUSE: Duration = Duration::from_secs(5);

/// The credentials of one upstream.
#[derive(Debug)]
pub(in crate::upstream) struct Logins {
    /// Longest pattern first, as the configuration has them.
    configured: Vec<ConfiguredLogin>,
}

#[derive(Debug)]
struct ConfiguredLogin {
    /// The repositories that it is for.
    images: Pattern,
    source: LoginSource,
    when_rejected: WhenRejected,
}

#[derive(Debug)]
enum LoginSource {
    Fixed(BasicLogin),
    Helper(Arc<CachedHelper>),
}

impl Logins {
    pub(in crate::upstream) fn new(
        upstream: &config::Upstream,
        clock: &Clock,
        limits: &Limits,
        seal: &Arc<Seal>,
    ) -> Self {
        let configured = |credential: &Credential| {
            let source = match &credential.login {
                config::Login::Fixed { username, password } => {
                    LoginSource::Fixed(BasicLogin::new(username, password.clone()))
                }
                config::Login::Helper { program, server, withheld } => {
                    let (upstream, program, server) =
                        (upstream.name.clone(), program.clone(), server.clone());
                    let (withheld, deadline) = (withheld.clone(), limits.helper);
                    let helper = CredentialHelper { upstream, program, server, withheld, deadline };
                    let helper = CachedHelper::new(helper, clock.clone(), limits.login_life, seal);
                    LoginSource::Helper(Arc::new(helper))
                }
            };
            let Credential { images, when_rejected, .. } = credential;
            ConfiguredLogin { images: images.clone(), source, when_rejected: *when_rejected }
        };
        Self { configured: upstream.credentials.iter().map(configured).collect() }
    }

    /// Which credential is for a repository; known without running a helper.
    pub(in crate::upstream) fn credential(&self, repository: &Repository) -> CredentialIndex {
        let is_for = |login: &ConfiguredLogin| login.images.matches(repository.as_str());
        CredentialIndex(self.configured.iter().position(is_for))
    }

    /// As whom to ask about a repository. Waits for a helper if one has to run; a caller with less
    /// patience may leave.
    ///
    /// # Errors
    /// `NoLogin` if a helper fails.
    pub(in crate::upstream) async fn identity(
        &self,
        repository: &Repository,
    ) -> Result<UpstreamIdentity, Fault> {
        self.resolve(self.credential(repository), None).await
    }

    /// Another identity, now that the upstream has rejected the login of this one; `None` if there
    /// is no other.
    ///
    /// # Errors
    /// `NoLogin` if a helper fails.
    pub(in crate::upstream) async fn instead_of(
        &self,
        rejected: &UpstreamIdentity,
    ) -> Result<Option<UpstreamIdentity>, Fault> {
        let identity = self.resolve(rejected.credential, rejected.login.as_ref()).await?;
        Ok((identity != *rejected).then_some(identity))
    }

    async fn resolve(
        &self,
        credential: CredentialIndex,
        rejected: Option<&BasicLogin>,
    ) -> Result<UpstreamIdentity, Fault> {
        let configured = credential.0.and_then(|index| self.configured.get(index));
        let when_rejected = configured.map(|configured| configured.when_rejected);
        let login = match configured.map(|configured| &configured.source) {
            Some(LoginSource::Fixed(login)) => Some(login.clone()),
            Some(LoginSource::Helper(helper)) => helper.login(rejected).await?,
            None => None,
        };
        Ok(UpstreamIdentity { credential, login, when_rejected: when_rejected.unwrap_or_default() })
    }
}

/// A helper and what it last answered. However many ask, it is run once, by a task that belongs to
/// none of them: a client that leaves does not stop it for the others.
#[derive(Debug)]
struct CachedHelper {
    helper: CredentialHelper,
    seal: Arc<Seal>,
    clock: Clock,
    /// How long a login is used before the helper is asked again.
    login_life: Duration,
    /// Locked while the helper runs, which has a deadline of its own.
    cached: Mutex<Option<CachedLogin>>,
}

/// What a helper answered; a failure is cached too, for a shorter time.
#[derive(Debug)]
struct CachedLogin {
    answer: Result<Option<BasicLogin>, Fault>,
    until: Moment,
    /// From here on the helper is run again if the upstream rejects the login.
    renewable: Moment,
}

impl CachedLogin {
    /// Whether it answers a request that was made at `now`, after the upstream had rejected this
    /// login, if any. A login that somebody else has renewed meanwhile is another than the rejected
    /// one, and good.
    fn is_good(&self, now: Moment, rejected: Option<&BasicLogin>) -> bool {
        let is_rejected =
            rejected.is_some() && matches!(&self.answer, Ok(login) if login.as_ref() == rejected);
        // A login that has just been renewed and is rejected again is bad for good, or until the
        // operator logs in anew: that is looked for every few seconds, not with each request.
        now < self.until && (!is_rejected || now < self.renewable)
    }
}

impl CachedHelper {
    fn new(helper: CredentialHelper, clock: Clock, login_life: Duration, seal: &Arc<Seal>) -> Self {
        let seal = Arc::clone(seal);
        Self { helper, seal, clock, login_life, cached: Mutex::default() }
    }

    /// The cached login, if it is not `rejected`; else what the helper says.
    async fn login(
        self: &Arc<Self>,
        rejected: Option<&BasicLogin>,
    ) -> Result<Option<BasicLogin>, Fault> {
        // Before the wait for the lock: what the helper has told another task meanwhile is new
        // enough for this request, however short its life.
        let now = self.clock.moment();
        let cached = self.cached.lock().await;
        if let Some(cached) = cached.as_ref().filter(|cached| cached.is_good(now, rejected)) {
            return cached.answer.clone();
        }
        drop(cached);
        let renewal = tokio::spawn(self.clone().renew(rejected.cloned()));
        let ended = |error| {
            Fault::new(ErrorKind::NoLogin, Symptom::Local, "the credential helper's task ended")
                .because(error)
        };
        renewal.await.map_err(ended).flatten()
    }

    /// Runs the helper, unless another task has done so while this one waited for the lock.
    async fn renew(
        self: Arc<Self>,
        rejected: Option<BasicLogin>,
    ) -> Result<Option<BasicLogin>, Fault> {
        let mut cached = self.cached.lock().await;
        let now = self.clock.moment();
        let good = cached.as_ref().filter(|cached| cached.is_good(now, rejected.as_ref()));
        if let Some(cached) = good {
            return cached.answer.clone();
        }
        // A helper asks somebody outside for the login. That none is run is not remembered: it says
        // nothing about the helper.
        let cut = self.seal.cut();
        let answer = tokio::select! {
            biased;
            () = cut.cancelled() => return Err(sealed()),
            answer = self.helper.login() => answer,
        };
        // Its life begins when the helper has answered, which may have taken seconds.
        let now = self.clock.moment();
        let until = now.plus(if answer.is_ok() { self.login_life } else { HELPER_RERUN_PAUSE });
        let renewable = if rejected.is_some() { now.plus(HELPER_RERUN_PAUSE) } else { now };
        *cached = Some(CachedLogin { answer: answer.clone(), until, renewable });
        answer
    }
}
