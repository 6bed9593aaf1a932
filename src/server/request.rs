//! A request on its way to an answer, one type for each step: [`Received`], [`Unauthenticated`],
//! [`Addressed`] once it is known who asks, and [`ReadRequest`] or [`WriteRequest`] once its name
//! is resolved and allowed.

use std::net::IpAddr;

use http::header::HOST;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::connection::tls::ClientCertificate;
use super::error::{Extra, Refusal};
use super::identify::Identified;
use super::snapshot::RequestConfig;
use crate::access::{Action, Caller, VirtualHost};
use crate::identity::Identity;
use crate::oci::{CanonicalName, Endpoint, ErrorCode, Repository, Target};
use crate::pull::Asker;
use crate::route::Route;

/// What is known of a connection before a request comes.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) peer: IpAddr,
    /// Whether it is encrypted.
    pub(super) secure: bool,
    /// The client's certificate, verified in the handshake; it may have ended since.
    pub(super) certificate: Option<ClientCertificate>,
}

/// Where a request came from, and when it has to be answered; its head and body are beside it.
#[derive(Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) connection: &'a Connection,
    /// The client's address, behind the proxies that are trusted.
    pub(super) address: IpAddr,
    /// When the response headers have to leave: one budget for login and look-up (DESIGN §14.8).
    pub(super) deadline: Instant,
}

/// A request before it is known who asks.
pub(super) struct Unauthenticated<'a> {
    pub(super) config: &'a RequestConfig,
    pub(super) host: VirtualHost,
    /// Anonymous, with the address and the certificate of the connection.
    pub(super) caller: Caller,
    pub(super) deadline: Instant,
}

/// Whose request it is, and how it is addressed.
#[derive(Clone, Copy)]
pub(super) struct Addressed<'a> {
    pub(super) config: &'a RequestConfig,
    pub(super) identified: &'a Identified,
    /// The host that the client named, which may select an upstream.
    pub(super) host: Option<&'a str>,
    pub(super) target: &'a Target,
}

impl Addressed<'_> {
    /// The upstream and repository that the client means by `name` in this request; none if no
    /// upstream is configured for it.
    pub(super) fn resolve(&self, name: &Repository) -> Option<Route> {
        self.config.routes.resolve(self.host, self.target.prefix.as_deref(), &self.target.ns, name)
    }
}

/// A request that may read an image.
pub(super) struct ReadRequest<'a> {
    pub(super) route: Route,
    pub(super) name: CanonicalName,
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    /// For whom upstream is asked.
    pub(super) asker: Asker,
    /// The caller may also push there, and is told what upstream has, not what we remember: a blob
    /// that a client believes to be there is not pushed, and the manifest is then refused (UPL-12).
    pub(super) may_push: bool,
    /// When the response headers have to leave.
    pub(super) deadline: Instant,
}

/// A request that may write to an image.
pub(super) struct WriteRequest<'a> {
    pub(super) to: Addressed<'a>,
    pub(super) route: Route,
    pub(super) name: CanonicalName,
}

/// Whose shares a request takes, of an upstream and of the cache: its identity's, or its network's
/// if it has none.
pub(super) fn asker(caller: &Caller) -> Asker {
    match (&caller.identity, caller.address) {
        (Identity::Anonymous, IpAddr::V4(address)) => Asker::new(address),
        // A network is given to one subscriber (RFC 6177).
        (Identity::Anonymous, IpAddr::V6(address)) => Asker::new(address.to_bits() >> 64),
        (identity, _) => Asker::new(identity),
    }
}

impl WriteRequest<'_> {
    /// The repository that a blob may be mounted from. It has to be of the same registry and the
    /// same application, and this caller has to be allowed to pull it; any other is ignored, as if
    /// no mount had been asked for (UPL-7).
    pub(super) fn mountable(&self, from: &Repository) -> Option<Repository> {
        let policy = &self.to.config.policy;
        let route = self.to.resolve(from)?;
        let allowed = self.to.identified.decide(policy, Action::Pull, &route).is_ok();
        let belongs_together = route.upstream == self.name.upstream
            && policy.are_of_one_application(&route.canonical(), &self.name);
        (allowed && belongs_together).then_some(route.repository)
    }
}

/// The host that the client named, with its port if it wrote one: `Host`, or in HTTP/2
/// `:authority`, which hyper puts into the target.
///
/// # Errors
/// 400 if it is named twice. Rights depend on it, and a proxy before us may have judged by the
/// other.
pub(super) fn requested_host(request: &Request<Incoming>) -> Result<Option<String>, Refusal> {
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

/// A request that cannot be trusted to end where it seems to; its connection is closed.
pub(super) fn bad_request(message: &str) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, ErrorCode::Unsupported, message).with(Extra::Close)
}

/// The right that a request needs. An unknown method is a write, which needs the most.
pub(super) fn requested_action(method: &Method, endpoint: &Endpoint) -> Action {
    match (method, endpoint) {
        (&Method::GET | &Method::HEAD, Endpoint::Tags { .. }) => Action::List,
        // The status of an upload, which only its client asks for.
        (&Method::GET | &Method::HEAD, Endpoint::Upload { .. }) => Action::Push,
        (&Method::HEAD, Endpoint::Manifest { .. } | Endpoint::Blob { .. }) => Action::Probe,
        (&Method::GET | &Method::HEAD, _) => Action::Pull,
        (&Method::DELETE, Endpoint::Manifest { .. } | Endpoint::Blob { .. }) => Action::Delete,
        (_, _) => Action::Push,
    }
}

/// The first value of a header, if it is visible ASCII.
pub(super) fn header_text(headers: &HeaderMap, name: http::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}
