//! Replaces what changes on disk while the proxy runs: the configuration, and each input that it
//! names (users, keys, revocations, certificate), each by itself (ACCESS §8).
//!
//! Files are read every few seconds, and at once on SIGHUP. A file that cannot be used changes
//! nothing, is logged once, and does not keep the others from being replaced.

mod fingerprint;
pub(crate) mod inputs;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::reload::inputs::Input;
use crate::server::{RequestConfig, Service};
use crate::telemetry::Logging;

use fingerprint::Fingerprint;

/// How often files are read to see whether they have changed.
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The label of the configuration itself in metrics and log lines, beside those of the inputs.
const CONFIGURATION: &str = "configuration";

/// Watches files, and replaces what was loaded from them.
#[derive(Debug)]
pub(crate) struct Reloader {
    file: Option<PathBuf>,
    logging: Option<Logging>,
    config: Config,
    service: Arc<Service>,
    metrics: Arc<Metrics>,
    /// What the files of each input held when they were read last, good or bad, by its label. A bad
    /// file is remembered as well, so that it is logged once.
    seen: HashMap<&'static str, Fingerprint>,
}

impl Reloader {
    /// Remembers the files of each input as they are now. The inputs of `config` have to be loaded
    /// after this: a change in between is then seen as a change.
    pub(crate) fn new(config: Config, service: Arc<Service>, metrics: Arc<Metrics>) -> Self {
        let mut reloader =
            Self { file: None, logging: None, config, service, metrics, seen: HashMap::new() };
        for input in Input::ALL {
            reloader.note_change(input.as_str(), &input.files(&reloader.config));
        }
        reloader
    }

    /// Also watches the file that the configuration is from, and the other files that it was read
    /// from. `logging` is changed with it.
    pub(crate) fn watch(&mut self, file: PathBuf, logging: Option<Logging>) {
        self.logging = logging;
        self.note_change(CONFIGURATION, &self.configuration_files(&file));
        self.file = Some(file);
    }

    fn configuration_files(&self, file: &Path) -> Vec<PathBuf> {
        std::iter::once(file.to_owned()).chain(self.config.files.iter().cloned()).collect()
    }

    /// Runs until it is dropped; `now` asks it to look at once.
    pub(crate) async fn run(mut self, now: Arc<Notify>) {
        loop {
            // Either the interval is over or a signal asks: the files are read in both cases.
            let _ = tokio::time::timeout(POLL_INTERVAL, now.notified()).await;
            let reloaded = tokio::task::spawn_blocking(move || {
                self.reload_changed();
                self
            });
            let Ok(back) = reloaded.await else { return };
            self = back;
        }
    }

    /// Loads what has changed on disk; blocks.
    fn reload_changed(&mut self) {
        if let Some(file) = self.file.clone()
            && self.note_change(CONFIGURATION, &self.configuration_files(&file))
        {
            let outcome = self.load_configuration(&file);
            // Another configuration may be read from other files.
            self.note_change(CONFIGURATION, &self.configuration_files(&file));
            self.report(CONFIGURATION, outcome);
        }
        for input in Input::ALL {
            if self.note_change(input.as_str(), &input.files(&self.config)) {
                let outcome = input
                    .load(&self.config, &self.service)
                    .map_err(|unusable| unusable.0.join("; "));
                self.report(input.as_str(), outcome);
            }
        }
    }

    fn load_configuration(&mut self, file: &Path) -> Result<(), String> {
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
        self.service.config.store(Arc::new(RequestConfig::new(&next)));
        self.config = next;
        Ok(())
    }

    /// Whether the files differ from when they were read last; from now on, these are what was
    /// read.
    fn note_change(&mut self, what: &'static str, files: &[PathBuf]) -> bool {
        let now = Fingerprint::of(files);
        self.seen.insert(what, now) != Some(now)
    }

    fn report(&self, part: &'static str, outcome: Result<(), String>) {
        let label = if outcome.is_ok() { "loaded" } else { "refused" };
        self.metrics.reloads.with_label_values(&[part, label]).inc();
        match outcome {
            Ok(()) => tracing::info!(part, "loaded anew"),
            Err(problems) => {
                tracing::error!(
                    part,
                    %problems,
                    "cannot be loaded anew; what was loaded before stays"
                );
            }
        }
    }
}
