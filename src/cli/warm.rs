//! `roadstead warm`: images are brought into the cache before anybody pulls them.

use std::path::PathBuf;

use anyhow::anyhow;
use serde_json::{Value, json};

use super::check::load;
use super::failure::CommandFailure;
use super::output::{print, size, tell};
use super::wanted_images::WantedArguments;
use super::warm_progress::ShownProgress;
use crate::control::{self, Absent, Order};

#[derive(Debug, clap::Args)]
pub(super) struct WarmArguments {
    #[command(flatten)]
    wanted: WantedArguments,
    /// How many blobs are fetched at once.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Fetch manifests only, and say how many blobs and bytes are missing.
    #[arg(long)]
    dry_run: bool,
    /// Print the lines of the server as they are (docs/control.md).
    #[arg(long)]
    json: bool,
    /// Configuration file of the server.
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CONFIG")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &WarmArguments) -> Result<(), CommandFailure> {
    let (config, _) = load(arguments.config.as_deref())?;
    let lines = arguments.wanted.read(&config)?;
    let images: Vec<_> = lines.iter().map(ToString::to_string).collect();
    let body = json!({ "images": images, "jobs": arguments.jobs, "dry_run": arguments.dry_run });
    let order = Order { path: "/v1/warm", body, absent: Absent::Made };
    let result = if arguments.json {
        let result =
            control::follow_and_wait(&config, &order, &mut |line| print(&format!("{line}\n")))?;
        print(&format!("{}\n", json!({ "done": result })))?;
        result
    } else {
        let mut shown = ShownProgress::new(arguments.dry_run);
        let result = control::follow_and_wait(&config, &order, &mut |line| shown.line(line));
        // Before anything else is printed, what has failed too.
        drop(shown);
        let result = result?;
        print(&format!("{}\n", summary(&result)))?;
        result
    };
    let incomplete = result["incomplete"].as_array().map_or(&[][..], Vec::as_slice);
    if incomplete.is_empty() {
        return Ok(());
    }
    for image in incomplete {
        tell(&lacks(image));
    }
    let all = result["images"].as_u64().unwrap_or(0);
    Err(anyhow!("{} of {} not complete", incomplete.len(), images_of(all)).into())
}

fn summary(result: &Value) -> String {
    let amount = |key: &str| {
        let count = |of: &str| result[key][of].as_u64().unwrap_or(0);
        let blobs = count("blobs");
        let word = if blobs == 1 { "blob" } else { "blobs" };
        format!("{blobs} {word} ({})", size(count("bytes")))
    };
    let (missing, present) = (amount("fetched"), amount("present"));
    if result["dry_run"] == true {
        format!("{missing} missing, {present} here")
    } else {
        format!("{missing} to fetch, {present} here before")
    }
}

fn images_of(count: u64) -> String {
    if count == 1 { "1 image is".to_owned() } else { format!("{count} images are") }
}

/// What is missing of an image, and why.
pub(super) fn lacks(image: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let missing = image["missing"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |missing: &Value| {
        let [what, reason, why] = ["what", "reason", "why"].map(|key| text(&missing[key]));
        format!("\n  {what}: {reason}: {why}")
    };
    let lines: String = missing.iter().map(line).collect();
    format!("{}{lines}", text(&image["image"]))
}
