//! The composition root: a configuration becomes parts, and parts become a running proxy. There are
//! no globals; whatever a part needs is handed to it here.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::access::{Gatekeeper, generate_key};
use crate::admin::{Admin, Expiries};
use crate::clock::Clock;
use crate::config::{self, Config};
use crate::control::{Control, ControlParts};
use crate::images::Pins;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::misses::MissJournal;
use crate::pull::{Parts, PullThrough};
use crate::push::PushThrough;
use crate::reload::Reloader;
use crate::reload::inputs::Input;
use crate::reload::token_key::token_key;
use crate::scrub::Scrub;
use crate::server::{self, ClientMemory, RequestConfig, RequestIds, Service};
use crate::store::BlobStore;
use crate::telemetry::Logging;
use crate::upstream::{Lookup, Upstreams};

/// What the proxy takes from the world besides the configuration. Tests hand in a clock that they
/// move, shorter limits, and names of their own.
#[derive(Clone, Debug)]
pub struct Environment {
    pub clock: Clock,
    pub limits: Limits,
    /// How names of upstreams become addresses.
    pub lookup: Lookup,
}

impl Default for Environment {
    fn default() -> Self {
        Self { clock: Clock::system(), limits: Limits::default(), lookup: Lookup::system() }
    }
}

/// A proxy with its store open, ready to run on listeners that are already bound.
#[derive(Debug)]
pub struct App {
    store: BlobStore,
    pins: Pins,
    service: Arc<Service>,
    admin: Arc<Admin>,
    expiries: Arc<Expiries>,
    /// Cancelled when the shutdown begins, so that `/readyz` says so.
    draining: CancellationToken,
    reloader: Reloader,
    /// None where the directory takes no socket.
    control: Option<Control>,
    /// Asks the reloader to look at the files at once.
    reload: Arc<Notify>,
}

impl App {
    /// Opens the store and builds every part; dials nowhere, and listens to nobody but the operator,
    /// whose commands wait on the socket in the cache directory until it runs.
    ///
    /// # Errors
    /// If the cache directory cannot be used or belongs to a running process, or if a file that the
    /// configuration names (keys, users, certificates) cannot be used. The message says which.
    pub fn start(config: &Config, environment: Environment) -> anyhow::Result<Self> {
        let parts = parts(config, environment)?;
        let (store, metrics) = (parts.store.clone(), Arc::clone(&parts.metrics));
        let (upstreams, clock) = (Arc::clone(&parts.upstreams), parts.clock.clone());
        let service = Arc::new(service(config, parts)?);
        // The reloader notes what the files hold before they are loaded. A file that is written in
        // between is loaded again later; the other way round, its change would go unseen.
        let mut reloader =
            Reloader::new(config.clone(), Arc::clone(&service), Arc::clone(&metrics));
        for input in Input::ALL {
            reloader.load(input).map_err(|unusable| anyhow!("{unusable}"))?;
        }
        let pins = Pins::new(store.clone(), &config.cache, metrics);
        let parts = ControlParts::of(&service, store.clone(), pins.clone());
        let control = control(config, parts);
        let draining = CancellationToken::new();
        let expiries = Arc::new(Expiries::new(Arc::clone(&service), upstreams, clock));
        let admin = Admin::new(
            Arc::clone(&service),
            draining.clone(),
            store.clone(),
            Arc::clone(&expiries),
        );
        let (admin, reload) = (Arc::new(admin), Arc::default());
        Ok(Self { store, pins, service, admin, expiries, draining, reloader, control, reload })
    }

    /// While it runs, reads the configuration again when `file` changes, and `logging` with it.
    pub fn watch(&mut self, file: PathBuf, logging: Option<Logging>) {
        self.reloader.watch(file, logging);
    }

    /// Notifying this reads every file that has changed at once, as on SIGHUP.
    pub fn reload(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }

    /// The metrics of this proxy; there is one set for each.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.service.metrics
    }

    /// Serves until `shutdown` resolves. Then `/readyz` is 503; new clients are served for the
    /// drain delay, until balancers have noticed; transfers to clients may end within the grace
    /// period, and downloads that are still under way are dropped and leave nothing.
    pub async fn run(
        self,
        clients: TcpListener,
        admin: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) {
        let admin_stop = CancellationToken::new();
        let admin = tokio::spawn(self.admin.run(admin, admin_stop.clone().cancelled_owned()));
        let journal = Arc::clone(&self.service);
        // From the start: the index of a large cache takes its time.
        let journal = tokio::spawn(async move { journal.misses.maintain().await });
        let upkeep = tokio::spawn(upkeep(
            self.store.clone(),
            self.pins.clone(),
            Arc::clone(&self.service),
            self.reloader.cache(),
            scrub(&self.service, &self.store, &self.pins),
        ));
        let reloads = tokio::spawn(self.reloader.run(self.reload));
        let warnings = tokio::spawn(self.expiries.warn());
        let (commands_stop, control) = (CancellationToken::new(), self.control);
        let stopped = commands_stop.clone().cancelled_owned();
        let commands = tokio::spawn(async move {
            if let Some(control) = control {
                control.run(stopped).await;
            }
        });
        let stop = async {
            shutdown.await;
            self.draining.cancel();
        };
        server::run(clients, Arc::clone(&self.service), stop).await;
        // Readers first, then the downloads that they read, then the disk below both. The admin
        // side answers until the end: a probe sees "not ready" and no refused connection.
        self.service.pull.stop().await;
        upkeep.abort();
        journal.abort();
        reloads.abort();
        warnings.abort();
        commands_stop.cancel();
        drop(commands.await);
        self.service.misses.flush().await;
        self.store.close().await;
        admin_stop.cancel();
        if admin.await.is_err() {
            tracing::error!("the admin listener ended with a panic");
        }
    }
}

fn scrub(service: &Service, store: &BlobStore, pins: &Pins) -> Scrub {
    Scrub {
        store: store.clone(),
        pins: pins.clone(),
        pull: service.pull.clone(),
        clock: service.clock.clone(),
        look: service.limits.scrub_look,
        metrics: Arc::clone(&service.metrics),
    }
}

/// Where the directory takes no socket, the server does everything else.
fn control(config: &Config, parts: ControlParts) -> Option<Control> {
    let path = config.control_socket();
    let made = Control::new(&path, parts);
    made.inspect_err(|error| {
        tracing::warn!(%error, path = %path.display(), "no commands are taken: there is no socket");
    })
    .ok()
}

/// What the cache is made of: the store, the upstreams, and what both are measured by.
fn parts(config: &Config, environment: Environment) -> anyhow::Result<Parts> {
    let Environment { clock, limits, lookup } = environment;
    let metrics = Arc::new(Metrics::new());
    let store = BlobStore::new(&config.cache, &limits, clock.clone(), Arc::clone(&metrics))?;
    let (upstreams, shared) = (&config.upstreams, Arc::clone(&metrics));
    let upstreams = Upstreams::new(upstreams, clock.clone(), &limits, shared, &lookup)
        .context("cannot prepare the upstreams")?;
    Ok(Parts { store, upstreams: Arc::new(upstreams), clock, limits, metrics })
}

/// What answers requests. Users, keys, revocations and the certificate are loaded into it later, in
/// the same way at the start and at a reload.
fn service(config: &Config, parts: Parts) -> anyhow::Result<Service> {
    let gatekeeper = gatekeeper(config, parts.clock.clone())?;
    let pull = PullThrough::new(parts.clone(), &config.cache);
    let push = PushThrough::new(&parts, pull.clone());
    let Parts { store, limits, clock, metrics, .. } = parts;
    let misses = MissJournal::new(&store, &limits, clock.clone(), Arc::clone(&metrics));
    Ok(Service {
        config: ArcSwap::from_pointee(RequestConfig::new(config)),
        gatekeeper,
        tls: watch::Sender::new(None),
        pull,
        misses,
        push,
        ledger: Arc::default(),
        request_ids: RequestIds::default(),
        memory: ClientMemory::new(&limits, &metrics),
        limits,
        clock,
        metrics,
    })
}

/// Who may log in, and the tokens that we give out. Its key file is made if there is none. Where the
/// disk gives none, a key stands in for it that this process keeps, whatever is read again.
fn gatekeeper(config: &Config, clock: Clock) -> anyhow::Result<Gatekeeper> {
    let path = config.key_file();
    let made = token_key(config)
        .and_then(|key| key.map_or_else(generate_key, Ok))
        .and_then(|key| Gatekeeper::new(&key, clock));
    made.map_err(|message| anyhow!("{}: {message}", path.display()))
}

/// Loads the index while requests are served already, then keeps records and uploads tidy; never
/// returns. Without an index nothing can be evicted, and the cache serves on: that is logged, and
/// no reason to stop.
async fn upkeep(
    store: BlobStore,
    pins: Pins,
    service: Arc<Service>,
    caches: watch::Receiver<config::Cache>,
    scrub: Scrub,
) {
    // Before the index is loaded nothing is evicted.
    let looked = pins.clone();
    if tokio::task::spawn_blocking(move || looked.load()).await.is_err() {
        tracing::error!("what is pinned cannot be looked at");
    }
    if let Err(error) = store.load().await {
        tracing::error!(%error, "cannot read the cache's index; nothing will be evicted");
    }
    let scrubbed = caches.clone();
    tokio::join!(
        store.maintain(),
        service.push.maintain(),
        pins.follow(caches),
        scrub.run(scrubbed)
    );
}
