//! The operations of one upstream: what is asked for each, how long, how often, and what its answer
//! must look like.

use std::fmt;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Method;
use http::header::{HeaderMap, HeaderValue, RANGE};
use tokio::time::Instant;
use url::Url;

use super::BlobBody;
use super::BlobResponse;
use super::FetchedManifest;
use super::ManifestHead;
use super::Page;
use super::answer;
use super::auth::login::Logins;
use super::auth::scheme::Auth;
use super::auth::token::{Source, Tokens};
use super::call::attempt::{Arrival, Ask};
use super::call::breaker::Reachability;
use super::error::{Error, Failure, Operation};
use super::transport::request::Wire;
use super::transport::throttle::Throttle;
use crate::clock::Clock;
use crate::config;
use crate::limits::Limits;
use crate::oci::{
    ACCEPT, Algorithm, Digest, OCI_INDEX, PageQuery, Part, Reference, Repository, UpstreamName,
    blob_path, manifest_path, referrers_path, tags_path,
};

/// One registry behind us; shared by everyone who pulls from it.
///
/// Every operation takes a `deadline` for its token, redirects and retries until the response
/// headers, and for manifests and pages the body as well; when it passes the answer is
/// [`Timeout`](super::ErrorKind::Timeout).
pub struct Upstream {
    pub(super) wire: Arc<Wire>,
    pub(super) logins: Logins,
    pub(super) auth: Auth,
    pub(super) reachability: Reachability,
    pub(super) throttle: Arc<Throttle>,
    /// HEAD was refused where GET was not; asking again would cost a token each time (PROTOCOL
    /// §2.3, ECR Public).
    refuses_blob_head: AtomicBool,
    page_limit: Option<u32>,
    caches_pushes: bool,
    /// It has been asked how it wants to be asked; one that is open never says.
    pub(super) met: AtomicBool,
    pub(super) retry_pause: Duration,
    manifest_limit: usize,
    page_bytes: usize,
    /// How long a write waits for the answer to a ping, and for a login, before it is sent.
    pub(super) login_limit: Duration,
}

impl Upstream {
    pub(super) fn new(
        config: &config::Upstream,
        wire: Arc<Wire>,
        clock: Clock,
        limits: &Limits,
    ) -> Self {
        let throttle = Arc::new(Throttle::new(clock.clone()));
        let source = Source {
            wire: wire.clone(),
            throttle: throttle.clone(),
            clock: clock.clone(),
            deadline: limits.head,
        };
        let gauge = wire.metrics().upstream.breaker_open.with_label_values(&[config.name.as_str()]);
        Self {
            logins: Logins::new(config, &clock, limits),
            auth: Auth::new(wire.clone(), Tokens::new(source)),
            reachability: Reachability::new(clock, gauge),
            wire,
            throttle,
            refuses_blob_head: AtomicBool::new(false),
            page_limit: config.page_limit,
            caches_pushes: config.writes == config::Writes::Kept,
            met: AtomicBool::new(false),
            retry_pause: limits.retry_pause,
            manifest_limit: limits.manifest,
            page_bytes: limits.page,
            login_limit: limits.head,
        }
    }

    pub fn name(&self) -> &UpstreamName {
        &self.wire.name
    }

    /// Asks for a manifest's digest, type and size without spending a pull (PROTOCOL §3.10, Docker
    /// Hub). Where the upstream knows no HEAD the manifest is fetched for it (MAN-5).
    pub async fn head_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<ManifestHead, Error> {
        let ask = Ask {
            method: Method::HEAD,
            ..self.manifest(Operation::ManifestHead, repository, reference)
        };
        let head = self.run(&ask, deadline, |arrival| ready(manifest_head(&arrival))).await;
        match head {
            Err(error) if error.failure.status() == Some(405) => {
                Ok(self.get_manifest(repository, reference, deadline).await?.into())
            }
            head => head,
        }
    }

    /// Fetches a whole manifest, of at most `limits.manifest` bytes.
    pub async fn get_manifest(
        &self,
        repository: &Repository,
        reference: &Reference,
        deadline: Instant,
    ) -> Result<FetchedManifest, Error> {
        let ask = self.manifest(Operation::ManifestGet, repository, reference);
        let limit = self.manifest_limit;
        self.run(&ask, deadline, |arrival| fetched_manifest(arrival, limit)).await
    }

    /// Whether the repository has the blob, and its size if the upstream tells; a refused HEAD
    /// becomes a GET of one byte (BLOB-13, RED-3).
    pub async fn head_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        deadline: Instant,
    ) -> Result<Option<u64>, Error> {
        let get = self.blob(Operation::BlobHead, repository, digest);
        if !self.refuses_blob_head.load(Ordering::Relaxed) {
            let head = Ask { method: Method::HEAD, ..get.clone() };
            let size = self.run(&head, deadline, |arrival| ready(blob_head(&arrival))).await;
            if !size
                .as_ref()
                .is_err_and(|error| matches!(error.failure.status(), Some(400 | 401 | 403 | 405)))
            {
                return size;
            }
        }
        let first_byte = Ask { headers: part_header(answer::first_byte()), ..get };
        let size = self.run(&first_byte, deadline, |arrival| ready(blob_probe(&arrival))).await?;
        self.refuses_blob_head.store(true, Ordering::Relaxed);
        Ok(size)
    }

    /// Starts fetching a blob or a part of it. An answer with the whole where a part was asked for
    /// is left to the caller.
    pub async fn get_blob(
        &self,
        repository: &Repository,
        digest: &Digest,
        part: Option<Part>,
        deadline: Instant,
    ) -> Result<BlobResponse, Error> {
        let headers = part.map(part_header).unwrap_or_default();
        let ask = Ask { headers, ..self.blob(Operation::BlobGet, repository, digest) };
        let started = |Arrival { incoming, .. }: Arrival| {
            let extent = answer::extent(incoming.status(), incoming.headers(), part)?;
            Ok(BlobResponse { extent, body: BlobBody::new(incoming, self.name().clone()) })
        };
        self.run(&ask, deadline, |arrival| ready(started(arrival))).await
    }

    /// Fetches one page of tags, no larger than the upstream gives (TAG-2).
    pub async fn list_tags(
        &self,
        repository: &Repository,
        page: &PageQuery,
        deadline: Instant,
    ) -> Result<Page, Error> {
        let path = tags_path(repository, &page.at_most(self.page_limit));
        self.page(&self.get(Operation::Tags, repository, &path, "application/json"), deadline).await
    }

    /// Fetches one page of referrers (REF-1, REF-2).
    pub async fn referrers(
        &self,
        repository: &Repository,
        digest: &Digest,
        page: &PageQuery,
        deadline: Instant,
    ) -> Result<Page, Error> {
        let path = referrers_path(repository, digest, page);
        self.page(&self.get(Operation::Referrers, repository, &path, OCI_INDEX), deadline).await
    }

    async fn page(&self, ask: &Ask<'_>, deadline: Instant) -> Result<Page, Error> {
        let limit = self.page_bytes;
        self.run(ask, deadline, |arrival| page(arrival, ask.url.clone(), limit)).await
    }

    fn manifest<'a>(
        &self,
        operation: Operation,
        repository: &'a Repository,
        reference: &Reference,
    ) -> Ask<'a> {
        self.get(operation, repository, &manifest_path(repository, reference), ACCEPT)
    }

    fn blob<'a>(
        &self,
        operation: Operation,
        repository: &'a Repository,
        digest: &Digest,
    ) -> Ask<'a> {
        self.get(operation, repository, &blob_path(repository, digest), "*/*")
    }

    /// `path` may have a query behind it.
    pub(super) fn get<'a>(
        &self,
        operation: Operation,
        repository: &'a Repository,
        path: &str,
        accept: &'static str,
    ) -> Ask<'a> {
        let (url, scope) = (self.url(path), format!("repository:{repository}:pull"));
        let headers = HeaderMap::new();
        Ask {
            operation,
            method: Method::GET,
            url,
            repository,
            scope,
            accept,
            headers,
            content: None,
        }
    }

    /// `path`, and the query behind it, at the registry itself.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.wire.gate.home().clone();
        let (path, query) =
            path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        url.set_path(path);
        url.set_query(query);
        url
    }

    /// Whether what is pushed to it is kept.
    pub fn caches_pushes(&self) -> bool {
        self.caches_pushes
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

fn part_header(part: Part) -> HeaderMap {
    let value =
        HeaderValue::try_from(part.to_string()).expect("digits and dashes are visible ASCII");
    HeaderMap::from_iter([(RANGE, value)])
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
    if status == 200 {
        Ok(arrival)
    } else {
        Err(Failure::protocol(format!("status {status} where 200 was due")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_asked_for_with_both_ends_inclusive() {
        assert_eq!(part_header(Part::From(5))[RANGE], "bytes=5-");
        assert_eq!(part_header(answer::first_byte())[RANGE], "bytes=0-0");
    }
}
