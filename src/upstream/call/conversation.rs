//! One operation, from the caller's deadline to the registry's answer: between the two gates, with
//! a login, again where that helps.

use std::future::{Future, ready};
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::attempt::{Arrival, Ask, Exchange};
use super::breaker::Permit;
use super::retry;
use crate::oci::Repository;
use crate::upstream::auth::login::Speaker;
use crate::upstream::error::{Error, ErrorKind, Failure, FailureClass, Operation, Symptom};
use crate::upstream::reads::Upstream;

impl Upstream {
    /// Waits until it is known who speaks for the repository, for which a credential helper may
    /// have to run: for those who would keep others waiting while they ask.
    pub async fn know_login(
        &self,
        repository: &Repository,
        deadline: Instant,
    ) -> Result<(), Error> {
        let known = self.speaker(repository, deadline).await;
        known.map(drop).map_err(|failure| failure.during(self.name(), Operation::BlobGet, 0))
    }

    /// Runs an operation until `deadline`.
    pub(in crate::upstream) async fn run<T, F>(
        &self,
        ask: &Ask<'_>,
        deadline: Instant,
        finish: impl Fn(Arrival) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let mut attempts = 0;
        let outcome = self.converse(ask, deadline, &mut attempts, finish).await;
        outcome.map_err(|failure| failure.during(self.name(), ask.operation, attempts))
    }

    /// Sends what cannot be sent a second time, once it is known how this upstream wants to be
    /// asked. The caller sets the deadline of the sending itself.
    pub(in crate::upstream) async fn run_once(
        &self,
        ask: &Ask<'_>,
        body: reqwest::Body,
    ) -> Result<Arrival, Error> {
        self.meet(ask).await?;
        let sent = self.send_once(ask, body).await;
        sent.map_err(|failure| failure.during(self.name(), ask.operation, 1))
    }

    /// Finds out how the registry wants to be asked, as far as it says: a body could not be sent
    /// again after a challenge.
    async fn meet(&self, ask: &Ask<'_>) -> Result<(), Error> {
        if self.met.load(Ordering::Relaxed) || self.auth.knows_scheme() {
            return Ok(());
        }
        let ping = Ask {
            scope: ask.scope.clone(),
            ..self.get(ask.operation, ask.repository, "/v2/", "*/*")
        };
        match self.run(&ping, Instant::now() + self.login_limit, |_| ready(Ok(()))).await {
            Err(error)
                if !matches!(error.class(), FailureClass::Refused | FailureClass::Absent) =>
            {
                Err(error)
            }
            Ok(()) | Err(_) => {
                self.met.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    async fn send_once(&self, ask: &Ask<'_>, body: reqwest::Body) -> Result<Arrival, Failure> {
        self.throttle.check(self.logins.holder(ask.repository), ask.operation)?;
        let speaker = self.speaker(ask.repository, Instant::now() + self.login_limit).await?;
        let permit = self.reachability.admit().ok_or_else(left_alone)?;
        let sent = self.exchange(&speaker).send_once(ask, body).await;
        report(permit, Ok::<_, Failure>(sent))
    }

    /// Asks between the two gates and tells them how it went; once more if the login is rejected
    /// and there is another.
    ///
    /// Waiting for a login is no fault of the upstream, so it happens before the reachability
    /// gate's permit.
    async fn converse<T, F>(
        &self,
        ask: &Ask<'_>,
        deadline: Instant,
        attempts: &mut u32,
        finish: impl Fn(Arrival) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.throttle.check(self.logins.holder(ask.repository), ask.operation)?;
        let mut speaker = self.speaker(ask.repository, deadline).await?;
        let mut is_last = false;
        loop {
            let permit = self.reachability.admit().ok_or_else(left_alone)?;
            let outcome =
                tokio::time::timeout_at(deadline, self.persist(ask, &speaker, attempts, &finish))
                    .await;
            let outcome = report(permit, outcome);
            let is_rejected = outcome
                .as_ref()
                .is_err_and(|failure| failure.kind == ErrorKind::CredentialRejected);
            if is_last || !is_rejected {
                return outcome;
            }
            let Some(other) = in_time(deadline, self.logins.instead_of(&speaker)).await? else {
                return outcome;
            };
            (speaker, is_last) = (other, true);
        }
    }

    async fn speaker(
        &self,
        repository: &Repository,
        deadline: Instant,
    ) -> Result<Speaker, Failure> {
        if self.reachability.is_shut() {
            return Err(left_alone());
        }
        in_time(deadline, self.logins.speaker(repository)).await
    }

    /// Attempts until it works or `retry` says that it will not.
    async fn persist<T, F>(
        &self,
        ask: &Ask<'_>,
        speaker: &Speaker,
        attempts: &mut u32,
        finish: impl Fn(Arrival) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        loop {
            *attempts += 1;
            let failure = match self.exchange(speaker).attempt(ask).await {
                Ok(arrival) => match finish(arrival).await {
                    Ok(done) => return Ok(done),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let Some(pause) = retry::pause(failure.symptom, *attempts, self.retry_pause, chance())
            else {
                return Err(failure);
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn exchange<'a>(&'a self, speaker: &'a Speaker) -> Exchange<'a> {
        Exchange { wire: &self.wire, auth: &self.auth, throttle: &self.throttle, speaker }
    }
}

/// Tells the reachability gate what an operation showed.
fn report<T, E>(permit: Permit<'_>, outcome: Result<Result<T, Failure>, E>) -> Result<T, Failure> {
    match outcome {
        Ok(Ok(done)) => {
            permit.reached();
            Ok(done)
        }
        Ok(Err(failure)) => {
            permit.failed(failure.symptom);
            Err(failure)
        }
        Err(_) => {
            permit.timed_out();
            Err(Failure::new(ErrorKind::Timeout, Symptom::Silence, "no answer in time"))
        }
    }
}

fn left_alone() -> Failure {
    Failure::new(
        ErrorKind::Unreachable,
        Symptom::Local,
        "it has been unreachable and is left alone",
    )
}

/// Waits for a login until the caller's deadline.
async fn in_time<T>(
    deadline: Instant,
    login: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let late = |_| {
        Failure::new(
            ErrorKind::Timeout,
            Symptom::Local,
            "no login in time from the credential helper",
        )
    };
    tokio::time::timeout_at(deadline, login).await.map_err(late).flatten()
}

/// Between 0 and 1; without a source of randomness, 0.
fn chance() -> f64 {
    let mut bytes = [0; 2];
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    filled.map_or(0.0, |()| f64::from(u16::from_le_bytes(bytes)) / 65536.0)
}
