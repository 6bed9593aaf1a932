//! Who speaks to an upstream: the credential that is for a repository, and the login that it stands
//! for at the moment.
//!
//! The login of a helper is kept for a while, since helpers do not tell how long it lives, and
//! asked for again when the upstream rejects it. A helper that failed is left alone for a moment.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use tokio::sync::Mutex;

use super::helper::Helper;
use crate::clock::{Clock, Timestamp};
use crate::config::{self, Credential};
use crate::limits::Limits;
use crate::oci::{Pattern, Repository};
use crate::secret::Secret;
use crate::upstream::error::{ErrorKind, Failure, Symptom};

/// Before a helper is run again that failed, or that was run because the upstream had rejected a
/// login.
const PAUSE: Duration = Duration::from_secs(5);

/// Which of an upstream's credentials speaks, if any: for the keys of the throttle's gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::upstream) struct Holder(pub(in crate::upstream) Option<usize>);

/// A user and a password on their way to the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct Login {
    username: Arc<str>,
    password: Secret,
}

impl Login {
    pub(in crate::upstream) fn new(username: &str, password: Secret) -> Self {
        Self { username: username.into(), password }
    }

    pub(in crate::upstream) fn username(&self) -> &str {
        &self.username
    }

    pub(in crate::upstream) fn password(&self) -> &str {
        self.password.expose()
    }

    /// The value of an `Authorization` header, marked sensitive.
    pub(in crate::upstream) fn basic(&self) -> HeaderValue {
        let encoded = STANDARD.encode(format!("{}:{}", self.username(), self.password()));
        let mut value =
            HeaderValue::try_from(format!("Basic {encoded}")).expect("base64 is visible ASCII");
        value.set_sensitive(true);
        value
    }
}

/// Who speaks in one operation. What was bought with one login is never used for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::upstream) struct Speaker {
    pub(in crate::upstream) holder: Holder,
    /// None: anonymously.
    pub(in crate::upstream) login: Option<Login>,
}

impl Hash for Speaker {
    /// By the holder alone, which equal speakers share, so that no secret is hashed.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.holder.hash(state);
    }
}

/// The credentials of one upstream.
#[derive(Debug)]
pub(in crate::upstream) struct Logins {
    /// Longest pattern first, as the configuration has them.
    sources: Vec<(Pattern, Source)>,
}

#[derive(Debug)]
enum Source {
    Fixed(Login),
    Helper(Arc<Keeper>),
}

impl Logins {
    pub(in crate::upstream) fn new(
        upstream: &config::Upstream,
        clock: &Clock,
        limits: &Limits,
    ) -> Self {
        let source = |credential: &Credential| {
            let source = match &credential.login {
                config::Login::Fixed { username, password } => {
                    Source::Fixed(Login::new(username, password.clone()))
                }
                config::Login::Helper { program, server } => {
                    let (upstream, program, server) =
                        (upstream.name.clone(), program.clone(), server.clone());
                    let helper = Helper { upstream, program, server, deadline: limits.helper };
                    Source::Helper(Arc::new(Keeper::new(helper, clock.clone(), limits.login_life)))
                }
            };
            (credential.images.clone(), source)
        };
        Self { sources: upstream.credentials.iter().map(source).collect() }
    }

    /// Which credential is for a repository.
    pub(in crate::upstream) fn holder(&self, repository: &Repository) -> Holder {
        Holder(self.sources.iter().position(|(images, _)| images.matches(repository.as_str())))
    }

    /// Who speaks for a repository.
    ///
    /// # Errors
    /// `NoLogin` if a helper fails.
    pub(in crate::upstream) async fn speaker(
        &self,
        repository: &Repository,
    ) -> Result<Speaker, Failure> {
        self.resolve(self.holder(repository), None).await
    }

    /// Who speaks now that the upstream has rejected the login of `rejected`; `None` if nobody else
    /// does.
    ///
    /// # Errors
    /// `NoLogin` if a helper fails.
    pub(in crate::upstream) async fn instead_of(
        &self,
        rejected: &Speaker,
    ) -> Result<Option<Speaker>, Failure> {
        let speaker = self.resolve(rejected.holder, rejected.login.as_ref()).await?;
        Ok((speaker != *rejected).then_some(speaker))
    }

    async fn resolve(&self, holder: Holder, rejected: Option<&Login>) -> Result<Speaker, Failure> {
        let login = match holder.0.and_then(|index| self.sources.get(index)) {
            Some((_, Source::Fixed(login))) => Some(login.clone()),
            Some((_, Source::Helper(keeper))) => keeper.login(rejected).await?,
            None => None,
        };
        Ok(Speaker { holder, login })
    }
}

/// Keeps what one helper answered. It is run once, however many ask, by a task that belongs to none
/// of them.
#[derive(Debug)]
struct Keeper {
    helper: Helper,
    clock: Clock,
    life: Duration,
    /// Locked while the helper runs, which has a deadline.
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    answer: Result<Option<Login>, Failure>,
    until: Timestamp,
    /// From here on the helper is run again if the upstream rejects the login.
    renewable: Timestamp,
}

impl Kept {
    fn is_good(&self, now: Timestamp, rejected: Option<&Login>) -> bool {
        let is_rejected =
            rejected.is_some() && matches!(&self.answer, Ok(login) if login.as_ref() == rejected);
        now < self.until && (!is_rejected || now < self.renewable)
    }
}

impl Keeper {
    fn new(helper: Helper, clock: Clock, life: Duration) -> Self {
        Self { helper, clock, life, kept: Mutex::default() }
    }

    /// The login that is kept, if it is not `rejected`; else what the helper says.
    async fn login(self: &Arc<Self>, rejected: Option<&Login>) -> Result<Option<Login>, Failure> {
        let now = self.clock.now();
        if let Some(kept) =
            self.kept.lock().await.as_ref().filter(|kept| kept.is_good(now, rejected))
        {
            return kept.answer.clone();
        }
        let asking = tokio::spawn(self.clone().ask(rejected.cloned()));
        let ended = |error| {
            Failure::new(ErrorKind::NoLogin, Symptom::Local, "the credential helper's task ended")
                .because(error)
        };
        asking.await.map_err(ended).flatten()
    }

    /// Runs the helper unless somebody else has meanwhile.
    async fn ask(self: Arc<Self>, rejected: Option<Login>) -> Result<Option<Login>, Failure> {
        let mut kept = self.kept.lock().await;
        let now = self.clock.now();
        if let Some(kept) = kept.as_ref().filter(|kept| kept.is_good(now, rejected.as_ref())) {
            return kept.answer.clone();
        }
        let answer = self.helper.login().await;
        let now = self.clock.now();
        let until = now.plus(if answer.is_ok() { self.life } else { PAUSE });
        let renewable = if rejected.is_some() { now.plus(PAUSE) } else { now };
        *kept = Some(Kept { answer: answer.clone(), until, renewable });
        answer
    }
}
