//! A scripted registry in this process: right by default, wrong where the test says so, and it
//! remembers every request.
//!
//! It writes HTTP/1.1 by hand, so that it can also say what no server library would.

mod body;
mod fault;
mod registry;
mod reply;
mod request;
mod tests;
mod token;
mod uploads;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use body::{Pace, Received};
use bytes::Bytes;
use roadstead::oci::{Algorithm, Digest};
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use url::Url;

use super::content::{Blob, Content};
use super::image::{Image, Manifest};

pub(crate) use fault::{Fault, Gate, On};
pub(crate) use request::{Kind, Request};
pub(crate) use token::{Auth, Bearer, Login};
pub(crate) use uploads::Dialect;

/// A registry on a port of its own. Dropping it ends its connections.
#[derive(Debug)]
pub(crate) struct Origin {
    shared: Arc<Shared>,
    listening: Mutex<Listening>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    state: Mutex<State>,
    /// Told to every connection that must end.
    hang_up: Notify,
}

#[derive(Debug)]
struct State {
    registry: registry::Registry,
    guard: token::Guard,
    faults: fault::Faults,
    log: Vec<Request>,
    connections: usize,
}

#[derive(Debug)]
enum Listening {
    Up(JoinHandle<()>),
    /// The port is kept, but nobody listens: connections are refused.
    Down(TcpSocket),
}

impl Origin {
    pub(crate) async fn start() -> Self {
        Self::on("127.0.0.1:0").await
    }

    /// At an address of this machine.
    pub(crate) async fn on(address: &str) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let state = State {
            registry: registry::Registry::new(),
            guard: token::Guard::default(),
            faults: fault::Faults::default(),
            log: Vec::new(),
            connections: 0,
        };
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared { address, state: Mutex::new(state), hang_up: Notify::new() });
        let listening = Mutex::new(Listening::Up(tokio::spawn(accept(listener, shared.clone()))));
        Self { shared, listening }
    }

    /// An origin that holds `image` as `repository:tag`.
    pub(crate) async fn with(repository: &str, tag: &str, image: &Image) -> Self {
        let origin = Self::start().await;
        origin.push(repository, tag, image);
        origin
    }

    pub(crate) fn url(&self) -> Url {
        Url::parse(&format!("http://{}", self.shared.address)).expect("an address is a URL")
    }

    /// `host:port`.
    pub(crate) fn authority(&self) -> String {
        self.shared.address.to_string()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state()
    }

    pub(crate) fn push(&self, repository: &str, tag: &str, image: &Image) {
        let blobs = image.layers.iter().chain([&image.config]);
        blobs.for_each(|blob| self.put_blob(repository, blob));
        self.put_manifest(repository, &image.manifest);
        self.tag(repository, tag, &image.manifest.digest);
    }

    pub(crate) fn put_blob(&self, repository: &str, blob: &Blob) {
        self.state().registry.put_blob(repository, blob);
    }

    /// A new blob of seeded bytes in `repository`.
    pub(crate) fn blob(&self, repository: &str, seed: u64, len: u64) -> Blob {
        let blob = Blob::new(Content::seeded(seed, len));
        self.put_blob(repository, &blob);
        blob
    }

    pub(crate) fn remove_blob(&self, repository: &str, digest: &Digest) {
        self.state().registry.remove_blob(repository, digest);
    }

    pub(crate) fn put_manifest(&self, repository: &str, manifest: &Manifest) {
        self.state().registry.put_manifest(repository, manifest);
    }

    pub(crate) fn remove_manifest(&self, repository: &str, digest: &Digest) {
        self.state().registry.remove_manifest(repository, digest);
    }

    pub(crate) fn tag(&self, repository: &str, tag: &str, digest: &Digest) {
        self.state().registry.tag(repository, tag, digest);
    }

    pub(crate) fn untag(&self, repository: &str, tag: &str) {
        self.state().registry.untag(repository, tag);
    }

    /// What the referrers API says of `subject`; without any such call the registry has no
    /// referrers API.
    pub(crate) fn put_referrers(&self, subject: &Digest, index: impl Into<Bytes>) {
        self.state().registry.put_referrers(subject, index.into());
    }

    /// Tags come in pages of this size, with links that are absolute or not.
    pub(crate) fn page(&self, size: usize, absolute_links: bool) {
        let mut state = self.state();
        state.registry.page = size;
        state.registry.absolute_links = absolute_links;
    }

    /// How it takes writes from now on.
    pub(crate) fn behave(&self, dialect: Dialect) {
        self.state().registry.uploads.dialect = dialect;
    }

    pub(crate) fn require(&self, auth: Auth) {
        self.state().guard.set(auth);
    }

    pub(crate) fn forget_tokens(&self) {
        self.state().guard.forget_tokens();
    }

    pub(crate) fn fault(&self, on: On, fault: Fault) {
        self.state().faults.add(on, fault);
    }

    /// Holds GETs of a blob before the byte at `offset`.
    pub(crate) fn hold_at(&self, digest: &Digest, offset: u64) -> Gate {
        let gate = Gate::new();
        self.fault(On::path(digest.as_str()).gets(), Fault::HoldAt(offset, gate.clone()));
        gate
    }

    /// Switches every fault off.
    pub(crate) fn repair(&self) {
        self.state().faults.clear();
    }

    /// Every request so far, in the order of arrival.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.state().log.clone()
    }

    pub(crate) fn count(&self, which: impl Fn(&Request) -> bool) -> usize {
        self.state().log.iter().filter(|request| which(request)).count()
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.state().connections
    }

    pub(crate) fn blob_gets(&self, digest: &Digest) -> usize {
        self.count(|request| request.is_get(Kind::Blob) && request.reference == digest.as_str())
    }

    /// The `Range` headers of the GETs of a blob, `None` for those without.
    pub(crate) fn ranges(&self, digest: &Digest) -> Vec<Option<String>> {
        let gets = self
            .requests()
            .into_iter()
            .filter(|r| r.is_get(Kind::Blob) && r.reference == digest.as_str());
        gets.map(|request| request.header("range").map(str::to_owned)).collect()
    }

    /// Ends every connection; new ones are welcome.
    pub(crate) fn hang_up(&self) {
        self.shared.hang_up.notify_waiters();
    }

    /// Ends every connection and refuses new ones.
    pub(crate) async fn stop(&self) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("an option of every socket");
        let before = {
            let mut listening = self.listening.lock().expect("no test panics while holding it");
            std::mem::replace(&mut *listening, Listening::Down(socket))
        };
        if let Listening::Up(task) = before {
            task.abort();
            let ended = task.await;
            assert!(ended.is_err_and(|error| error.is_cancelled()), "the origin ended on its own");
        }
        if let Listening::Down(socket) =
            &*self.listening.lock().expect("no test panics while holding it")
        {
            socket.bind(self.shared.address).expect("the port is ours");
        }
    }

    /// Listens again on the same port.
    pub(crate) fn resume(&self) {
        let mut listening = self.listening.lock().expect("no test panics while holding it");
        let idle = TcpSocket::new_v4().expect("a socket");
        if let Listening::Down(socket) = std::mem::replace(&mut *listening, Listening::Down(idle)) {
            let listener = socket.listen(1024).expect("the port is ours");
            *listening = Listening::Up(tokio::spawn(accept(listener, self.shared.clone())));
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        if let Ok(Listening::Up(task)) = self.listening.get_mut() {
            task.abort();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding the state")
    }

    /// Remembers a request whose head has come; its place in the log, the faults that fit, and what
    /// its body goes on from.
    fn arrived(&self, request: &Request) -> (usize, Vec<Fault>, Received) {
        let state = &mut *self.state();
        state.log.push(request.clone());
        (
            state.log.len() - 1,
            state.faults.taken_by(request),
            state.registry.received_before(request),
        )
    }

    /// The answer to a request that has come in whole, with its faults.
    fn answer(
        &self,
        place: usize,
        request: &Request,
        received: Received,
        faults: Vec<Fault>,
    ) -> reply::Reply {
        let state = &mut *self.state();
        state.log[place] = request.clone();
        let whole = faults.iter().any(|fault| matches!(fault, Fault::IgnoreRange));
        let authority = self.address.to_string();
        let mut reply = None;
        for fault in &faults {
            if let Fault::Status(status) = fault {
                reply = Some(reply::Reply::error(*status, code_of(*status)));
            } else if let Fault::Instead(status, media_type, body) = fault {
                reply = Some(reply::Reply::typed(*status, media_type, body.clone()));
            } else if let Fault::Redirect(to) = fault {
                let nth = state
                    .log
                    .iter()
                    .filter(|r| r.method == request.method && r.path == request.path)
                    .count();
                let to = to
                    .replace("{digest}", &request.reference)
                    .replace("{repository}", &request.repository);
                let to = to.replace("{nth}", &nth.to_string());
                reply = Some(reply::Reply::error(307, "MOVED").with("Location", to));
            }
        }
        let reply =
            reply.unwrap_or_else(|| state.right_answer(request, received, &authority, whole));
        faults.into_iter().fold(reply, reply::Reply::spoil)
    }
}

impl State {
    fn right_answer(
        &mut self,
        request: &Request,
        received: Received,
        authority: &str,
        whole: bool,
    ) -> reply::Reply {
        if request.kind == Kind::Token {
            return self.guard.token(request);
        }
        let refused =
            self.guard.refuse(request, authority).filter(|_| request.kind != Kind::Storage);
        refused.unwrap_or_else(|| {
            if request.is_write() {
                self.registry.write(request, received)
            } else {
                self.registry.answer(request, authority, whole)
            }
        })
    }
}

/// distribution's code for a status.
fn code_of(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        404 => "NAME_UNKNOWN",
        405 => "UNSUPPORTED",
        429 => "TOOMANYREQUESTS",
        _ => "UNKNOWN",
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("a listener accepts");
                shared.state().connections += 1;
                connections.spawn(serve(stream, shared.clone()));
            }
            Some(ended) = connections.join_next() => {
                // A client that went away is no concern of the origin's; a panic is the test's.
                let _gone: io::Result<()> = ended.expect("the origin does not panic");
            }
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    let hang_up = shared.hang_up.notified();
    tokio::select! {
        ended = converse(stream, &shared) => ended,
        () = hang_up => Ok(()),
    }
}

async fn converse(stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    while let Some(mut request) = Request::read(&mut read).await? {
        let (place, faults, mut received) = shared.arrived(&request);
        let has = |wanted: fn(&Fault) -> bool| faults.iter().any(wanted);
        if has(|fault| matches!(fault, Fault::Hangup)) {
            break;
        }
        let unread = has(|fault| matches!(fault, Fault::Unread));
        if !unread {
            request.received =
                request.framing().read(&mut read, &Pace::of(&faults), &mut received).await?;
            if request.kind != Kind::Upload {
                request.body = received.bytes().unwrap_or_default();
            }
        }
        let reply = shared.answer(place, &request, received, faults);
        let framing = request.framing();
        if !reply.write(&mut write, request.method == "HEAD").await? {
            break;
        }
        if unread {
            // A reset would take the answer away from whoever is still sending.
            framing
                .read(&mut read, &Pace::default(), &mut Received::new(Algorithm::Sha256))
                .await?;
        }
    }
    Ok(())
}
