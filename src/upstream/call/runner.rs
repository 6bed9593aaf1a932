//! One operation, from the caller's deadline to the registry's answer: past the throttle and the
//! breaker, with a login, again where that helps.

use std::future::{Future, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use url::Url;

use super::attempt::CallAttempt;
use super::failing::FailingCalls;
use super::request::Call;
use super::response::CallResponse;
use super::retry;
use crate::clock::Clock;
use crate::config;
use crate::limits::Limits;
use crate::oci::{Repository, UpstreamName};
use crate::upstream::auth::identity::UpstreamIdentity;
use crate::upstream::auth::login::Logins;
use crate::upstream::auth::scheme::Authenticator;
use crate::upstream::auth::token::{TokenCache, TokenEndpoint};
use crate::upstream::error::{Error, ErrorKind, FailureClass, Fault, Operation, Symptom};
use crate::upstream::seal::Seal;
use crate::upstream::transport::feed::UploadBody;
use crate::upstream::transport::request::Transport;
use crate::upstream::transport::throttle::{CredentialIndex, Throttle, ThrottleKey, ThrottlePass};

/// Runs the operations of one upstream.
#[derive(Debug)]
pub(in crate::upstream) struct CallRunner {
    transport: Arc<Transport>,
    logins: Logins,
    auth: Authenticator,
    throttle: Arc<Throttle>,
    failing: FailingCalls,
    /// It has been pinged for its authentication scheme. Remembered apart from the scheme, since an
    /// open registry never tells one and would be pinged before every chunk of an upload.
    auth_probed: AtomicBool,
    /// Before the first retry.
    retry_pause: Duration,
}

/// Until when a call may run, and how often it has been sent.
struct CallBudget {
    deadline: Instant,
    attempts: u32,
}

impl CallRunner {
    pub(in crate::upstream) fn new(
        config: &config::Upstream,
        transport: Transport,
        clock: Clock,
        limits: &Limits,
    ) -> Self {
        let transport = Arc::new(transport);
        let throttle = Arc::new(Throttle::new(config.name.clone(), clock.clone()));
        let tokens = TokenCache::new(TokenEndpoint {
            transport: transport.clone(),
            throttle: throttle.clone(),
            clock: clock.clone(),
            time_limit: limits.head,
            settling_time: limits.token_settling,
        });
        Self {
            logins: Logins::new(config, &clock, limits, &transport.seal),
            auth: Authenticator::new(transport.clone(), tokens),
            transport,
            throttle,
            failing: FailingCalls::new(clock),
            auth_probed: AtomicBool::new(false),
            retry_pause: limits.retry_pause,
        }
    }

    pub(in crate::upstream) fn upstream(&self) -> &UpstreamName {
        &self.transport.name
    }

    pub(in crate::upstream) fn seal(&self) -> &Seal {
        &self.transport.seal
    }

    /// `path`, and the query behind it, at the registry itself.
    pub(in crate::upstream) fn url(&self, path: &str) -> Url {
        self.transport.gate.home_url(path)
    }

    pub(in crate::upstream) fn is_anonymous(&self, repository: &Repository) -> bool {
        self.logins.credential(repository) == CredentialIndex(None)
    }

    /// Waits until the login for the repository is known. A failure is one of the blob's download,
    /// for which alone this is called.
    pub(in crate::upstream) async fn ensure_login(
        &self,
        repository: &Repository,
        deadline: Instant,
    ) -> Result<(), Error> {
        let identity = self.identity(Operation::BlobGet, repository, deadline).await;
        identity.map(drop).map_err(|fault| {
            self.seal().or_sealed(fault).during(self.upstream(), Operation::BlobGet, 0)
        })
    }

    /// Runs a call until `deadline`; `finish` reads its answer.
    ///
    /// The calls are boxed: they are large, and whatever may come to call an upstream would carry
    /// the room for it, requests that are answered from the cache as well.
    pub(in crate::upstream) async fn run<T, F>(
        &self,
        call: &Call<'_>,
        deadline: Instant,
        finish: impl Fn(CallResponse) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        // Outside of the future that the deadline may drop, so that the error can tell it.
        let mut budget = CallBudget { deadline, attempts: 0 };
        // First: whoever is left alone, or has just failed, is sealed all the same.
        let refused = self.seal().check().err();
        let outcome = match refused.or_else(|| self.failing.recent(call, deadline)) {
            Some(fault) => Err(fault),
            None => Box::pin(self.run_with_login(call, &mut budget, finish)).await,
        };
        outcome.map_err(|fault| {
            self.seal().or_sealed(fault).during(self.upstream(), call.operation, budget.attempts)
        })
    }

    /// Sends a body that cannot be sent a second time, once the authentication scheme is known. All
    /// that comes before the body, ping, login and token, ends at `login_deadline`; the caller sets
    /// the deadline of the sending itself.
    pub(in crate::upstream) async fn run_once(
        &self,
        call: &Call<'_>,
        body: UploadBody,
        login_deadline: Instant,
    ) -> Result<CallResponse, Error> {
        let refused = |fault: Fault| fault.during(self.upstream(), call.operation, 0);
        self.seal().check().map_err(refused)?;
        self.learn_auth_scheme(call, login_deadline).await?;
        let sent = Box::pin(self.send_once(call, body, login_deadline)).await;
        sent.map_err(|fault| {
            self.seal().or_sealed(fault).during(self.upstream(), call.operation, 1)
        })
    }

    /// Pings the registry unless its authentication scheme is known: after a challenge the body
    /// could not be sent again.
    async fn learn_auth_scheme(&self, call: &Call<'_>, deadline: Instant) -> Result<(), Error> {
        // Two uploads that begin at once may both ping, which harms nobody.
        if self.auth_probed.load(Ordering::Relaxed) || self.auth.knows_scheme() {
            return Ok(());
        }
        let ping = Call::get(call.operation, call.repository, self.url("/v2/"), "*/*");
        let ping = Call { scope: call.scope.clone(), ..ping };
        let pinged = self.run(&ping, deadline, |_| ready(Ok(()))).await;
        // A denial has told the scheme, and a registry may have nothing at /v2/, not even an error
        // document: what the upload itself is answered counts.
        if let Err(error) = pinged
            && !matches!(error.class(), FailureClass::Refused | FailureClass::Absent)
            && *error.kind() != ErrorKind::UnconfirmedAbsence
        {
            return Err(error);
        }
        self.auth_probed.store(true, Ordering::Relaxed);
        Ok(())
    }

    async fn send_once(
        &self,
        call: &Call<'_>,
        body: UploadBody,
        login_deadline: Instant,
    ) -> Result<CallResponse, Fault> {
        let pass = self.throttle.check(self.throttle_key(call))?;
        let identity = self.identity(call.operation, call.repository, login_deadline).await?;
        let attempt = self.attempt(&identity, Some(login_deadline));
        let outcome = match timeout_at(login_deadline, attempt.authorise(call)).await {
            // No deadline from here on: how long an upload takes depends on its client, and the
            // caller watches both sides.
            Ok(Ok(authorization)) => {
                let attempt = CallAttempt { deadline: None, ..attempt };
                attempt.send_once(call, authorization, body).await
            }
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(late()),
        };
        self.report(call, pass, &outcome);
        outcome
    }

    /// Runs the call with the login for its repository; once more if the upstream rejects that and
    /// there is another.
    async fn run_with_login<T, F>(
        &self,
        call: &Call<'_>,
        budget: &mut CallBudget,
        finish: impl Fn(CallResponse) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let deadline = budget.deadline;
        // Before the login: no helper is run for a request that may not be sent.
        let pass = self.throttle.check(self.throttle_key(call))?;
        let mut identity = self.identity(call.operation, call.repository, deadline).await?;
        let started = Instant::now();
        let mut outcome =
            by(deadline, self.run_with_retries(call, &identity, budget, &finish)).await;
        // A helper may have a newer login, as ECR's passwords end after 12 hours.
        if outcome.as_ref().is_err_and(|fault| fault.kind == identity.rejection())
            && let Some(other) = in_time(deadline, self.logins.instead_of(&identity)).await?
        {
            identity = other;
            outcome = by(deadline, self.run_with_retries(call, &identity, budget, &finish)).await;
        }
        match &outcome {
            Ok(_) if call.operation.is_write() => self.failing.forget(call),
            Ok(_) => {}
            Err(fault) => self.failing.note(call, fault, started.elapsed()),
        }
        self.report(call, pass, &outcome);
        outcome
    }

    fn throttle_key(&self, call: &Call<'_>) -> ThrottleKey {
        ThrottleKey::of(self.logins.credential(call.repository), call.operation)
    }

    /// The identity for a repository, once the upstream may be asked: no helper is run for one that
    /// is left alone. Waiting for a helper is no fault of the upstream.
    async fn identity(
        &self,
        operation: Operation,
        repository: &Repository,
        deadline: Instant,
    ) -> Result<UpstreamIdentity, Fault> {
        self.seal().check()?;
        self.transport.admit(operation.direction(), deadline).await?;
        in_time(deadline, self.logins.identity(repository)).await
    }

    /// Tells both gates how a call went.
    fn report<T>(&self, call: &Call<'_>, pass: ThrottlePass<'_>, outcome: &Result<T, Fault>) {
        match outcome {
            Ok(_) => pass.answered(),
            Err(fault) => {
                // A failure says nothing of the rate; the next call asks again.
                if matches!(fault.symptom, Symptom::Status(400..500) | Symptom::Answered)
                    && !matches!(fault.kind, ErrorKind::RateLimited { .. })
                {
                    pass.answered();
                }
                self.transport.note_failure(call.operation.direction(), fault);
            }
        }
    }

    /// Sends the call until it works or `retry` says that it will not. A pause that would end after
    /// the deadline is not slept: its fault says more than a timeout would.
    async fn run_with_retries<T, F>(
        &self,
        call: &Call<'_>,
        identity: &UpstreamIdentity,
        budget: &mut CallBudget,
        finish: impl Fn(CallResponse) -> F,
    ) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        loop {
            budget.attempts += 1;
            let fault = match self.attempt(identity, Some(budget.deadline)).send(call).await {
                Ok(response) => match finish(response).await {
                    Ok(done) => return Ok(done),
                    Err(fault) => fault,
                },
                Err(fault) => fault,
            };
            let pause = retry::pause(fault.symptom, budget.attempts, self.retry_pause, jitter());
            match pause.map(|pause| Instant::now() + pause) {
                Some(end) if end < budget.deadline => tokio::time::sleep_until(end).await,
                Some(_) | None => return Err(fault),
            }
        }
    }

    fn attempt<'a>(
        &'a self,
        identity: &'a UpstreamIdentity,
        deadline: Option<Instant>,
    ) -> CallAttempt<'a> {
        let Self { transport, auth, throttle, .. } = self;
        CallAttempt { transport, auth, throttle, identity, deadline }
    }
}

/// The deadline passed while a token was waited for, or within a body.
fn late() -> Fault {
    Fault::new(ErrorKind::Timeout, Symptom::Silence, "no answer in time")
}

/// Waits for an answer until the deadline.
async fn by<T>(
    deadline: Instant,
    answer: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    timeout_at(deadline, answer).await.unwrap_or_else(|_| Err(late()))
}

/// Waits for a login until the caller's deadline. The helper runs on for those who wait longer.
async fn in_time<T>(
    deadline: Instant,
    login: impl Future<Output = Result<T, Fault>>,
) -> Result<T, Fault> {
    let late = |_| {
        let reason = "no login in time from the credential helper";
        Fault::new(ErrorKind::Timeout, Symptom::Local, reason)
    };
    timeout_at(deadline, login).await.map_err(late).flatten()
}

/// Between 0 and 1; without a source of randomness, 0.
fn jitter() -> f64 {
    let mut bytes = [0; 2];
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    filled.map_or(0.0, |()| f64::from(u16::from_le_bytes(bytes)) / 65536.0)
}
