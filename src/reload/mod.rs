//! Replaces what changes on disk while the proxy runs: the configuration, and each input that it
//! names (users, keys, revocations, certificate), each by itself (ACCESS §8).
//!
//! Every few seconds the files are compared with what was read, and whatever has changed is loaded
//! when it is the same a second later; SIGHUP loads everything at once. A file that cannot be used
//! changes nothing, is logged once, and does not keep the others from being replaced. Of a
//! configuration that is refused the files are watched that it names, since one that is missing may
//! come later. Revocations are read line by line, and taken back slowly.

pub(crate) mod inputs;
mod kept_revocations;
mod looks;
pub(crate) mod revocations;
pub(crate) mod token_key;
pub(crate) mod unusable;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

use crate::clock::Timestamp;
use crate::config::{Cache, Config, Draft, FilesRead, Problems, Surroundings};
use crate::files::Fingerprint;
use crate::metrics::Metrics;
use crate::reload::inputs::{Input, Loaded};
use crate::reload::kept_revocations::KeptRevocations;
use crate::reload::looks::{Look, Watched};
use crate::reload::revocations::LostLines;
use crate::reload::unusable::Unusable;
use crate::server::{RequestConfig, Service};
use crate::telemetry::Logging;

/// The label of the configuration itself in metrics and log lines, beside those of the inputs.
const CONFIGURATION: &str = "configuration";

/// What is read of the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
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
    /// What the configuration was read from. If that was refused, these are not the files of
    /// `config`: a secret that it misses may come later.
    files_read: Watched<FilesRead>,
    /// The configuration has changed and is to be looked at again.
    is_settling: bool,
    service: Arc<Service>,
    /// Who follows the configuration of the cache.
    cache: watch::Sender<Cache>,
    metrics: Arc<Metrics>,
    /// The files of each input, good or bad, by its label. A bad file is remembered as well, so that
    /// it is logged once.
    inputs: HashMap<&'static str, Watched<Fingerprint>>,
    /// When an input that was refused can be used, if that is only a matter of time.
    due: HashMap<&'static str, Timestamp>,
    /// Whether the revocations have lost lines.
    lost_lines: LostLines,
    kept: KeptRevocations,
    /// The parts whose files were refused when they were read last.
    refused: HashSet<&'static str>,
}

impl Reloader {
    /// Remembers the files of each input as they are now. The inputs of `config` have to be loaded
    /// after this: a change in between is then seen as a change.
    pub(crate) fn new(config: Config, service: Arc<Service>, metrics: Arc<Metrics>) -> Self {
        let files_read = Watched::new(config.files_read.clone());
        let print = |input: Input| Fingerprint::of_all(&input.files(&config));
        let inputs = Input::ALL.map(|input| (input.as_str(), Watched::new(print(input)))).into();
        let (file, logging) = (None, None);
        let (due, refused) = (HashMap::new(), HashSet::new());
        let lost_lines = LostLines::new(service.limits.good_again);
        let kept = KeptRevocations::of(&config);
        let cache = watch::Sender::new(config.cache.clone());
        let mut reloader = Self {
            file,
            logging,
            config,
            files_read,
            is_settling: false,
            service,
            cache,
            metrics,
            inputs,
            due,
            lost_lines,
            kept,
            refused,
        };
        reloader.show_state("start", true);
        reloader
    }

    /// The configuration of the cache, and each that takes its place.
    pub(crate) fn cache(&self) -> watch::Receiver<Cache> {
        self.cache.subscribe()
    }

    /// Loads an input at the start.
    ///
    /// # Errors
    /// Everything that is wrong with its files; of revocations, what cannot be read. Lines of
    /// theirs that are wrong are told.
    pub(crate) fn load(&mut self, input: Input) -> Result<(), Unusable> {
        let loaded = input.read(&self.config, &self.service)?;
        let Loaded::Revocations(lists) = &loaded else { return self.apply(loaded) };
        lists.can_be_read()?;
        if self.config.licences.is_some() {
            self.service.gatekeeper.set_revocations(self.kept.read());
        }
        let outcome = self.apply(loaded);
        self.kept.keep(&self.service.gatekeeper.revocations());
        self.show_state(input.as_str(), outcome.is_ok());
        Ok(())
    }

    fn apply(&mut self, loaded: Loaded) -> Result<(), Unusable> {
        loaded.apply(&self.service, &mut self.lost_lines)
    }

    /// Also watches the file that the configuration is from, and whatever it was read from.
    /// `logging` is changed with it.
    pub(crate) fn watch(&mut self, file: PathBuf, logging: Option<Logging>) {
        self.logging = logging;
        self.file = Some(file);
    }

    /// Runs until it is dropped; `now` asks it to read everything at once.
    pub(crate) async fn run(mut self, now: Arc<Notify>) {
        let (watch, settle) = (self.service.limits.watch, self.service.limits.settle);
        let mut pause = watch;
        loop {
            let asked = tokio::time::timeout(pause, now.notified()).await;
            let wanted = if asked.is_ok() { Wanted::Everything } else { Wanted::Changes };
            let reloaded = tokio::task::spawn_blocking(move || {
                let settled = self.reload(wanted);
                (self, settled)
            });
            let Ok((back, settled)) = reloaded.await else { return };
            self = back;
            pause = match wanted {
                _ if settled => watch,
                // Whoever asks has mostly written everything.
                Wanted::Everything => settle / 4,
                Wanted::Changes => settle,
            };
        }
    }

    /// Loads what has changed on disk, or everything; blocks. Whether nothing has to be looked at
    /// again soon, because it is being written.
    fn reload(&mut self, wanted: Wanted) -> bool {
        let limit = self.config.cache.clone();
        let mut settled = self.reload_configuration(wanted);
        for input in Input::ALL {
            settled &= self.reload_input(input, wanted);
        }
        if self.kept.is_behind() {
            self.kept.keep(&self.service.gatekeeper.revocations());
        }
        // Last, because it takes as long as there is to evict.
        if limit != self.config.cache {
            self.service.pull.resize(&self.config.cache);
            self.cache.send_replace(self.config.cache.clone());
        }
        settled
    }

    fn reload_configuration(&mut self, wanted: Wanted) -> bool {
        let changed = self.files_read.judged().have_changed();
        let Some(file) = self.file.clone().filter(|_| changed || wanted == Wanted::Everything)
        else {
            return true;
        };
        let read = Draft::read(&file, &Surroundings::of_process(self.service.clock.now()))
            .and_then(Draft::finish);
        let files_read = match &read {
            Ok((next, _)) => next.files_read.clone(),
            Err(problems) => problems.files_read().clone(),
        };
        let look = self.files_read.look(files_read);
        self.is_settling = look == Look::Unsettled;
        match look {
            Look::Unsettled => return false,
            Look::Same if wanted == Wanted::Changes => return true,
            Look::Same | Look::Changed => {}
        }
        let outcome = read
            .map_err(|problems| one_line(&problems))
            .and_then(|(next, warnings)| self.take_over(next, &warnings));
        self.report(CONFIGURATION, outcome);
        true
    }

    fn reload_input(&mut self, input: Input, wanted: Wanted) -> bool {
        let (part, now) = (input.as_str(), self.service.clock.now());
        let files = input.files(&self.config);
        let print = Fingerprint::of_all(&files);
        let look = self.inputs.entry(part).or_insert_with(|| Watched::new(print)).look(print);
        let asked = wanted == Wanted::Everything && !files.is_empty();
        let due = self.due.get(part).is_some_and(|due| *due <= now)
            || (input == Input::Revocations && self.lost_lines.are_due());
        match look {
            Look::Unsettled => return false,
            Look::Same if !asked && !due => return true,
            Look::Same | Look::Changed => {}
        }
        let loaded = input.read(&self.config, &self.service);
        if Fingerprint::of_all(&files) != print {
            // What was read is not what was looked at twice.
            return false;
        }
        let outcome = loaded.and_then(|loaded| self.apply(loaded));
        self.end_input(input, outcome);
        true
    }

    /// Remembers what has become of an input, and tells it.
    fn end_input(&mut self, input: Input, outcome: Result<(), Unusable>) {
        let (part, now) = (input.as_str(), self.service.clock.now());
        if input == Input::Revocations {
            self.kept.keep(&self.service.gatekeeper.revocations());
        }
        self.due.remove(part);
        if outcome.is_ok() {
            for (key, warning) in input.warnings(&self.config, now) {
                tracing::warn!(part, key, "{warning}");
            }
        }
        let until = outcome.as_ref().err().and_then(|unusable| unusable.until);
        self.due.extend(until.map(|until| (part, until)));
        self.report(part, outcome.map_err(|unusable| unusable.to_string()));
    }

    /// Uses `next` from now on, with the inputs that it names in other places.
    ///
    /// Everything that can fail or takes time comes first. Then the rules, and right after them what
    /// they are for: nobody shall meet a new credential under old rules. Requests that began under
    /// the old ones are judged once more when they have their answer.
    fn take_over(&mut self, next: Config, warnings: &Problems) -> Result<(), String> {
        self.check_change(&next)?;
        let moved = self.moved_inputs(&next);
        let upstreams = self.service.pull.prepare(&next.upstreams);
        let upstreams = upstreams.map_err(|error| error.to_string())?;
        let rules = Arc::new(RequestConfig::new(&next));
        if let Some(logging) = &self.logging {
            logging.set(&next.log).map_err(|error| error.to_string())?;
        }
        self.service.config.store(rules);
        let mut outcomes = Vec::new();
        for (input, loaded) in moved {
            outcomes.push((input, loaded.and_then(|loaded| self.apply(loaded))));
        }
        self.service.pull.reconfigure(upstreams, &next.cache);
        for warning in warnings.to_string().lines() {
            tracing::warn!(part = CONFIGURATION, "{warning}");
        }
        self.config = next;
        for (input, outcome) in outcomes {
            self.end_input(input, outcome);
        }
        Ok(())
    }

    /// # Errors
    /// A sentence about what a reload does not do.
    fn check_change(&self, next: &Config) -> Result<(), String> {
        let fixed = self.config.needs_restart(next);
        if !fixed.is_empty() {
            return Err(format!(
                "a change of {} takes a restart; nothing of it was taken over",
                fixed.join(" and ")
            ));
        }
        let openings = self.config.openings(next);
        if openings.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{}, which was closed; if that is meant, restart; nothing of it was taken over",
            openings.join(", ")
        ))
    }

    /// Reads the inputs that `next` takes from other files, or uses in another way.
    fn moved_inputs(&mut self, next: &Config) -> Vec<(Input, Result<Loaded, Unusable>)> {
        let moved = Input::ALL.into_iter().filter(|input| input.differs(&self.config, next));
        let read = moved.map(|input| {
            let print = Fingerprint::of_all(&input.files(next));
            self.inputs.insert(input.as_str(), Watched::new(print));
            (input, input.read(next, &self.service))
        });
        read.collect()
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
        // While the configuration is still being written, it is not known whether it will be refused.
        if self.refused.is_empty() && !self.is_settling {
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
