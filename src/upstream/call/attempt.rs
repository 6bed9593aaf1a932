//! One attempt at an operation: present, follow redirects, and if the registry objects, present
//! something better once.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use http::{Method, StatusCode};
use url::Url;

use crate::oci::{ErrorCode, Repository};
use crate::upstream::answer;
use crate::upstream::auth::challenge::{Challenge, challenges};
use crate::upstream::auth::login::Speaker;
use crate::upstream::auth::scheme::{Auth, Presented};
use crate::upstream::error::{ErrorKind, Failure, Operation, Symptom};
use crate::upstream::transport::body::Incoming;
use crate::upstream::transport::request::{Outbound, Payload, Wire, refused};
use crate::upstream::transport::throttle::Throttle;

const MOST_REDIRECTS: usize = 5;
/// How much of a refusal's text is read.
const LONGEST_TEXT: usize = 64 * 1024;

/// What is asked, in whole; everything that reaches an upstream is made from it.
#[derive(Clone, Debug)]
pub(in crate::upstream) struct Ask<'a> {
    pub(in crate::upstream) operation: Operation,
    pub(in crate::upstream) method: Method,
    pub(in crate::upstream) url: Url,
    pub(in crate::upstream) repository: &'a Repository,
    /// What a token has to allow.
    pub(in crate::upstream) scope: String,
    pub(in crate::upstream) accept: &'static str,
    /// Further headers.
    pub(in crate::upstream) headers: HeaderMap,
    /// What is written, if anything is.
    pub(in crate::upstream) content: Option<Bytes>,
}

/// An answer, and whether a redirect to another origin led to it.
pub(in crate::upstream) struct Arrival {
    pub(in crate::upstream) incoming: Incoming,
    pub(in crate::upstream) abroad: bool,
    /// The text of a refusal, once it has been read.
    text: Option<Bytes>,
}

/// The parts of an upstream that an attempt needs, and who makes it.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct Exchange<'a> {
    pub(in crate::upstream) wire: &'a Wire,
    pub(in crate::upstream) auth: &'a Auth,
    pub(in crate::upstream) throttle: &'a Throttle,
    pub(in crate::upstream) speaker: &'a Speaker,
}

impl Exchange<'_> {
    /// Asks, and answers one objection of the registry; a second one is final (UP-6).
    pub(in crate::upstream) async fn attempt(&self, ask: &Ask<'_>) -> Result<Arrival, Failure> {
        let presented = self.auth.present(self.speaker, &ask.scope).await?;
        let objection = match self.follow(ask, &presented).await?.judged(ask, &presented).await {
            Ok(arrival) => return self.settle(ask, arrival).await,
            Err(objection) => objection,
        };
        let wanted = (self.speaker, ask.scope.as_str());
        let better = self.auth.reconsider(wanted, &objection.challenges, &presented).await?;
        let Some(better) = better else { return Err(objection.failure(&presented)) };
        match self.follow(ask, &better).await?.judged(ask, &better).await {
            Ok(arrival) => self.settle(ask, arrival).await,
            Err(objection) => Err(objection.failure(&better)),
        }
    }

    /// Sends what cannot be sent a second time. An objection is final, but what it teaches is kept
    /// for the next request, and makes it no denial.
    pub(in crate::upstream) async fn send_once(
        &self,
        ask: &Ask<'_>,
        body: reqwest::Body,
    ) -> Result<Arrival, Failure> {
        let presented = self.auth.present(self.speaker, &ask.scope).await?;
        let outbound = Outbound {
            payload: Payload::Stream(body),
            ..ask.outbound(&ask.url, presented.header())
        };
        let incoming = self.wire.send(ask.operation, outbound).await?;
        match Arrival::at_home(incoming).judged(ask, &presented).await {
            Ok(arrival) => self.settle(ask, arrival).await,
            Err(objection) => {
                let wanted = (self.speaker, ask.scope.as_str());
                let better =
                    self.auth.reconsider(wanted, &objection.challenges, &presented).await?;
                Err(better.map_or_else(|| objection.failure(&presented), |_| objection.outdated()))
            }
        }
    }

    /// Sends the request and follows where it is redirected to (RED-1, RED-2).
    async fn follow(&self, ask: &Ask<'_>, presented: &Presented) -> Result<Arrival, Failure> {
        let mut url = ask.url.clone();
        let mut abroad = false;
        for _ in 0..=MOST_REDIRECTS {
            // A credential goes to the origin it belongs to and, once left, is not taken up again.
            let credential = presented.header().filter(|_| !abroad);
            let incoming = self.wire.send(ask.operation, ask.outbound(&url, credential)).await?;
            self.note_rate_limit(ask.operation, incoming.headers());
            // What is written goes to the registry itself or nowhere.
            if !is_redirect(incoming.status()) || ask.operation.is_write() {
                return Ok(Arrival { abroad, ..Arrival::at_home(incoming) });
            }
            let next = self.redirected(&url, &incoming)?;
            incoming.discard().await;
            abroad |= next.origin() != url.origin();
            url = next;
        }
        Err(Failure::protocol(format!("more than {MOST_REDIRECTS} redirects")))
    }

    fn redirected(&self, from: &Url, incoming: &Incoming) -> Result<Url, Failure> {
        let location = incoming.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location =
            location.ok_or_else(|| Failure::protocol("a redirect without a usable Location"))?;
        self.wire.gate.redirect(from, location).map_err(|refusal| match from.join(location) {
            Ok(to) => refused(&to, refusal),
            Err(_) => Failure::protocol("a redirect to something that is not a URL"),
        })
    }

    fn note_rate_limit(&self, operation: Operation, headers: &HeaderMap) {
        let counts = matches!(operation, Operation::ManifestGet | Operation::ManifestHead);
        if let Some(remaining) = answer::rate_limit_remaining(headers).filter(|_| counts) {
            let gauge = &self.wire.metrics().upstream.rate_limit_remaining;
            gauge.with_label_values(&[self.wire.name.as_str()]).set(remaining);
        }
    }

    /// Passes answers with content, and the 416 that an operation may have a use for; the rest are
    /// failures.
    async fn settle(&self, ask: &Ask<'_>, mut arrival: Arrival) -> Result<Arrival, Failure> {
        let (status, write) = (arrival.incoming.status(), ask.operation.is_write());
        if status.is_success() || (status == StatusCode::RANGE_NOT_SATISFIABLE && !write) {
            return Ok(arrival);
        }
        let symptom = Symptom::Status(status.as_u16());
        let answered =
            if arrival.abroad { "the redirect's target answered" } else { "the upstream answered" };
        let reason = format!("{answered} {}", status.as_u16());
        Err(match status.as_u16() {
            429 => {
                self.throttle.close(self.speaker.holder, ask.operation, arrival.incoming.headers())
            }
            code @ 400..500 if write => {
                let code = ErrorKind::Rejected {
                    status: code,
                    code: ErrorCode::of_document(arrival.text().await),
                };
                Failure::new(code, symptom, reason)
            }
            404 => Failure::new(ErrorKind::NotFound, symptom, reason),
            code @ 500.. => Failure::new(ErrorKind::ServerError(code), symptom, reason),
            _ => Failure::new(ErrorKind::Protocol, symptom, reason),
        })
    }
}

impl Ask<'_> {
    fn outbound(&self, url: &Url, credential: Option<&HeaderValue>) -> Outbound {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(self.accept));
        headers.extend(self.headers.clone());
        headers.extend(credential.cloned().map(|credential| (AUTHORIZATION, credential)));
        let payload = self.content.clone().map_or(Payload::Nothing, Payload::Whole);
        Outbound { method: self.method.clone(), url: url.clone(), headers, payload }
    }
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The registry does not take what was presented.
#[derive(Debug)]
struct Objection {
    status: u16,
    challenges: Vec<Challenge>,
    /// The text says that the token is no longer good; after a HEAD, which has none, a bare 400 is
    /// taken to.
    expired: bool,
}

impl Arrival {
    fn at_home(incoming: Incoming) -> Self {
        Self { incoming, abroad: false, text: None }
    }

    /// The text of a refusal; what is longer than any, or breaks off, is none.
    async fn text(&mut self) -> &Bytes {
        if self.text.is_none() {
            self.text = Some(self.incoming.whole(LONGEST_TEXT).await.unwrap_or_default());
        }
        self.text.get_or_insert_default()
    }

    /// Tells an objection from an answer. What storage abroad says is not the registry's word.
    async fn judged(mut self, ask: &Ask<'_>, presented: &Presented) -> Result<Self, Objection> {
        let status = self.incoming.status().as_u16();
        if self.abroad || !matches!(status, 400 | 401 | 403) {
            return Ok(self);
        }
        let challenges = challenges(self.incoming.headers());
        let expired = match presented {
            Presented::Kept(_) if status == 400 && ask.method == Method::HEAD => true,
            _ if challenges.is_empty() && presented.header().is_some() => {
                answer::says_expired(self.text().await)
            }
            Presented::Nothing | Presented::Basic(_) | Presented::Kept(_) | Presented::Fresh(_) => {
                false
            }
        };
        if status == 400 && !expired {
            return Ok(self);
        }
        self.incoming.discard().await;
        Err(Objection { status, challenges, expired })
    }
}

impl Objection {
    /// There is something better to present by now.
    fn outdated(&self) -> Failure {
        let symptom = Symptom::Status(self.status);
        Failure::new(
            ErrorKind::Outdated,
            symptom,
            "the upstream does not take this token any more; the next has another",
        )
    }

    /// What it means once nothing better can be presented (UP-7, UP-9).
    fn failure(&self, presented: &Presented) -> Failure {
        let status = self.status;
        let (kind, what) = match presented {
            Presented::Basic(_) if status == 401 || self.expired => {
                (ErrorKind::CredentialRejected, "rejects the credential")
            }
            Presented::Fresh(_) | Presented::Kept(_) if self.expired => {
                (ErrorKind::CredentialRejected, "rejects its own token")
            }
            Presented::Nothing | Presented::Basic(_) | Presented::Fresh(_) | Presented::Kept(_) => {
                (ErrorKind::Denied, "denies access to the repository")
            }
        };
        Failure::new(kind, Symptom::Status(status), format!("the upstream {what} ({status})"))
    }
}
