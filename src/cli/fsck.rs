//! `roadstead fsck`

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde_json::{Map, Value, json};
use tokio::runtime;
use tokio_util::sync::CancellationToken;

use super::check::load;
use super::failure::CommandFailure;
use super::output::{print, tell};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::{BlobStore, CheckEvent, CheckOptions, CheckTotals, Error, Finding, Remedy};
use crate::telemetry::{self, Overrides};

/// What the log says of a check: findings are the command's own lines.
const LOG_FILTER: &str = "warn,roadstead::store::check=off";

#[derive(Debug, clap::Args)]
pub(super) struct FsckArguments {
    /// Configuration file. Without one: the cache that `serve` would use.
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CONFIG")]
    config: Option<PathBuf>,
    /// Remove what is wrong, so that it is fetched again when it is asked for.
    #[arg(long)]
    repair: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &FsckArguments) -> Result<(), CommandFailure> {
    let (config, warnings) = load(arguments.config.as_deref())?;
    let filter = env::var("RUST_LOG").unwrap_or_else(|_| LOG_FILTER.to_owned());
    let overrides = Overrides { format: None, filter: Some(filter) };
    let _telemetry = telemetry::install(&config.log, overrides)?;
    if !warnings.list().is_empty() {
        tell(&warnings.to_string());
    }
    let runtime = runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let totals = runtime.block_on(check(arguments, &config))?;
    match totals.left() {
        0 => Ok(()),
        left => {
            let remedy = if arguments.repair { "could not be repaired" } else { "wrong" };
            Err(anyhow!("{left} {remedy} in {}", config.cache.path.display()).into())
        }
    }
}

async fn check(arguments: &FsckArguments, config: &Config) -> anyhow::Result<CheckTotals> {
    let store = open(config)?;
    let mut checker = store.checker(CheckOptions { repair: arguments.repair, rate: None });
    let (stop, mut unheard) = (CancellationToken::new(), Ok(()));
    let tell = |event: CheckEvent<'_>| {
        if let CheckEvent::Found(finding) = event
            && unheard.is_ok()
        {
            unheard = print(&Line::of(finding).text(arguments.json));
            if unheard.is_err() {
                stop.cancel();
            }
        }
    };
    let ended = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        ended = checker.check_all(tell) => ended,
    };
    let totals = checker.totals();
    store.close().await;
    unheard?;
    ended?;
    print(&if arguments.json { totals_as_json(totals) } else { totals_as_text(totals) })?;
    Ok(totals)
}

fn open(config: &Config) -> anyhow::Result<BlobStore> {
    BlobStore::existing(&config.cache, Clock::system()).map_err(|error| {
        if matches!(error, Error::Locked { .. }) {
            let path = config.cache.path.display();
            return anyhow!(
                "a server is running on {path}, which is its own meanwhile: stop it first"
            );
        }
        error.into()
    })
}

/// What is told of a finding.
struct Line<'a> {
    finding: &'a Finding,
    /// Strangers name files as they like.
    path: String,
    state: &'static str,
    remedy: Option<&'a str>,
}

impl<'a> Line<'a> {
    fn of(finding: &'a Finding) -> Self {
        let (state, remedy) = match &finding.remedy {
            Remedy::None if finding.is_not_ours() => ("not_ours", None),
            Remedy::None => ("wrong", None),
            Remedy::Done(what) => ("repaired", Some(*what)),
            Remedy::Failed(why) => ("failed", Some(why.as_str())),
        };
        Self { finding, path: one_line(&finding.path), state, remedy }
    }

    fn text(&self, as_json: bool) -> String {
        let message = self.finding.defect.to_string();
        if as_json {
            let mut fields = Map::new();
            let mut set = |key: &str, value: &str| fields.insert(key.to_owned(), value.into());
            set("finding", self.finding.defect.word());
            set("state", self.state);
            set("path", &self.path);
            self.finding.digest.as_ref().map(|digest| set("digest", digest.as_str()));
            set("message", &message);
            self.remedy.map(|remedy| set("remedy", remedy));
            return format!("{}\n", Value::Object(fields));
        }
        let remedy = match (&self.finding.remedy, self.remedy) {
            (Remedy::Failed(_), Some(why)) => format!("; not repaired: {why}"),
            (_, Some(what)) => format!("; {what}"),
            (_, None) => String::new(),
        };
        format!("{}: {}{remedy}\n", self.path, message.escape_debug())
    }
}

fn one_line(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

fn totals_as_text(totals: CheckTotals) -> String {
    let CheckTotals { files, bytes, allocated, wrong, repaired, not_ours, taken, .. } = totals;
    format!(
        "{files} files of {bytes} bytes ({allocated} on disk) checked in {:.1} s: {wrong} wrong, \
         {repaired} of them repaired; {not_ours} not ours\n",
        taken.as_secs_f64()
    )
}

fn totals_as_json(totals: CheckTotals) -> String {
    let CheckTotals { files, bytes, allocated, hashed, wrong, repaired, not_ours, taken } = totals;
    let totals = json!({
        "files": files, "bytes": bytes, "allocated_bytes": allocated, "hashed_bytes": hashed,
        "wrong": wrong, "repaired": repaired, "not_ours": not_ours, "seconds": taken.as_secs_f64(),
    });
    format!("{}\n", json!({ "totals": totals }))
}
