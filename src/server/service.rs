//! One request: parsed once, routed, authorised, and only then looked up.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::{HOST, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use super::body::Body;
use super::error::{Extra, Refusal};
use super::exchange::{Arrival, Notes};
use super::listing;
use super::respond::{self, Answer};
use super::wire::Outbound;
use crate::access::{Action, Caller, Policy, Principal};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::oci::{
    CanonicalName, Digest, Endpoint, ErrorCode, PageQuery, RangeRequest, Reference, Target, if_range_matches,
    none_match,
};
use crate::pull::{self, PullThrough, Want};
use crate::route::{Route, Routes};

/// What answers requests; one for all connections.
#[derive(Debug)]
pub struct Service {
    pub routes: Routes,
    pub policy: Policy,
    pub pull: PullThrough,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
}

/// What a request is about, once its name is resolved and allowed.
struct Asked<'a> {
    route: Route,
    name: CanonicalName,
    method: &'a Method,
    headers: &'a HeaderMap,
}

impl Service {
    /// Answers one request of a connection from `peer`; never fails.
    pub(super) async fn call(
        self: Arc<Self>,
        peer: IpAddr,
        outbound: Outbound,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let arrival = Arrival::new(peer, request.method().clone(), outbound, Arc::clone(&self.metrics));
        let mut notes = Notes::default();
        let answer = self.answer(&arrival, &request, &mut notes).await.unwrap_or_else(|refusal| {
            let answer = respond::refusal(&refusal);
            notes.error = refusal.cause;
            answer
        });
        let answer = if request.method() == Method::HEAD { respond::without_body(answer) } else { answer };
        let exchange = arrival.answer(notes, answer.status());
        Ok(answer.map(|source| Body::new(source, exchange)))
    }

    async fn answer(
        &self,
        arrival: &Arrival,
        request: &Request<Incoming>,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        if read && !request.body().is_end_stream() {
            // Left unread it could be taken for the next request (RELIABILITY §2.4).
            let refusal = Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, "a read has no body");
            return Err(Refusal { extra: Extra::Close, ..refusal });
        }
        let target = Target::parse(request.uri().path(), request.uri().query())?;
        notes.route = Some(target.endpoint.route_label());
        let Some(repository) = target.endpoint.repository() else { return self.without_name(&target, read) };
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let route = self.routes.resolve(host, target.prefix.as_deref(), &target.ns, repository);
        let Some(route) = route else {
            notes.unknown = Some(repository.clone());
            return Err(Refusal::unknown_name());
        };
        let name = route.canonical();
        notes.name = Some(name.clone());
        let caller = Caller { address: arrival.peer, principal: Principal::Anonymous, certificate: vec![] };
        if self.policy.decide(&caller, action(&target.endpoint), &name, route.application.as_ref()).is_err() {
            return Err(Refusal::unknown_name());
        }
        if !read {
            return Err(Refusal::read_only());
        }
        let asked = Asked { route, name, method: request.method(), headers: request.headers() };
        let looked_up = self.look_up(&asked, &target.endpoint, notes);
        let late = |_| Refusal::from(pull::Error::Late(self.limits.head));
        let mut answer = tokio::time::timeout(self.limits.head, looked_up).await.map_err(late)??;
        if let Some(ns) = asked.route.echo_ns() {
            respond::echo_namespace(answer.headers_mut(), ns);
        }
        Ok(answer)
    }

    /// Endpoints that are about no repository.
    fn without_name(&self, target: &Target, read: bool) -> Result<Answer, Refusal> {
        if !self.routes.answers_ping(target.prefix.as_deref()) {
            return Err(Refusal::unknown_name());
        }
        match target.endpoint {
            _ if !read => Err(Refusal::read_only()),
            Endpoint::Ping => Ok(respond::ping()),
            Endpoint::Catalog
            | Endpoint::Manifest { .. }
            | Endpoint::Blob { .. }
            | Endpoint::Tags { .. }
            | Endpoint::Referrers { .. }
            | Endpoint::Upload { .. } => {
                let message = "repositories are not listed here";
                Err(Refusal::new(StatusCode::NOT_FOUND, ErrorCode::Unsupported, message))
            }
        }
    }

    async fn look_up(&self, asked: &Asked<'_>, endpoint: &Endpoint, notes: &mut Notes) -> Result<Answer, Refusal> {
        match endpoint {
            Endpoint::Blob { digest, .. } => self.blob(asked, digest, notes).await,
            Endpoint::Manifest { reference, .. } => self.manifest(asked, reference, notes).await,
            Endpoint::Tags { page, .. } => self.tags(asked, page).await,
            Endpoint::Referrers { digest, page, .. } => self.referrers(asked, digest, page, notes).await,
            Endpoint::Upload { .. } => Err(Refusal::read_only()),
            Endpoint::Ping | Endpoint::Catalog => Err(Refusal::unknown_name()),
        }
    }

    async fn blob(&self, asked: &Asked<'_>, digest: &Digest, notes: &mut Notes) -> Result<Answer, Refusal> {
        notes.digest = Some(digest.clone());
        let has_it = header(asked.headers, IF_NONE_MATCH).is_some_and(|tags| none_match(tags, digest));
        if has_it || *asked.method == Method::HEAD {
            let head = self.pull.blob_head(&asked.name, digest).await?;
            notes.outcome = Some(("blob", head.outcome));
            return Ok(if has_it { respond::not_modified(digest) } else { respond::blob_head(head, digest) });
        }
        let range = range(asked.headers, digest)?;
        let answer = self.pull.blob(&asked.name, digest, range).await?;
        notes.outcome = Some(("blob", answer.outcome));
        Ok(respond::blob(answer, digest))
    }

    async fn manifest(&self, asked: &Asked<'_>, reference: &Reference, notes: &mut Notes) -> Result<Answer, Refusal> {
        if let Reference::Tag(tag) = reference {
            notes.tag = Some(tag.clone());
        }
        let want = if *asked.method == Method::HEAD { Want::Head } else { Want::Body };
        let answer = self.pull.manifest(&asked.name, reference, want).await?;
        let kind = match reference {
            Reference::Digest(_) => "manifest",
            Reference::Tag(_) => "tag",
        };
        notes.outcome = Some((kind, answer.outcome));
        notes.digest = Some(answer.digest.clone());
        let has_it = header(asked.headers, IF_NONE_MATCH).is_some_and(|tags| none_match(tags, &answer.digest));
        Ok(if has_it { respond::not_modified(&answer.digest) } else { respond::manifest(answer) })
    }

    async fn tags(&self, asked: &Asked<'_>, page: &PageQuery) -> Result<Answer, Refusal> {
        let answer = self.pull.tags(&asked.name, page).await?;
        listing::tags(&asked.route, answer)
    }

    async fn referrers(
        &self,
        asked: &Asked<'_>,
        digest: &Digest,
        page: &PageQuery,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        notes.digest = Some(digest.clone());
        let answer = self.pull.referrers(&asked.name, digest, page).await?;
        listing::referrers(&asked.route, digest, answer)
    }
}

fn action(endpoint: &Endpoint) -> Action {
    match endpoint {
        Endpoint::Tags { .. } => Action::List,
        Endpoint::Ping
        | Endpoint::Catalog
        | Endpoint::Manifest { .. }
        | Endpoint::Blob { .. }
        | Endpoint::Referrers { .. }
        | Endpoint::Upload { .. } => Action::Pull,
    }
}

/// The asked range. Under an `If-Range` that does not match, the whole is wanted (BLOB-6).
fn range(headers: &HeaderMap, digest: &Digest) -> Result<RangeRequest, Refusal> {
    if header(headers, IF_RANGE).is_some_and(|tag| !if_range_matches(tag, digest)) {
        return Ok(RangeRequest::None);
    }
    match RangeRequest::parse(header(headers, RANGE)) {
        RangeRequest::Multiple => {
            // Clients take it for "too many ranges" and fetch the whole (BLOB-5).
            let message = "one range at a time";
            Err(Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::RangeInvalid, message))
        }
        range @ (RangeRequest::None | RangeRequest::One(_) | RangeRequest::Unsatisfiable) => Ok(range),
    }
}

fn header(headers: &HeaderMap, name: http::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
