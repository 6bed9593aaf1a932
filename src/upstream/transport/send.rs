//! The way of every request: past the breaker of whoever is asked, and what its fate says about
//! them (DESIGN §14.4).
//!
//! Hosts that the upstream has named count request by request, here. The registry itself counts
//! operation by operation, in `call`: one that is tried three times is one failure.

use std::sync::Arc;

use http::{HeaderMap, Method};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::body::HttpResponse;
use super::breaker::{Admission, Consequence};
use super::gate::origin_of;
use super::reachability::BreakerKey;
use super::request::{HttpRequest, RequestBody, Transport};
use crate::upstream::error::{Direction, ErrorKind, Fault, Operation, Symptom, Unanswered};

impl Transport {
    /// Leave to ask the registry itself. When it has been left alone for its pause, one caller
    /// waits here for a ping.
    ///
    /// # Errors
    /// `Unreachable` while it is left alone.
    pub(in crate::upstream) async fn admit(
        self: &Arc<Self>,
        direction: Direction,
        deadline: Instant,
    ) -> Result<(), Fault> {
        self.admit_by(&BreakerKey::Registry(direction), Some(deadline)).await
    }

    /// Sends one request and waits for the headers of its answer, until `deadline` if there is one.
    ///
    /// # Errors
    /// `Timeout` at the deadline; `Unreachable` if the host is not the registry's and is left
    /// alone; else as [`Transport::exchange`].
    pub(in crate::upstream) async fn send(
        self: &Arc<Self>,
        operation: Operation,
        request: HttpRequest,
        deadline: Option<Instant>,
    ) -> Result<HttpResponse, Fault> {
        let url = request.url.clone();
        let host = (!self.gate.is_home(&url)).then(|| BreakerKey::host(&url));
        if let Some(host) = &host {
            self.admit_by(host, deadline).await?;
        }
        let exchange = self.exchange(operation, request);
        let late = || Err(silent(&url));
        let answer = in_time(deadline, exchange).await.unwrap_or_else(late);
        if let Some(host) = host {
            let answer = answer.inspect(|_| self.reachability.answered(&host));
            answer.inspect_err(|fault| self.note(&host, how(fault), fault))
        } else {
            let answer = answer.inspect(|_| self.reachability.registry_answered());
            answer.map_err(|mut fault| {
                fault.unanswered = how(&fault);
                fault
            })
        }
    }

    /// Takes note of an operation that failed because the registry did not answer.
    pub(in crate::upstream) fn note_failure(self: &Arc<Self>, direction: Direction, fault: &Fault) {
        self.note(&BreakerKey::Registry(direction), fault.unanswered, fault);
    }

    fn note(self: &Arc<Self>, key: &BreakerKey, how: Option<Unanswered>, fault: &Fault) {
        let consequence = how.map(|how| self.reachability.unanswered(key, how, fault));
        if consequence == Some(Consequence::Ping) {
            // Not waited for: whoever met the silence is told so now.
            drop(self.ping(key.clone()));
        }
    }

    async fn admit_by(
        self: &Arc<Self>,
        key: &BreakerKey,
        deadline: Option<Instant>,
    ) -> Result<(), Fault> {
        let is_admitted = match self.reachability.admit(key) {
            Admission::Granted => true,
            Admission::Refused => false,
            Admission::AfterPing => {
                let answered = in_time(deadline, self.ping(key.clone())).await;
                answered.is_some_and(|answered| answered.unwrap_or(false))
            }
        };
        if is_admitted { Ok(()) } else { Err(left_alone(key)) }
    }

    /// Finds out whether anybody is there, in a task of its own: it decides for everybody, and
    /// whoever has caused it may leave at any time. Whether there was an answer.
    fn ping(self: &Arc<Self>, key: BreakerKey) -> JoinHandle<bool> {
        let transport = Arc::clone(self);
        tokio::spawn(async move {
            let url = transport.ping_url(&key);
            let (method, headers) = (Method::GET, HeaderMap::new());
            let request =
                HttpRequest { method, url: url.clone(), headers, body: RequestBody::Empty };
            let exchange = transport.exchange(Operation::Ping, request);
            let deadline = Instant::now() + transport.ping_time;
            let answer =
                in_time(Some(deadline), exchange).await.unwrap_or_else(|| Err(silent(&url)));
            match &answer {
                Ok(_) => transport.reachability.answered(&key),
                Err(fault) if how(fault).is_some() => {
                    transport.reachability.ping_unanswered(&key, fault);
                }
                Err(_) => transport.reachability.ping_given_up(&key),
            }
            answer.is_ok()
        })
    }

    /// What is cheap for whoever is asked; any status will do.
    fn ping_url(&self, key: &BreakerKey) -> Url {
        match key {
            BreakerKey::Registry(_) => self.gate.home_url("/v2/"),
            BreakerKey::Host(root) => root.clone(),
        }
    }
}

async fn in_time<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.ok(),
        None => Some(work.await),
    }
}

fn silent(url: &Url) -> Fault {
    let reason = format!("no answer in time from {}", origin_of(url));
    Fault::new(ErrorKind::Timeout, Symptom::Silence, reason)
}

fn left_alone(key: &BreakerKey) -> Fault {
    let who = match key {
        BreakerKey::Registry(_) => "it".to_owned(),
        BreakerKey::Host(root) => origin_of(root),
    };
    let reason = format!("{who} has been unreachable and is left alone");
    Fault::new(ErrorKind::Unreachable, Symptom::Local, reason)
}

/// What a failure says about whoever was asked; `None` if nothing.
fn how(fault: &Fault) -> Option<Unanswered> {
    match (fault.symptom, &fault.kind) {
        // A connection that does not come about in time is `Unreachable`; an answer is `Timeout`.
        (Symptom::Connect, _) | (Symptom::Silence, ErrorKind::Unreachable) => {
            Some(Unanswered::NoConnection)
        }
        (Symptom::Silence | Symptom::Reset, _) => Some(Unanswered::NoAnswer),
        (Symptom::Cut | Symptom::Status(_) | Symptom::Answered | Symptom::Local, _) => None,
    }
}
