//! Replaces what changes on disk while the proxy runs: the configuration, and each input that it
//! names (users, keys, revocations, certificate), each by itself (ACCESS §8).
//!
//! Every few seconds the files are compared with what was read, and whatever has changed is loaded;
//! SIGHUP loads everything at once. A file that cannot be used changes nothing, is logged once, and
//! does not keep the others from being replaced. Of a configuration that is refused the files are
//! watched that it names, since one that is missing may come later.

pub(crate) mod inputs;
pub(crate) mod token_key;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::Notify;

use crate::clock::Timestamp;
use crate::config::{Config, Draft, FilesRead, Problems, Surroundings};
use crate::files::Fingerprint;
use crate::metrics::Metrics;
use crate::reload::inputs::Input;
use crate::server::{RequestConfig, Service};
use crate::telemetry::Logging;

/// The label of the configuration itself in metrics and log lines, beside those of the inputs.
const CONFIGURATION: &str = "configuration";

/// What a look at the files reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    /// What has changed since the last one.
    Changes,
    /// Everything: somebody asks for it, and has to hear what is wrong with it.
    Everything,
}

/// Watches files, and replaces what was loaded from them.
#[derive(Debug)]
pub(crate) struct Reloader {
    file: Option<PathBuf>,
    logging: Option<Logging>,
    config: Config,
    /// What the configuration was read from last. If that was refused, these are not the files of
    /// `config`: a secret that it misses may come later.
    files_read: FilesRead,
    service: Arc<Service>,
    metrics: Arc<Metrics>,
    /// What the files of each input held when they were read last, good or bad, by its label. A bad
    /// file is remembered as well, so that it is logged once.
    seen: HashMap<&'static str, Fingerprint>,
    /// When an input that was refused can be used, if that is only a matter of time.
    due: HashMap<&'static str, Timestamp>,
    /// The parts whose files were refused when they were read last.
    refused: HashSet<&'static str>,
}

impl Reloader {
    /// Remembers the files of each input as they are now. The inputs of `config` have to be loaded
    /// after this: a change in between is then seen as a change.
    pub(crate) fn new(config: Config, service: Arc<Service>, metrics: Arc<Metrics>) -> Self {
        let files_read = config.files_read.clone();
        let (file, logging) = (None, None);
        let (seen, due, refused) = (HashMap::new(), HashMap::new(), HashSet::new());
        let mut reloader =
            Self { file, logging, config, files_read, service, metrics, seen, due, refused };
        reloader.show_state("start", true);
        for input in Input::ALL {
            reloader.note_change(input.as_str(), &input.files(&reloader.config));
        }
        reloader
    }

    /// Also watches the file that the configuration is from, and whatever it was read from.
    /// `logging` is changed with it.
    pub(crate) fn watch(&mut self, file: PathBuf, logging: Option<Logging>) {
        self.logging = logging;
        self.file = Some(file);
    }

    /// Runs until it is dropped; `now` asks it to read everything at once.
    pub(crate) async fn run(mut self, now: Arc<Notify>) {
        let interval = self.service.limits.watch;
        loop {
            let asked = tokio::time::timeout(interval, now.notified()).await;
            let look = if asked.is_ok() { Look::Everything } else { Look::Changes };
            let reloaded = tokio::task::spawn_blocking(move || {
                self.reload(look);
                self
            });
            let Ok(back) = reloaded.await else { return };
            self = back;
        }
    }

    /// Loads what has changed on disk, or everything; blocks.
    fn reload(&mut self, look: Look) {
        if let Some(file) = self.file.clone()
            && (look == Look::Everything || self.files_read.have_changed())
        {
            let outcome = self.load_configuration(&file);
            self.report(CONFIGURATION, outcome);
        }
        for input in Input::ALL {
            self.reload_input(input, look);
        }
    }

    fn reload_input(&mut self, input: Input, look: Look) {
        let (part, now) = (input.as_str(), self.service.clock.now());
        let files = input.files(&self.config);
        let changed = self.note_change(part, &files);
        let asked = look == Look::Everything && !files.is_empty();
        if !changed && !asked && self.due.get(part).is_none_or(|due| now < *due) {
            return;
        }
        self.due.remove(part);
        let outcome = input.load(&self.config, &self.service).map_err(|unusable| {
            self.due.extend(unusable.until.map(|until| (part, until)));
            unusable.to_string()
        });
        if outcome.is_ok() {
            for (key, warning) in input.warnings(&self.config, now) {
                tracing::warn!(part, key, "{warning}");
            }
        }
        self.report(part, outcome);
    }

    fn load_configuration(&mut self, file: &Path) -> Result<(), String> {
        let read = Draft::read(file, &Surroundings::of_process(self.service.clock.now()))
            .and_then(Draft::finish);
        let (next, warnings) = read.map_err(|problems| {
            self.files_read = problems.files_read().clone();
            one_line(&problems)
        })?;
        self.files_read = next.files_read.clone();
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
        let pull = &self.service.pull;
        pull.reconfigure(&next.upstreams, &next.cache).map_err(|error| error.to_string())?;
        self.service.config.store(Arc::new(RequestConfig::new(&next)));
        // It takes as long as there is to evict, and nobody shall meet new upstreams under old
        // rules meanwhile.
        pull.resize(&next.cache);
        for warning in warnings.to_string().lines() {
            tracing::warn!(part = CONFIGURATION, "{warning}");
        }
        self.config = next;
        Ok(())
    }

    /// Whether the files differ from when they were read last; from now on, these are what was
    /// read.
    fn note_change(&mut self, what: &'static str, files: &[PathBuf]) -> bool {
        let now = Fingerprint::of_all(files);
        self.seen.insert(what, now) != Some(now)
    }

    /// Shows whether all that is on disk is in use.
    fn show_state(&mut self, part: &'static str, loaded: bool) {
        if loaded {
            self.refused.remove(part);
        } else {
            self.refused.insert(part);
        }
        let metrics = &self.metrics.config;
        metrics.last_reload_successful.set(i64::from(self.refused.is_empty()));
        if self.refused.is_empty() {
            let now = self.service.clock.now().unix().as_secs();
            metrics.last_reload_success.set(i64::try_from(now).unwrap_or(i64::MAX));
        }
    }

    fn report(&mut self, part: &'static str, outcome: Result<(), String>) {
        self.show_state(part, outcome.is_ok());
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

fn one_line(problems: &Problems) -> String {
    problems.to_string().replace('\n', "; ")
}
