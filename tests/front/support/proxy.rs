//! The real proxy in this process: its own directory, its own ports, a clock that stands still.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use http::Method;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use roadstead::app::{App, Environment};
use roadstead::clock::Clock;
use roadstead::metrics::Metrics;
use roadstead::oci::Digest;
use roadstead::upstream::Lookup;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::client::{Answer, Reading};
use super::origin::Origin;
use super::{eventually, panics, soon};

pub(crate) use super::setup::Setup;

/// A proxy that runs until it is dropped or stopped.
#[derive(Debug)]
pub(crate) struct Proxy {
    setup: Setup,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    clients: SocketAddr,
    admin: SocketAddr,
    metrics: Arc<Metrics>,
    http: reqwest::Client,
    shutdown: Option<oneshot::Sender<()>>,
    reload: Arc<Notify>,
    task: JoinHandle<()>,
    /// Panics before it began.
    panics: usize,
}

impl Running {
    async fn start(setup: &Setup) -> Self {
        let panics = panics::behind_the_tests();
        let (lookups, answer) = (Arc::clone(&setup.lookups), Arc::clone(&setup.lookup_answer));
        let lookup = Lookup::new(move |name| {
            lookups.lock().expect("no test panics here").push(name);
            let answer = *answer.lock().expect("no test panics here");
            let found = answer.map(|address| vec![address]);
            std::future::ready(found.map_err(std::io::Error::from_raw_os_error))
        });
        let environment =
            Environment { clock: setup.clock.clone(), limits: setup.limits.clone(), lookup };
        let mut app = App::start(&setup.config, environment).expect("the proxy starts");
        if let Some(file) = &setup.watched {
            app.watch(file.clone(), None);
        }
        let clients = listen(setup.config.listen, setup.send_buffer);
        let admin = TcpListener::bind(setup.config.admin).await.expect("a free port");
        let (shutdown, told) = oneshot::channel();
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build();
        Self {
            clients: clients.local_addr().expect("it is bound"),
            admin: admin.local_addr().expect("it is bound"),
            metrics: app.metrics().clone(),
            http: http.expect("a client"),
            shutdown: Some(shutdown),
            reload: app.reload(),
            panics,
            task: tokio::spawn(app.run(clients, admin, async {
                // A proxy whose test is gone has nothing left to do either.
                let _told_or_gone = told.await;
            })),
        }
    }

    fn begin_shutdown(&mut self) {
        if let Some(shutdown) = self.shutdown.take() {
            shutdown.send(()).expect("the proxy runs until it is told to stop");
        }
    }
}

/// Accepted connections inherit the size.
fn listen(address: SocketAddr, send_buffer: Option<u32>) -> TcpListener {
    let socket = TcpSocket::new_v4().expect("a socket");
    if let Some(size) = send_buffer {
        socket.set_send_buffer_size(size).expect("a size");
    }
    socket.bind(address).expect("a free port");
    socket.listen(1024).expect("a listener")
}

impl Proxy {
    /// With `origin` as Docker Hub.
    pub(crate) async fn of(origin: &Origin) -> Self {
        Setup::of(origin).start().await
    }

    /// With these settings.
    pub(super) async fn with(setup: Setup) -> Self {
        let running = Running::start(&setup).await;
        Self { setup, running: Some(running) }
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.setup.clock
    }

    /// Writes another configuration and waits until the proxy has looked at it: how often such were
    /// loaded, and refused.
    pub(crate) async fn reconfigure(&self, text: &str) -> (i64, i64) {
        let reloads = |outcome| {
            self.metric(
                "roadstead_reloads_total",
                &[("part", "configuration"), ("outcome", outcome)],
            )
        };
        let before = reloads("loaded") + reloads("refused");
        self.setup.write(text);
        self.reload();
        eventually("the configuration is looked at", || {
            reloads("loaded") + reloads("refused") > before
        })
        .await;
        (reloads("loaded"), reloads("refused"))
    }

    /// Lets the proxy look at its files now.
    pub(crate) fn reload(&self) {
        self.running().reload.notify_one();
    }

    /// Puts another text into the configuration file, and says nothing.
    pub(crate) fn write(&self, text: &str) {
        self.setup.write(text);
    }

    /// What the next start uses.
    pub(crate) fn setup(&mut self) -> &mut Setup {
        &mut self.setup
    }

    fn running(&self) -> &Running {
        self.running.as_ref().expect("the proxy runs")
    }

    /// `host:port` for clients.
    pub(crate) fn authority(&self) -> String {
        self.running().clients.to_string()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, &[]).await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.request(Method::HEAD, path, &[]).await
    }

    pub(crate) async fn get_range(&self, path: &str, range: &str) -> Answer {
        self.request(Method::GET, path, &[("range", range)]).await
    }

    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Answer {
        self.open_with(method, path, headers).await.finish().await
    }

    /// The head of an answer, and its body at the test's pace.
    pub(crate) async fn open(&self, path: &str) -> Reading {
        self.open_with(Method::GET, path, &[]).await
    }

    pub(crate) async fn open_with(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Reading {
        let response = soon(path, self.build(method, path, headers).send()).await;
        Reading::new(response.unwrap_or_else(|error| panic!("no answer to {path}: {error:?}")))
    }

    /// Sends a body; the answer may come before its end.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let response = soon(path, self.build(method, path, headers).body(body).send()).await;
        Reading::new(response.unwrap_or_else(|error| panic!("no answer to {path}: {error:?}")))
            .finish()
            .await
    }

    fn build(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> reqwest::RequestBuilder {
        let headers: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).expect("the test sends valid headers"),
                )
            })
            .collect();
        let running = self.running();
        running.http.request(method, format!("http://{}{path}", running.clients)).headers(headers)
    }

    /// From now on, looking a name up gives this.
    pub(crate) fn look_up(&self, answer: Result<IpAddr, i32>) {
        *self.setup.lookup_answer.lock().expect("no test panics here") = answer;
    }

    /// Names that were looked up so far.
    pub(crate) fn lookups(&self) -> Vec<String> {
        self.setup.lookups.lock().expect("no test panics here").clone()
    }

    pub(crate) async fn admin(&self, path: &str) -> Answer {
        let running = self.running();
        let response =
            soon(path, running.http.get(format!("http://{}{path}", running.admin)).send()).await;
        Reading::new(response.expect("the admin listener answers")).finish().await
    }

    /// What the admin listener answers to a GET under that name.
    pub(crate) async fn admin_called(&self, host: &str, path: &str) -> Answer {
        let running = self.running();
        let request = running.http.get(format!("http://{}{path}", running.admin));
        let response = soon(path, request.header("host", host).send()).await;
        Reading::new(response.expect("the admin listener answers")).finish().await
    }

    /// A bare connection.
    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.running().clients).await.expect("the proxy listens")
    }

    /// A bare connection to the admin listener.
    pub(crate) async fn connect_admin(&self) -> TcpStream {
        TcpStream::connect(self.running().admin).await.expect("the admin side listens")
    }

    /// Sends exactly `bytes` and reads until the proxy closes the connection, which it must.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // A refusal may arrive, and the connection close, before everything is written.
        let _refused_early = stream.write_all(bytes).await;
        let mut answer = Vec::new();
        let _reset_after_refusal =
            soon("the end of a connection", stream.read_to_end(&mut answer)).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The sum of the series of a metric that have these labels; 0 if there is none.
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        let text = self.running().metrics.render().expect("metrics can be shown");
        let wanted: Vec<String> =
            labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let series = text.lines().filter_map(|line| line.rsplit_once(' ')).filter(|(series, _)| {
            let (known, labels) = series.split_once('{').unwrap_or((series, ""));
            known == name && wanted.iter().all(|label| labels.contains(label.as_str()))
        });
        series.map(|(_, value)| value.parse::<i64>().expect("counters and gauges are whole")).sum()
    }

    /// Waits until every request has ended and is counted, which is a moment after its client has
    /// seen the last byte.
    pub(crate) async fn settled(&self) {
        eventually("every request has ended", || {
            self.metric("roadstead_http_requests_in_flight", &[]) == 0
        })
        .await;
    }

    /// Where a blob's verified bytes lie.
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.setup
            .config
            .cache
            .path
            .join("blobs")
            .join(digest.algorithm().name())
            .join(&hex[..2])
            .join(hex)
    }

    pub(crate) fn has_stored(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Files that are being written and have a name.
    pub(crate) fn staged_files(&self) -> usize {
        std::fs::read_dir(self.setup.config.cache.path.join("staging")).map_or(0, Iterator::count)
    }

    /// Stops taking connections; what is under way may end.
    pub(crate) fn begin_shutdown(&mut self) {
        self.running.as_mut().expect("the proxy runs").begin_shutdown();
    }

    /// Waits for the end of a proxy that was told to stop, or tells it.
    pub(crate) async fn stop(&mut self) {
        let mut running = self.running.take().expect("the proxy runs");
        running.begin_shutdown();
        soon("the proxy's end", running.task).await.expect("the proxy does not panic");
        assert_eq!(
            panics::behind_the_tests(),
            running.panics,
            "something panicked behind the test"
        );
    }

    /// Starts on the same directory.
    pub(crate) async fn start(&mut self) {
        assert!(self.running.is_none(), "the proxy still runs");
        self.running = Some(Running::start(&self.setup).await);
    }

    /// A clean stop and a new start on the same directory.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start().await;
    }

    /// The directory that everything lies in.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.setup.directory.path()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        running.begin_shutdown();
        let joined = tokio::task::block_in_place(|| {
            tokio::runtime::Handle::current()
                .block_on(tokio::time::timeout(super::DEADLINE, running.task))
        });
        if !std::thread::panicking() {
            joined.expect("the proxy ends in time").expect("the proxy does not panic");
            assert_eq!(
                panics::behind_the_tests(),
                running.panics,
                "something panicked behind the test"
            );
        }
    }
}

/// The path of a blob.
pub(crate) fn blob(repository: &str, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

/// The path of a manifest.
pub(crate) fn manifest(repository: &str, reference: impl std::fmt::Display) -> String {
    format!("/v2/{repository}/manifests/{reference}")
}
