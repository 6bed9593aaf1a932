//! `roadstead seal`: which upstreams are sealed, and opening one for a while.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use serde_json::{Value, json};

use super::check::load;
use super::failure::CommandFailure;
use super::output::print;
use crate::config;
use crate::control;

#[derive(Debug, clap::Args)]
pub(super) struct SealArguments {
    /// Upstreams, by the names that the configuration gives them. None: all of them.
    #[arg(value_name = "UPSTREAM")]
    upstreams: Vec<String>,
    /// Open them for so long, as 10m, counted from now. They are sealed again then by themselves.
    #[arg(long, value_name = "TIME", value_parser = time, requires = "upstreams")]
    open_for: Option<Duration>,
    /// Seal them again now.
    #[arg(long, requires = "upstreams", conflicts_with = "open_for")]
    close: bool,
    /// The answer of the server as it is (docs/control.md).
    #[arg(long)]
    json: bool,
    /// Configuration file of the server.
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CONFIG")]
    config: Option<PathBuf>,
}

fn time(text: &str) -> Result<Duration, String> {
    let time = config::parse_duration(text)?;
    if time < Duration::from_secs(1) { Err("a second at least".to_owned()) } else { Ok(time) }
}

pub(super) fn run(arguments: &SealArguments) -> Result<(), CommandFailure> {
    let (config, _) = load(arguments.config.as_deref())?;
    let SealArguments { upstreams, open_for, close, .. } = arguments;
    let seconds = open_for.map(|time| time.as_secs()).or(close.then_some(0));
    let mut seals = Vec::new();
    if let Some(seconds) = seconds {
        for upstream in upstreams {
            let order = json!({ "upstream": upstream, "open_for": seconds });
            seals.push(control::post_and_wait(&config, "/v1/seal", &order)?);
        }
    } else {
        let answer = control::ask_and_wait(&config, "/v1/seal")?;
        seals = answer["upstreams"].as_array().cloned().unwrap_or_default();
        let known = |name: &String| seals.iter().any(|seal| seal["upstream"] == **name);
        if let Some(unknown) = upstreams.iter().find(|name| !known(name)) {
            return Err(anyhow!("{unknown} is no upstream").into());
        }
        seals.retain(|seal| {
            upstreams.is_empty() || upstreams.iter().any(|name| seal["upstream"] == **name)
        });
    }
    let text = if arguments.json {
        format!("{:#}\n", json!({ "upstreams": seals }))
    } else {
        seals.iter().map(line).collect()
    };
    Ok(print(&text)?)
}

fn line(seal: &Value) -> String {
    let state = match (seal["sealed"].as_bool(), seal["open_for"].as_f64()) {
        (_, Some(left)) => format!("open for {left:.0} s, then sealed"),
        (Some(true), None) => "sealed".to_owned(),
        _ => "not sealed".to_owned(),
    };
    format!("{}  {state}\n", seal["upstream"].as_str().unwrap_or_default())
}
