//! One request: parsed once, routed, authorised, and only then looked up (`reads`) or passed on
//! (`writes`).

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use http::header::HOST;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::connection::body::Body;
use super::connection::delivery::Outbound;
use super::connection::tls::{self, Certificate, TlsContext};
use super::error::{Extra, Refusal};
use super::exchange::{Arrival, Notes};
use super::identify::{Identified, Login};
use super::reads::Asked;
use super::respond::{self, Answer};
use super::snapshot::Generation;
use super::token;
use super::writes;
use crate::access::{
    Action, Caller, ClientCredential, Gatekeeper, LIFE, LIFE_FOR_PUSH, LastPull, Ledger,
    VirtualHost, client_address,
};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::oci::{CanonicalName, Endpoint, ErrorCode, Repository, Target};
use crate::pull::PullThrough;
use crate::push::PushThrough;
use crate::route::{Route, Routes};

/// What is known of a connection before anything is asked on it.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) peer: IpAddr,
    /// With TLS.
    pub(super) secure: bool,
    /// The client's, which was verified when it was shown.
    pub(super) certificate: Option<Certificate>,
}

/// What answers requests; one for all connections.
#[derive(Debug)]
pub struct Service {
    pub generation: ArcSwap<Generation>,
    pub gatekeeper: Gatekeeper,
    /// None: plain HTTP. Connections keep what they began with.
    pub tls: ArcSwapOption<TlsContext>,
    pub pull: PullThrough,
    pub push: PushThrough,
    pub ledger: Arc<Ledger>,
    pub limits: Limits,
    pub clock: Clock,
    pub metrics: Arc<Metrics>,
}

/// Whose request it is, and how it is addressed.
#[derive(Clone, Copy)]
pub(super) struct Address<'a> {
    pub(super) generation: &'a Generation,
    pub(super) visit: &'a Identified,
    pub(super) host: Option<&'a str>,
    pub(super) target: &'a Target,
}

impl Address<'_> {
    /// Where a name leads that the client writes in this request.
    pub(super) fn resolve(&self, name: &Repository) -> Option<Route> {
        self.generation.routes.resolve(
            self.host,
            self.target.prefix.as_deref(),
            &self.target.ns,
            name,
        )
    }
}

/// A request as it arrived, apart from what is in it.
struct Received<'a> {
    connection: &'a Connection,
    /// Of the client, behind the proxies that are trusted.
    address: IpAddr,
    /// Until when the login and the look-up have to be done.
    deadline: Instant,
}

/// A request before it is known who asks.
struct Unauthenticated<'a> {
    generation: &'a Generation,
    host: VirtualHost,
    caller: Caller,
    deadline: Instant,
}

impl Service {
    /// Answers one request of a connection; never fails.
    pub(super) async fn call(
        self: Arc<Self>,
        connection: Arc<Connection>,
        outbound: Outbound,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let deadline = Instant::now() + self.limits.head;
        let generation = self.generation.load_full();
        let address =
            client_address(connection.peer, request.headers(), &generation.trusted_proxies);
        let arrival =
            Arrival::new(address, request.method().clone(), outbound, Arc::clone(&self.metrics));
        let head_only = request.method() == Method::HEAD;
        let mut notes = Notes::default();
        let received = Received { connection: &connection, address, deadline };
        let answer = match self.answer(&generation, received, &mut request, &mut notes).await {
            Ok(answer) => answer,
            Err(refusal) => {
                writes::drain(&mut request).await;
                let answer = respond::refusal(&refusal);
                notes.error = refusal.cause;
                answer
            }
        };
        let answer = if head_only { respond::without_body(answer) } else { answer };
        let exchange = arrival.answer(notes, answer.status());
        Ok(answer.map(|source| Body::new(source, exchange)))
    }

    async fn answer(
        &self,
        generation: &Generation,
        received: Received<'_>,
        request: &mut Request<Incoming>,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        if read && !request.body().is_end_stream() {
            // Left unread it could be taken for the next request (RELIABILITY §2.4).
            return Err(bad_request("a read has no body"));
        }
        let host = host(request)?;
        let Received { connection, address, deadline } = received;
        let virtual_host = generation
            .virtual_hosts
            .find(host.as_deref(), connection.secure)
            .ok_or_else(Refusal::misdirected)?;
        let certificate = tls::names(connection.certificate.as_ref(), self.clock.now())?.to_vec();
        let caller = Caller::anonymous(address, certificate);
        let knock = Unauthenticated { generation, host: virtual_host, caller, deadline };
        if request.uri().path() == token::PATH {
            notes.route = Some("token");
            return self.token(knock, request, notes).await;
        }
        let target = Target::parse(request.uri().path(), request.uri().query())?;
        notes.route = Some(target.endpoint.route_label());
        let credential = ClientCredential::of(request.headers());
        let visit = self.visit(knock, &credential, notes).await?;
        let Some(repository) = target.endpoint.repository() else {
            return without_name(&generation.routes, &target, &visit, read);
        };
        let to = Address { generation, visit: &visit, host: host.as_deref(), target: &target };
        let action = action(request.method(), &target.endpoint);
        let Some(route) = to.resolve(repository) else {
            notes.unknown = Some(repository.clone());
            return Err(visit.nowhere(&target.ns, action, repository));
        };
        self.about(to, (action, route), request, notes).await
    }

    /// A request about an image.
    async fn about(
        &self,
        to: Address<'_>,
        (action, route): (Action, Route),
        request: &mut Request<Incoming>,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let Address { generation, visit, target, .. } = to;
        let name = route.canonical();
        notes.name = Some(name.clone());
        notes.application.clone_from(&route.application);
        let granted = visit.authorise(&generation.policy, action, &route)?;
        notes.application = granted.application.cloned().or(notes.application.take());
        if matches!(action, Action::Push | Action::Delete) {
            return self.write(writes::Writer { to, route, name }, request, notes).await;
        }
        self.note_pull(visit, &name);
        let pushes =
            route.writable && visit.decide(&generation.policy, Action::Push, &route).is_ok();
        let asked = Asked {
            route,
            name,
            method: request.method(),
            headers: request.headers(),
            pushes,
            deadline: tokio::time::Instant::now() + self.limits.head,
        };
        let mut answer = self.granted(&asked, &target.endpoint, notes).await?;
        if target.endpoint.is_about_tags()
            && let Some(notice) = visit.notice(generation.issuer.as_deref(), self.clock.now())
        {
            respond::warn(answer.headers_mut(), &notice);
        }
        Ok(answer)
    }

    /// Finds out who asks.
    async fn visit(
        &self,
        knock: Unauthenticated<'_>,
        credential: &ClientCredential,
        notes: &mut Notes,
    ) -> Result<Identified, Refusal> {
        notes.identity = Some("unknown".to_owned());
        let Unauthenticated { generation, host, caller, deadline } = knock;
        let (gatekeeper, metrics) = (&self.gatekeeper, &self.metrics);
        let login = Login { gatekeeper, metrics, generation, credential, deadline };
        let visit = login.identify(host, caller).await?;
        notes.identity = Some(visit.caller.identity.to_string());
        Ok(visit)
    }

    /// The token endpoint (AUTH-12).
    async fn token(
        &self,
        knock: Unauthenticated<'_>,
        request: &mut Request<Incoming>,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let generation = knock.generation;
        let posted = *request.method() == Method::POST;
        let form = token::form(request, knock.deadline).await?;
        let credential = form.credential.unwrap_or_else(|| ClientCredential::of(request.headers()));
        let visit = self.visit(knock, &credential, notes).await?;
        let nobody = visit.authenticated.is_none() && visit.caller.is_anonymous();
        if nobody && !generation.policy.has_use_for_anonymous(&visit.caller) {
            return Err(visit.challenge(None));
        }
        if let Identity::Licence(id) = &visit.caller.identity {
            for slug in generation.policy.unknown_applications(&visit.caller.applications) {
                tracing::warn!(licence = %id, application = %slug, "a licence is for an application that is not configured");
            }
        }
        let life = if generation.policy.may_push(&visit.caller) { LIFE_FOR_PUSH } else { LIFE };
        let issued = self.gatekeeper.issue(&visit.subject(), &visit.host.audience, life);
        Ok(token::answer(&issued, posted.then_some(form.scope.as_str())))
    }

    fn note_pull(&self, visit: &Identified, name: &CanonicalName) {
        let expires = visit.authenticated.as_ref().and_then(|somebody| somebody.expires);
        self.ledger
            .note(&visit.caller, LastPull { at: self.clock.now(), image: name.clone(), expires });
    }
}

/// The host that is meant, with its port. HTTP/2 says it in the target.
///
/// # Errors
/// 400 if there are two of different opinion.
fn host(request: &Request<Incoming>) -> Result<Option<String>, Refusal> {
    let mut named =
        request.headers().get_all(HOST).iter().map(|host| host.to_str().unwrap_or_default());
    let (first, authority) =
        (named.next(), request.uri().authority().map(http::uri::Authority::as_str));
    let differs = first
        .zip(authority)
        .is_some_and(|(first, authority)| !first.eq_ignore_ascii_case(authority));
    if differs || named.next().is_some() {
        return Err(bad_request("the host is named twice"));
    }
    Ok(authority.or(first).map(str::to_owned))
}

pub(super) fn bad_request(message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message).with(Extra::Close)
}

/// Endpoints that are about no repository.
fn without_name(
    routes: &Routes,
    target: &Target,
    visit: &Identified,
    read: bool,
) -> Result<Answer, Refusal> {
    if !routes.answers_ping(target.prefix.as_deref()) {
        return Err(Refusal::unknown_name());
    }
    match target.endpoint {
        Endpoint::Ping if visit.must_log_in() => Err(visit.challenge(None)),
        Endpoint::Catalog if visit.must_log_in() => {
            Err(visit.challenge(Some("registry:catalog:*")))
        }
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

fn action(method: &Method, endpoint: &Endpoint) -> Action {
    match (method, endpoint) {
        (&Method::GET | &Method::HEAD, Endpoint::Tags { .. }) => Action::List,
        (&Method::GET | &Method::HEAD, Endpoint::Upload { .. }) => Action::Push,
        (&Method::HEAD, Endpoint::Manifest { .. } | Endpoint::Blob { .. }) => Action::Probe,
        (&Method::GET | &Method::HEAD, _) => Action::Pull,
        (&Method::DELETE, Endpoint::Manifest { .. } | Endpoint::Blob { .. }) => Action::Delete,
        (_, _) => Action::Push,
    }
}

pub(super) fn header(headers: &HeaderMap, name: http::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
