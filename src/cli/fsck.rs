//! `roadstead fsck`

use std::env;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use tokio::runtime;
use tokio_util::sync::CancellationToken;

use super::check::load;
use super::failure::CommandFailure;
use super::output::{print, tell};
use crate::clock::Clock;
use crate::config::Config;
use crate::control::{self, Absent, Order, finding_as_json, totals_as_json};
use crate::store::{BlobStore, CheckEvent, CheckOptions, Error};
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
    let totals = match BlobStore::existing(&config.cache, Clock::system()) {
        Ok(store) => {
            let runtime = runtime::Builder::new_current_thread().enable_time().build();
            let runtime = runtime.context("cannot start the runtime")?;
            runtime.block_on(check(arguments, &store))?
        }
        // A server has it, which checks it itself.
        Err(Error::Locked { .. }) => ask_server(arguments, &config)?,
        Err(error) => return Err(anyhow::Error::from(error).into()),
    };
    let number = |key: &str| totals[key].as_u64().unwrap_or(0);
    print(&if arguments.json {
        format!("{}\n", json!({ "totals": totals }))
    } else {
        totals_as_text(&totals)
    })?;
    match number("wrong").saturating_sub(number("repaired")) {
        0 => Ok(()),
        left => {
            let remedy = if arguments.repair { "could not be repaired" } else { "wrong" };
            Err(anyhow!("{left} {remedy} in {}", config.cache.path.display()).into())
        }
    }
}

/// Has the server that runs check everything, beside what it does for clients.
fn ask_server(arguments: &FsckArguments, config: &Config) -> anyhow::Result<Value> {
    let body = json!({ "repair": arguments.repair });
    let order = Order { path: "/v1/fsck", body, absent: Absent::Told };
    control::follow_and_wait(config, &order, &mut |line| {
        if line.get("finding").is_some() { print(&text(line, arguments.json)) } else { Ok(()) }
    })
}

async fn check(arguments: &FsckArguments, store: &BlobStore) -> anyhow::Result<Value> {
    let mut checker = store.checker(CheckOptions { repair: arguments.repair, rate: None });
    let (stop, mut unheard) = (CancellationToken::new(), Ok(()));
    let tell = |event: CheckEvent<'_>| {
        if let CheckEvent::Found(finding) = event
            && unheard.is_ok()
        {
            unheard = print(&text(&finding_as_json(finding), arguments.json));
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
    Ok(totals_as_json(totals))
}

/// What is told of a finding.
fn text(finding: &Value, as_json: bool) -> String {
    if as_json {
        return format!("{finding}\n");
    }
    let field = |key: &str| finding[key].as_str().unwrap_or_default();
    let remedy = match field("state") {
        "failed" => format!("; not repaired: {}", field("remedy")),
        "repaired" => format!("; {}", field("remedy")),
        _ => String::new(),
    };
    format!("{}: {}{remedy}\n", field("path"), field("message").escape_debug())
}

fn totals_as_text(totals: &Value) -> String {
    let number = |key: &str| totals[key].as_u64().unwrap_or(0);
    format!(
        "{} files of {} bytes ({} on disk) checked in {:.1} s: {} wrong, {} of them repaired; {} not \
         ours\n",
        number("files"),
        number("bytes"),
        number("allocated_bytes"),
        totals["seconds"].as_f64().unwrap_or(0.0),
        number("wrong"),
        number("repaired"),
        number("not_ours"),
    )
}
