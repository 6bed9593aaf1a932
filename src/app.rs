//! Composition root: a configuration becomes parts, parts become a running proxy.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::access::Gatekeeper;
use crate::admin::Admin;
use crate::clock::Clock;
use crate::config::Config;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::pull::{Parts, PullThrough};
use crate::push::PushThrough;
use crate::reload::Reloader;
use crate::reload::inputs::{self, Input};
use crate::server::{self, RequestConfig, Service};
use crate::store::BlobStore;
use crate::telemetry::Logging;
use crate::upstream::{Lookup, Upstreams};

/// What the world gives besides the configuration; tests give another one.
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
    pull: PullThrough,
    service: Arc<Service>,
    admin: Arc<Admin>,
    draining: CancellationToken,
    metrics: Arc<Metrics>,
    reloader: Reloader,
    reload: Arc<Notify>,
}

impl App {
    /// Opens the store and builds every part; binds nothing and dials nowhere.
    ///
    /// # Errors
    /// If the cache directory cannot be used, or belongs to a running process.
    pub fn start(config: &Config, environment: Environment) -> anyhow::Result<Self> {
        let Environment { clock, limits, lookup } = environment;
        let metrics = Arc::new(Metrics::new());
        let store = BlobStore::new(&config.cache, &limits, clock.clone(), Arc::clone(&metrics))?;
        let upstreams = Upstreams::new(
            &config.upstreams,
            clock.clone(),
            &limits,
            Arc::clone(&metrics),
            &lookup,
        )
        .context("cannot prepare the upstreams")?;
        let parts = Parts {
            store: store.clone(),
            upstreams: Arc::new(upstreams),
            clock: clock.clone(),
            limits: limits.clone(),
            metrics: Arc::clone(&metrics),
        };
        let gatekeeper = gatekeeper(config, clock.clone())?;
        let pull = PullThrough::new(parts.clone(), &config.cache);
        let push = PushThrough::new(&parts, pull.clone());
        let service = Service {
            config: ArcSwap::from_pointee(RequestConfig::new(config)),
            gatekeeper,
            tls: ArcSwapOption::empty(),
            pull: pull.clone(),
            push,
            ledger: Arc::default(),
            limits,
            clock,
            metrics: Arc::clone(&metrics),
        };
        let service = Arc::new(service);
        // Before the files are read: what changes in between is seen as a change.
        let reloader = Reloader::new(config.clone(), Arc::clone(&service), Arc::clone(&metrics));
        for input in Input::ALL {
            input.load(config, &service).map_err(|unusable| anyhow!(unusable.0.join("\n")))?;
        }
        let draining = CancellationToken::new();
        let admin = Arc::new(Admin::new(
            Arc::clone(&metrics),
            draining.clone(),
            Arc::clone(&service.ledger),
        ));
        Ok(Self {
            store,
            pull,
            service,
            admin,
            draining,
            metrics,
            reloader,
            reload: Arc::default(),
        })
    }

    /// Takes the configuration anew from `file`, and tells `logging`, when it changes.
    pub fn watch(&mut self, file: PathBuf, logging: Option<Logging>) {
        self.reloader.watch(file, logging);
    }

    /// Asks for a look at every file at once.
    pub fn reload(&self) -> Arc<Notify> {
        Arc::clone(&self.reload)
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Serves until `shutdown` resolves, then drains: not ready any more, transfers end within the
    /// grace period, downloads that are still under way leave nothing.
    pub async fn run(
        self,
        clients: TcpListener,
        admin: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) {
        let ended = CancellationToken::new();
        let operator =
            tokio::spawn(Arc::clone(&self.admin).run(admin, ended.clone().cancelled_owned()));
        let upkeep = tokio::spawn(upkeep(self.store.clone(), self.service.push.clone()));
        let reloads = tokio::spawn(self.reloader.run(self.reload));
        let stop = async {
            shutdown.await;
            self.draining.cancel();
        };
        server::run(clients, Arc::clone(&self.service), stop).await;
        self.pull.stop().await;
        upkeep.abort();
        reloads.abort();
        self.store.close().await;
        ended.cancel();
        if operator.await.is_err() {
            tracing::error!("the admin listener ended with a panic");
        }
    }
}

fn gatekeeper(config: &Config, clock: Clock) -> anyhow::Result<Gatekeeper> {
    let path = config.key_file();
    let made = inputs::token_key(&path).and_then(|key| Gatekeeper::new(&key, clock));
    made.map_err(|message| anyhow!("{}: {message}", path.display()))
}

/// Loads the index while requests are served already, then keeps the records up to date.
async fn upkeep(store: BlobStore, push: PushThrough) {
    if let Err(error) = store.load().await {
        tracing::error!(%error, "cannot read the cache's index; nothing will be evicted");
    }
    tokio::join!(store.maintain(), push.maintain());
}
