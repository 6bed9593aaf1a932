//! One request, in the order of DESIGN §4: parsed once, routed, authorised, and only then looked up
//! (`reads`) or passed on (`writes`).

use std::convert::Infallible;
use std::sync::Arc;

use arc_swap::ArcSwap;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio::time::Instant;

use super::connection::body::Body;
use super::connection::delivery::ResponseOutput;
use super::connection::discard::discard_unread_body;
use super::connection::memory::ClientMemory;
use super::connection::tls::{self, TlsContext};
use super::error::Refusal;
use super::exchange::{Arrival, Sender};
use super::identify::{Identified, LoginAttempt};
use super::notes::Notes;
use super::request::{
    Addressed, Connection, ReadRequest, Received, Unauthenticated, WriteRequest, asker,
    bad_request, requested_action, requested_host,
};
use super::request_id::{RequestIds, X_REQUEST_ID};
use super::respond::{self, Answer};
use super::snapshot::RequestConfig;
use super::token;
use crate::access::{
    Action, Caller, ClientCredential, Gatekeeper, LastPull, Ledger, TOKEN_LIFE,
    TOKEN_LIFE_FOR_PUSH, client_address,
};
use crate::clock::{Clock, Timestamp};
use crate::identity::Identity;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::misses::{MissJournal, MissKey, MissedBy, MissedThing};
use crate::oci::{CanonicalName, Endpoint, ErrorCode, Target};
use crate::pull::PullThrough;
use crate::push::PushThrough;
use crate::route::{Route, Routes};

/// What answers requests; one for all connections. `app` puts it together, and `reload` replaces
/// `config`, `tls` and what the gatekeeper knows while it runs.
#[derive(Debug)]
pub(crate) struct Service {
    /// A request keeps the one that it began with.
    pub(crate) config: ArcSwap<RequestConfig>,
    /// Checks credentials, issues tokens, and seals the addresses of uploads.
    pub(crate) gatekeeper: Gatekeeper,
    /// None: plain HTTP. Connections keep what they began with, unless it is now another authority
    /// that vouches for clients.
    pub(crate) tls: watch::Sender<Option<Arc<TlsContext>>>,
    /// Answers reads.
    pub(crate) pull: PullThrough,
    /// What was wanted of sealed upstreams and is not here.
    pub(crate) misses: MissJournal,
    /// Answers writes.
    pub(crate) push: PushThrough,
    /// Who pulled what last, for the operator.
    pub(crate) ledger: Arc<Ledger>,
    /// Names requests that bring no name of their own.
    pub(crate) request_ids: RequestIds,
    /// What answers hold that wait for their clients.
    pub(crate) memory: ClientMemory,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) metrics: Arc<Metrics>,
}

/// What a client means to do with an image.
struct Intent {
    action: Action,
    route: Route,
    /// When the response headers have to leave (DESIGN §14.8).
    deadline: Instant,
}

impl Service {
    /// Where an image's name leads, by the rules for requests of this moment.
    pub(crate) fn find_image(&self, name: &CanonicalName) -> Option<CanonicalName> {
        self.config.load().routes.find_image(name)
    }

    /// When the certificate for clients ends, if there is one.
    pub(crate) fn certificate_end(&self) -> Option<Timestamp> {
        let context = self.tls.borrow().clone()?;
        context.validity().map(|validity| validity.0.end)
    }

    /// Answers one request of a connection. It never fails: whatever goes wrong is an answer, too.
    ///
    /// hyper drops this future when the client leaves. What others may be waiting for runs in tasks
    /// of its own.
    pub(super) async fn call(
        self: Arc<Self>,
        connection: Arc<Connection>,
        output: ResponseOutput,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>, Infallible> {
        let deadline = Instant::now() + self.limits.head;
        let config = self.config.load_full();
        let address = client_address(connection.peer, request.headers(), &config.trusted_proxies);
        let sender = Sender::of(&request, address, &self.request_ids);
        let id = sender.request_id.clone();
        let arrival = Arrival::new(sender, output, Arc::clone(&self.metrics));
        let head_only = request.method() == Method::HEAD;
        let mut notes = Notes::default();
        let received = Received { connection: &connection, address, deadline };
        let mut answer = match self.answer(&config, received, &mut request, &mut notes).await {
            Ok(answer) => answer,
            Err(refusal) => {
                notes.set_refused(&refusal, request.uri().path());
                discard_unread_body(request, &refusal).await;
                respond::refusal(&refusal)
            }
        };
        answer.headers_mut().insert(X_REQUEST_ID, id);
        let answer = if head_only { respond::without_body(answer) } else { answer };
        let exchange = arrival.into_exchange(notes, answer.status());
        Ok(answer.map(|source| Body::new(source, exchange)))
    }

    /// Answers a request, or says why not; `notes` are filled in on the way, so that those of a
    /// refusal say how far it came.
    async fn answer(
        &self,
        config: &RequestConfig,
        received: Received<'_>,
        request: &mut Request<Incoming>,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let read = matches!(*request.method(), Method::GET | Method::HEAD);
        if read && !request.body().is_end_stream() {
            // A body that is left unread could be taken for the next request (RELIABILITY §2.4).
            return Err(bad_request("a read has no body"));
        }
        let host = requested_host(request)?;
        let deadline = received.deadline;
        let unauthenticated = self
            .unauthenticated(config, received, host.as_deref())
            .inspect_err(|_| notes.set_host(host.as_deref()))?;
        if request.uri().path() == token::TOKEN_PATH {
            notes.route = Some("token");
            return self.issue_token(unauthenticated, request, notes).await;
        }
        let target = Target::parse(request.uri().path(), request.uri().query())?;
        notes.route = Some(target.endpoint.route_label());
        let credential = ClientCredential::of(request.headers());
        let identified = self.identify(unauthenticated, &credential, notes).await?;
        let Some(repository) = target.endpoint.repository() else {
            return answer_without_repository(&config.routes, &target, &identified, read);
        };
        let to =
            Addressed { config, identified: &identified, host: host.as_deref(), target: &target };
        let action = requested_action(request.method(), &target.endpoint);
        let Some(route) = to.resolve(repository) else {
            notes.set_unknown(repository, &target.ns);
            if config.routes.is_unknown_registry(target.prefix.as_deref(), repository) {
                return Err(Refusal::unknown_name());
            }
            return Err(identified.refuse_unknown_name(&target.ns, action, repository));
        };
        let intent = Intent { action, route, deadline };
        self.authorise_and_dispatch(to, intent, request, notes).await
    }

    /// What is known of a request without its credential: the name of ours that it was sent to, its
    /// address, and the certificate of its connection.
    fn unauthenticated<'a>(
        &self,
        config: &'a RequestConfig,
        received: Received<'_>,
        host: Option<&str>,
    ) -> Result<Unauthenticated<'a>, Refusal> {
        let Received { connection, address, deadline } = received;
        let virtual_host = config.virtual_hosts.find(host, connection.secure);
        let host = virtual_host.ok_or_else(Refusal::misdirected)?;
        let certificate = connection.certificate.as_ref();
        let names = tls::certificate_names(certificate, self.clock.now())?.to_vec();
        let caller = Caller::anonymous(address, names);
        Ok(Unauthenticated { config, host, caller, deadline })
    }

    /// Answers a request about an image. Whether it is allowed is decided before anything is looked
    /// up, so that a refusal tells nothing about the cache (DESIGN §4.4).
    async fn authorise_and_dispatch(
        &self,
        to: Addressed<'_>,
        intent: Intent,
        request: &mut Request<Incoming>,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let Addressed { config, identified, target, .. } = to;
        let Intent { action, route, deadline } = intent;
        let name = route.canonical();
        notes.name = Some(name.clone());
        // Of a refusal the log says which application was named; of a grant, which one gave it.
        notes.application.clone_from(&route.application);
        let granted = identified.authorise(&config.policy, action, &route)?;
        notes.application = granted.application.cloned().or(notes.application.take());
        if matches!(action, Action::Push | Action::Delete) {
            let write = WriteRequest { to, route, name };
            // Boxed, so that reads do not carry the room for it.
            return Box::pin(self.serve_write(write, request, notes)).await;
        }
        self.note_pull(identified, &name);
        let may_push =
            route.writable && identified.decide(&config.policy, Action::Push, &route).is_ok();
        let (method, headers) = (request.method(), request.headers());
        let asker = asker(&identified.caller);
        let read = ReadRequest { route, name, method, headers, asker, may_push, deadline };
        let answer = self.serve_read(&read, &target.endpoint, notes).await;
        self.check_newest_rules(to, action, &read.route)?;
        if answer.as_ref().is_err_and(Refusal::is_of_seal) {
            self.note_miss(&read, &target.endpoint, &identified.caller.identity).await;
        }
        let mut answer = answer?;
        if target.endpoint.is_about_tags()
            && let Some(notice) =
                identified.expiry_notice(config.issuer.as_deref(), self.clock.now())
        {
            respond::warn(answer.headers_mut(), &notice);
        }
        Ok(answer)
    }

    /// A reload during the look-up may have brought another credential. What that fetches is for
    /// those whom the rules that came with it allow (ACCESS §8).
    fn check_newest_rules(
        &self,
        to: Addressed<'_>,
        action: Action,
        route: &Route,
    ) -> Result<(), Refusal> {
        let newest = self.config.load();
        if std::ptr::eq(&raw const **newest, to.config) {
            return Ok(());
        }
        to.identified.authorise(&newest.policy, action, route).map(drop)
    }

    /// Finds out who asks. Until that is known, and where it fails, the log says `unknown`.
    async fn identify(
        &self,
        unauthenticated: Unauthenticated<'_>,
        credential: &ClientCredential,
        notes: &mut Notes,
    ) -> Result<Identified, Refusal> {
        notes.identity = Some("unknown".into());
        let Unauthenticated { config, host, caller, deadline } = unauthenticated;
        let (gatekeeper, metrics) = (&self.gatekeeper, &self.metrics);
        let login = LoginAttempt { gatekeeper, metrics, config, credential, deadline };
        let identified = login.identify(host, caller).await;
        if identified.as_ref().map_or(true, Identified::has_ignored_a_credential) {
            notes.set_rejected(credential);
        }
        let identified = identified?;
        notes.identity = Some(identified.caller.identity.label());
        Ok(identified)
    }

    /// The token endpoint (AUTH-12). An anonymous caller gets a token only if there is something
    /// that it may use; else it is asked to log in.
    async fn issue_token(
        &self,
        unauthenticated: Unauthenticated<'_>,
        request: &mut Request<Incoming>,
        notes: &mut Notes,
    ) -> Result<Answer, Refusal> {
        let config = unauthenticated.config;
        let posted = *request.method() == Method::POST;
        let form = token::read_form(request, &self.limits).await?;
        let credential = form.credential.unwrap_or_else(|| ClientCredential::of(request.headers()));
        let identified = self.identify(unauthenticated, &credential, notes).await?;
        let anonymous = identified.authenticated.is_none() && identified.caller.is_anonymous();
        if anonymous && !config.policy.grants_anonymous_anything(&identified.caller) {
            let cause = "nothing is granted to anonymous from this address";
            return Err(identified.challenge(None).because(cause));
        }
        if let Identity::Licence(id) = &identified.caller.identity {
            for slug in config.policy.unknown_applications(&identified.caller.applications) {
                tracing::warn!(
                    licence = %id,
                    application = %slug,
                    "a licence is for an application that is not configured"
                );
            }
        }
        // Pushes of large layers have a long history of failing because they outlive their token,
        // which clients renew by its announced life alone (AUTH-10).
        let life = if config.policy.may_push(&identified.caller) {
            TOKEN_LIFE_FOR_PUSH
        } else {
            TOKEN_LIFE
        };
        let issued =
            self.gatekeeper.issue(&identified.token_subject(), &identified.host.audience, life);
        Ok(token::answer(&issued, posted.then_some(form.scope.as_str())))
    }

    /// Notes what is missing, for the operator (SEAL-7). Nobody pulls by a HEAD of a blob; whoever
    /// pushes asks so for what he has himself.
    async fn note_miss(&self, read: &ReadRequest<'_>, endpoint: &Endpoint, who: &Identity) {
        let thing = match endpoint {
            Endpoint::Manifest { reference, .. } => MissedThing::of(reference),
            Endpoint::Blob { digest, .. } if *read.method == Method::GET => {
                MissedThing::Blob(digest.clone())
            }
            Endpoint::Blob { .. }
            | Endpoint::Tags { .. }
            | Endpoint::Referrers { .. }
            | Endpoint::Upload { .. }
            | Endpoint::Ping
            | Endpoint::Catalog => return,
        };
        let key = MissKey { name: read.name.clone(), thing };
        self.misses.note(key, MissedBy::new(who.kind(), &read.asker)).await;
    }

    /// Notes for the operator that this caller has pulled.
    fn note_pull(&self, identified: &Identified, name: &CanonicalName) {
        let expires = identified.authenticated.as_ref().and_then(|login| login.expires);
        self.ledger.note(
            &identified.caller,
            LastPull { at: self.clock.now(), image: name.clone(), expires },
        );
    }
}

/// Answers the endpoints that are about no repository: the ping and the catalog.
fn answer_without_repository(
    routes: &Routes,
    target: &Target,
    identified: &Identified,
    read: bool,
) -> Result<Answer, Refusal> {
    if !routes.answers_ping(target.prefix.as_deref()) {
        return Err(Refusal::unknown_name());
    }
    match target.endpoint {
        Endpoint::Ping if identified.must_log_in() => Err(identified.challenge(None)),
        Endpoint::Catalog if identified.must_log_in() => {
            Err(identified.challenge(Some("registry:catalog:*")))
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
