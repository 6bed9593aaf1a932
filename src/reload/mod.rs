//! What changes while the proxy runs: the configuration, and each of the parts that it names, by
//! themselves (ACCESS §8).
//!
//! Files are looked at every few seconds and at once on SIGHUP. What cannot be used changes
//! nothing, is told once, and does not keep anything else from being replaced.

pub mod inputs;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::{self, Config};
use crate::files;
use crate::metrics::Metrics;
use crate::reload::inputs::Part;
use crate::server::{Generation, Service};
use crate::telemetry::Logging;

/// How often files are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// The label of the configuration itself, beside those of its parts.
const CONFIGURATION: &str = "configuration";

/// Watches files and replaces what they say.
#[derive(Debug)]
pub struct Reloader {
    file: Option<PathBuf>,
    logging: Option<Logging>,
    config: Config,
    service: Arc<Service>,
    metrics: Arc<Metrics>,
    /// What the files of each part held when they were read last, good or bad.
    seen: HashMap<&'static str, files::Fingerprint>,
}

impl Reloader {
    /// Takes `config` for what is loaded, and so the files of its parts as they are now.
    pub fn new(config: Config, service: Arc<Service>, metrics: Arc<Metrics>) -> Self {
        let mut reloader =
            Self { file: None, logging: None, config, service, metrics, seen: HashMap::new() };
        for part in Part::ALL {
            reloader.is_new(part.as_str(), &part.files(&reloader.config));
        }
        reloader
    }

    /// Watches the file that the configuration is from, and those that it was read from besides.
    /// `logging` follows it.
    pub fn watch(&mut self, file: PathBuf, logging: Option<Logging>) {
        self.logging = logging;
        self.is_new(CONFIGURATION, &self.sources(&file));
        self.file = Some(file);
    }

    fn sources(&self, file: &Path) -> Vec<PathBuf> {
        std::iter::once(file.to_owned()).chain(self.config.files.iter().cloned()).collect()
    }

    /// Runs until it is dropped; `now` asks it to look at once.
    pub async fn run(mut self, now: Arc<Notify>) {
        loop {
            // A timer that ran out is as good a reason as a signal.
            let _ = tokio::time::timeout(INTERVAL, now.notified()).await;
            let looked = tokio::task::spawn_blocking(move || {
                self.look();
                self
            });
            let Ok(back) = looked.await else { return };
            self = back;
        }
    }

    /// Reads again what has changed on disk.
    fn look(&mut self) {
        if let Some(file) = self.file.clone()
            && self.is_new(CONFIGURATION, &self.sources(&file))
        {
            let outcome = self.configuration(&file);
            // Another configuration may be read from other files.
            self.is_new(CONFIGURATION, &self.sources(&file));
            self.tell(CONFIGURATION, outcome);
        }
        for part in Part::ALL {
            if self.is_new(part.as_str(), &part.files(&self.config)) {
                let outcome = part
                    .load(&self.config, &self.service)
                    .map_err(|unusable| unusable.0.join("; "));
                self.tell(part.as_str(), outcome);
            }
        }
    }

    fn configuration(&mut self, file: &Path) -> Result<(), String> {
        let next =
            config::load(file).map_err(|problems| problems.to_string().replace('\n', "; "))?;
        let fixed = self.config.needs_restart(&next);
        if !fixed.is_empty() {
            return Err(format!(
                "a change of {} takes a restart; nothing of it was taken over",
                fixed.join(" and ")
            ));
        }
        if let Some(logging) = &self.logging {
            logging.set(&next.log).map_err(|error| error.to_string())?;
        }
        self.service
            .pull
            .reconfigure(&next.upstreams, &next.cache)
            .map_err(|error| error.to_string())?;
        self.service.generation.store(Arc::new(Generation::new(&next)));
        self.config = next;
        Ok(())
    }

    fn is_new(&mut self, what: &'static str, files: &[PathBuf]) -> bool {
        let now = files::fingerprint(files);
        self.seen.insert(what, now) != Some(now)
    }

    fn tell(&self, part: &'static str, outcome: Result<(), String>) {
        let label = if outcome.is_ok() { "loaded" } else { "refused" };
        self.metrics.reloads.with_label_values(&[part, label]).inc();
        match outcome {
            Ok(()) => tracing::info!(part, "loaded anew"),
            Err(problems) => {
                tracing::error!(part, %problems, "cannot be loaded anew; what was loaded before stays");
            }
        }
    }
}
