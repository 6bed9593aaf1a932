//! The operations of one upstream: what is asked for each, how long, how often, and what its answer must look like.

use std::fmt;
use std::future::{Future, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method};
use tokio::time::Instant;
use url::Url;

use super::auth::Auth;
use super::breaker::{Permit, Reachability};
use super::error::{Error, ErrorKind, Failure, Operation, Symptom};
use super::exchange::{Arrival, Ask, Exchange};
use super::login::{Logins, Speaker};
use super::throttle::Throttle;
use super::token::{Source, Tokens};
use super::wire::Wire;
use super::{BlobBody, BlobResponse, FetchedManifest, ManifestHead, Page, Part, answer, retry};
use crate::clock::Clock;
use crate::config;
use crate::limits::Limits;
use crate::oci::{
    ACCEPT, Algorithm, Digest, PageQuery, Reference, Repository, UpstreamName, blob_path, manifest_path,
    referrers_path, tags_path,
};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// One registry behind us; shared by everyone who pulls from it.
///
/// Every operation takes `patience`, which bounds tokens, redirects and retries until the response headers, and for
/// manifests and pages the body as well; when it runs out the answer is [`ErrorKind::Timeout`].
pub struct Upstream {
    wire: Arc<Wire>,
    logins: Logins,
    auth: Auth,
    reachability: Reachability,
    throttle: Arc<Throttle>,
    /// HEAD was refused where GET was not; asking again would cost a token each time (PROTOCOL §2.3, ECR Public).
    refuses_blob_head: AtomicBool,
    page_limit: Option<u32>,
    retry_pause: Duration,
    manifest_limit: usize,
    page_bytes: usize,
}

impl Upstream {
    pub(super) fn new(config: &config::Upstream, wire: Arc<Wire>, clock: Clock, limits: &Limits) -> Self {
        let throttle = Arc::new(Throttle::new(clock.clone()));
        let source =
            Source { wire: wire.clone(), throttle: throttle.clone(), clock: clock.clone(), deadline: limits.head };
        let gauge = wire.metrics().upstream_breaker_open.with_label_values(&[config.name.as_str()]);
        Self {
            logins: Logins::new(config, &clock, limits),
            auth: Auth::new(wire.clone(), Tokens::new(source)),
            reachability: Reachability::new(clock, gauge),
            wire,
            throttle,
            refuses_blob_head: AtomicBool::new(false),
            page_limit: config.page_limit,
            retry_pause: limits.retry_pause,
            manifest_limit: limits.manifest,
            page_bytes: limits.page,
        }
    }

    pub fn name(&self) -> &UpstreamName {
        &self.wire.name
    }

    /// Asks for a manifest's digest, type and size without spending a pull (PROTOCOL §3.10, Docker Hub). Where the
    /// upstream knows no HEAD the manifest is fetched for it (MAN-5).
    pub async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        patience: Duration,
    ) -> Result<ManifestHead, Error> {
        let until = Instant::now() + patience;
        let ask = Ask { method: Method::HEAD, ..self.manifest(Operation::ManifestHead, repository, reference) };
        let head = self.run(&ask, patience, |arrival| ready(manifest_head(&arrival))).await;
        match head {
            Err(error) if error.failure.status() == Some(405) => {
                Ok(self.get_manifest(repository, reference, left(until)).await?.into())
            }
            head => head,
        }
    }

    /// Fetches a whole manifest, of at most `limits.manifest` bytes.
    pub async fn get_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        patience: Duration,
    ) -> Result<FetchedManifest, Error> {
        let ask = self.manifest(Operation::ManifestGet, repository, reference);
        let limit = self.manifest_limit;
        self.run(&ask, patience, |arrival| fetched_manifest(arrival, limit)).await
    }

    /// Whether the repository has the blob, and its size if the upstream tells; a refused HEAD becomes a GET of one
    /// byte (BLOB-13, RED-3).
    pub async fn head_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        patience: Duration,
    ) -> Result<Option<u64>, Error> {
        let until = Instant::now() + patience;
        let get = self.blob(Operation::BlobHead, repository, digest);
        if !self.refuses_blob_head.load(Ordering::Relaxed) {
            let head = Ask { method: Method::HEAD, ..get.clone() };
            let size = self.run(&head, patience, |arrival| ready(blob_head(&arrival))).await;
            if !size.as_ref().is_err_and(|error| matches!(error.failure.status(), Some(400 | 401 | 403 | 405))) {
                return size;
            }
        }
        let first_byte = Ask { range: Some(part_header(Part::Span(0, 0))), ..get };
        let size = self.run(&first_byte, left(until), |arrival| ready(blob_probe(&arrival))).await?;
        self.refuses_blob_head.store(true, Ordering::Relaxed);
        Ok(size)
    }

    /// Waits until it is known who speaks for the repository, for which a credential helper may have to run: for those
    /// who would keep others waiting while they ask.
    pub async fn know_login(&self, repository: &Repository, patience: Duration) -> Result<(), Error> {
        let known = self.speaker(repository, Instant::now() + patience).await;
        known.map(drop).map_err(|failure| failure.during(self.name(), Operation::BlobGet, 0))
    }

    /// Starts fetching a blob or a part of it. An answer with the whole where a part was asked for is left to the
    /// caller.
    pub async fn get_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        part: Option<Part>,
        patience: Duration,
    ) -> Result<BlobResponse, Error> {
        let ask = Ask { range: part.map(part_header), ..self.blob(Operation::BlobGet, repository, digest) };
        let started = |Arrival { incoming, .. }: Arrival| {
            let extent = answer::extent(incoming.status(), incoming.headers(), part)?;
            Ok(BlobResponse { extent, body: BlobBody::new(incoming, self.name().clone()) })
        };
        self.run(&ask, patience, |arrival| ready(started(arrival))).await
    }

    /// Fetches one page of tags, no larger than the upstream gives (TAG-2).
    pub async fn list_tags(
        &self,
        repository: &Repository,
        page: &PageQuery,
        patience: Duration,
    ) -> Result<Page, Error> {
        let path = tags_path(repository, &page.at_most(self.page_limit));
        self.page(&self.get(Operation::Tags, repository, &path, "application/json"), patience).await
    }

    /// Fetches one page of referrers (REF-1, REF-2).
    pub async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        page: &PageQuery,
        patience: Duration,
    ) -> Result<Page, Error> {
        let path = referrers_path(repository, digest, page);
        self.page(&self.get(Operation::Referrers, repository, &path, INDEX), patience).await
    }

    async fn page(&self, ask: &Ask<'_>, patience: Duration) -> Result<Page, Error> {
        let limit = self.page_bytes;
        self.run(ask, patience, |arrival| page(arrival, ask.url.clone(), limit)).await
    }

    /// Runs an operation within `patience`.
    async fn run<T, F>(&self, ask: &Ask<'_>, patience: Duration, finish: impl Fn(Arrival) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let until = Instant::now() + patience;
        let mut attempts = 0;
        let outcome = self.converse(ask, until, &mut attempts, finish).await;
        outcome.map_err(|failure| failure.during(self.name(), ask.operation, attempts))
    }

    /// Asks between the two gates and tells them how it went; once more if the login is rejected and there is another.
    ///
    /// Waiting for a login is no fault of the upstream, so it happens before the reachability gate's permit.
    async fn converse<T, F>(
        &self,
        ask: &Ask<'_>,
        until: Instant,
        attempts: &mut u32,
        finish: impl Fn(Arrival) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.throttle.check(self.logins.holder(ask.repository), ask.operation)?;
        let mut speaker = self.speaker(ask.repository, until).await?;
        let mut is_last = false;
        loop {
            let permit = self.reachability.admit().ok_or_else(left_alone)?;
            let outcome = tokio::time::timeout_at(until, self.persist(ask, &speaker, attempts, &finish)).await;
            let outcome = report(permit, outcome);
            let is_rejected = outcome.as_ref().is_err_and(|failure| failure.kind == ErrorKind::CredentialRejected);
            if is_last || !is_rejected {
                return outcome;
            }
            let Some(other) = in_time(until, self.logins.instead_of(&speaker)).await? else { return outcome };
            (speaker, is_last) = (other, true);
        }
    }

    async fn speaker(&self, repository: &Repository, until: Instant) -> Result<Speaker, Failure> {
        if self.reachability.is_shut() {
            return Err(left_alone());
        }
        in_time(until, self.logins.speaker(repository)).await
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
        let exchange = Exchange { wire: &self.wire, auth: &self.auth, throttle: &self.throttle, speaker };
        loop {
            *attempts += 1;
            let failure = match exchange.attempt(ask).await {
                Ok(arrival) => match finish(arrival).await {
                    Ok(done) => return Ok(done),
                    Err(failure) => failure,
                },
                Err(failure) => failure,
            };
            let Some(pause) = retry::pause(failure.symptom, *attempts, self.retry_pause, chance()) else {
                return Err(failure);
            };
            tokio::time::sleep(pause).await;
        }
    }

    fn manifest<'a>(&self, operation: Operation, repository: &'a Repository, reference: &Reference) -> Ask<'a> {
        self.get(operation, repository, &manifest_path(repository, reference), ACCEPT)
    }

    fn blob<'a>(&self, operation: Operation, repository: &'a Repository, digest: &Digest) -> Ask<'a> {
        self.get(operation, repository, &blob_path(repository, digest), "*/*")
    }

    /// `path` may have a query behind it.
    fn get<'a>(&self, operation: Operation, repository: &'a Repository, path: &str, accept: &'static str) -> Ask<'a> {
        let mut url = self.wire.gate.home().clone();
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        url.set_path(path);
        url.set_query(query);
        Ask { operation, method: Method::GET, url, repository, accept, range: None }
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("name", self.name()).finish_non_exhaustive()
    }
}

impl From<FetchedManifest> for ManifestHead {
    fn from(fetched: FetchedManifest) -> Self {
        let computed = || Digest::of(Algorithm::Sha256, &fetched.bytes);
        Self {
            digest: Some(fetched.digest.clone().unwrap_or_else(computed)),
            size: Some(fetched.bytes.len() as u64),
            media_type: Some(fetched.media_type),
        }
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
    Failure::new(ErrorKind::Unreachable, Symptom::Local, "it has been unreachable and is left alone")
}

/// Waits for a login until the caller's patience ends.
async fn in_time<T>(until: Instant, login: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = |_| Failure::new(ErrorKind::Timeout, Symptom::Local, "no login in time from the credential helper");
    tokio::time::timeout_at(until, login).await.map_err(late).flatten()
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

/// Between 0 and 1; without a source of randomness, 0.
fn chance() -> f64 {
    let mut bytes = [0; 2];
    let filled = aws_lc_rs::rand::fill(&mut bytes);
    filled.map_or(0.0, |()| f64::from(u16::from_le_bytes(bytes)) / 65536.0)
}

fn part_header(part: Part) -> HeaderValue {
    let text = match part {
        Part::From(first) => format!("bytes={first}-"),
        Part::Span(first, last) => format!("bytes={first}-{last}"),
    };
    HeaderValue::try_from(text).expect("digits and dashes are visible ASCII")
}

fn manifest_head(arrival: &Arrival) -> Result<ManifestHead, Failure> {
    let headers = answered(arrival)?.incoming.headers();
    answer::check_identity(headers)?;
    let media_type = answer::manifest_type(headers).ok();
    Ok(ManifestHead { digest: answer::digest(headers), media_type, size: answer::length(headers) })
}

async fn fetched_manifest(mut arrival: Arrival, limit: usize) -> Result<FetchedManifest, Failure> {
    let headers = answered(&arrival)?.incoming.headers();
    answer::check_identity(headers)?;
    let (digest, media_type) = (answer::digest(headers), answer::manifest_type(headers)?);
    Ok(FetchedManifest { digest, media_type, bytes: arrival.incoming.whole(limit).await? })
}

fn blob_head(arrival: &Arrival) -> Result<Option<u64>, Failure> {
    let headers = answered(arrival)?.incoming.headers();
    answer::extent(arrival.incoming.status(), headers, None)?;
    Ok(answer::length(headers))
}

fn blob_probe(arrival: &Arrival) -> Result<Option<u64>, Failure> {
    answer::probed_size(arrival.incoming.status(), arrival.incoming.headers())
}

async fn page(mut arrival: Arrival, asked: Url, limit: usize) -> Result<Page, Failure> {
    let headers = answered(&arrival)?.incoming.headers();
    answer::check_identity(headers)?;
    let (media_type, next) = (answer::media_type(headers), answer::next_page(headers, &asked)?);
    let filters_applied = answer::filters_applied(headers);
    Ok(Page { media_type, next, filters_applied, bytes: arrival.incoming.whole(limit).await? })
}

/// Passes a 200; no other status carries a whole answer.
fn answered(arrival: &Arrival) -> Result<&Arrival, Failure> {
    let status = arrival.incoming.status().as_u16();
    if status == 200 { Ok(arrival) } else { Err(Failure::protocol(format!("status {status} where 200 was due"))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_asked_for_with_both_ends_inclusive() {
        assert_eq!(part_header(Part::From(5)), "bytes=5-");
        assert_eq!(part_header(Part::Span(0, 0)), "bytes=0-0");
    }
}
