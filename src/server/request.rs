//! A request on its way to an answer: as it arrived, once it is known who asks, and once its name is
//! resolved and allowed.

use std::net::IpAddr;

use http::header::HOST;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::connection::tls::Certificate;
use super::error::{Extra, Refusal};
use super::identify::Identified;
use super::snapshot::RequestConfig;
use crate::access::{Action, Caller, VirtualHost};
use crate::oci::{CanonicalName, Endpoint, ErrorCode, Repository, Target};
use crate::route::Route;

/// What is known of a connection before anything is asked on it.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) peer: IpAddr,
    /// With TLS.
    pub(super) secure: bool,
    /// The client's, which was verified when it was shown.
    pub(super) certificate: Option<Certificate>,
}

/// A request as it arrived, apart from what is in it.
pub(super) struct Received<'a> {
    pub(super) connection: &'a Connection,
    /// Of the client, behind the proxies that are trusted.
    pub(super) address: IpAddr,
    /// Until when the login and the look-up have to be done.
    pub(super) deadline: Instant,
}

/// A request before it is known who asks.
pub(super) struct Unauthenticated<'a> {
    pub(super) config: &'a RequestConfig,
    pub(super) host: VirtualHost,
    pub(super) caller: Caller,
    pub(super) deadline: Instant,
}

/// Whose request it is, and how it is addressed.
#[derive(Clone, Copy)]
pub(super) struct Addressed<'a> {
    pub(super) config: &'a RequestConfig,
    pub(super) identified: &'a Identified,
    pub(super) host: Option<&'a str>,
    pub(super) target: &'a Target,
}

impl Addressed<'_> {
    /// Where a name leads that the client writes in this request.
    pub(super) fn resolve(&self, name: &Repository) -> Option<Route> {
        self.config.routes.resolve(self.host, self.target.prefix.as_deref(), &self.target.ns, name)
    }
}

/// What a request is about, once its name is resolved and allowed.
pub(super) struct ReadRequest<'a> {
    pub(super) route: Route,
    pub(super) name: CanonicalName,
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    /// Whoever may push is told what upstream has, not what we remember (UPL-12).
    pub(super) pushes: bool,
    /// By when the response headers have to leave.
    pub(super) deadline: Instant,
}

/// Somebody who may write to an image.
pub(super) struct WriteRequest<'a> {
    pub(super) to: Addressed<'a>,
    pub(super) route: Route,
    pub(super) name: CanonicalName,
}

impl WriteRequest<'_> {
    /// The repository that a blob may be mounted from: of the same registry and the same
    /// application, and one that this caller may pull; any other is passed over, as if it had not
    /// been named (UPL-7).
    pub(super) fn mountable(&self, from: &Repository) -> Option<Repository> {
        let policy = &self.to.config.policy;
        let route = self.to.resolve(from)?;
        let allowed = self.to.identified.decide(policy, Action::Pull, &route).is_ok();
        let akin = route.upstream == self.name.upstream
            && policy.are_of_one_application(&route.canonical(), &self.name);
        (allowed && akin).then_some(route.repository)
    }
}

/// The host that is meant, with its port. HTTP/2 says it in the target.
///
/// # Errors
/// 400 if there are two of different opinion.
pub(super) fn host(request: &Request<Incoming>) -> Result<Option<String>, Refusal> {
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

/// What the method means to do there, for the policy.
pub(super) fn action(method: &Method, endpoint: &Endpoint) -> Action {
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
