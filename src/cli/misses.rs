//! `roadstead misses`: what clients wanted of sealed upstreams and did not get.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::check::load;
use super::failure::CommandFailure;
use super::output::{print, tell};
use crate::control;

#[derive(Debug, clap::Args)]
pub(super) struct MissesArguments {
    /// Print what would bring them, as a list (docs/lists.md): roadstead warm --from - reads it.
    #[arg(long)]
    as_list: bool,
    /// The answer of the server as it is (docs/control.md).
    #[arg(long, conflicts_with = "as_list")]
    json: bool,
    /// Forget what is printed, once it is.
    #[arg(long)]
    clear: bool,
    /// Configuration file of the server.
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CONFIG")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &MissesArguments) -> Result<(), CommandFailure> {
    let (config, _) = load(arguments.config.as_deref())?;
    let answer = control::ask_and_wait(&config, "/v1/misses")?;
    let text = if arguments.json {
        format!("{answer:#}\n")
    } else if arguments.as_list {
        list(&answer)
    } else {
        table(&answer)
    };
    print(&text)?;
    if let Some(lost) = answer["lost"].as_u64().filter(|lost| *lost > 0) {
        tell(&format!("{lost} more were missed than can be remembered; this is not all"));
    }
    if arguments.clear {
        let order = json!({ "clear_until": answer["until"] });
        control::post_and_wait(&config, "/v1/misses", &order)?;
    }
    Ok(())
}

fn rows(answer: &Value) -> impl Iterator<Item = &Value> {
    answer["misses"].as_array().into_iter().flatten()
}

/// Lines, and as comments what no line would bring.
fn list(answer: &Value) -> String {
    let lines = answer["list"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let unknown = rows(answer).filter(|miss| miss["image"].is_null() && miss["here"] == false);
    let unknown = unknown.map(|miss| format!("# {}: of no image that is known here", what(miss)));
    lines.map(str::to_owned).chain(unknown).map(|line| line + "\n").collect()
}

fn what(miss: &Value) -> String {
    let text = |key: &str| miss[key].as_str().unwrap_or_default().to_owned();
    match miss["tag"].as_str() {
        Some(tag) => format!("{}:{tag}", text("name")),
        None => format!("{}@{}", text("name"), text("digest")),
    }
}

fn table(answer: &Value) -> String {
    rows(answer).map(row).collect()
}

fn row(miss: &Value) -> String {
    let word = |key: &str| miss[key].as_str().unwrap_or("-").to_owned();
    let by: Vec<_> = miss["asked_by"].as_array().into_iter().flatten().collect();
    let by = by.into_iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
    let here = if miss["here"] == true { "  here by now" } else { "" };
    let image = match (miss["kind"].as_str(), miss["image"].as_str()) {
        (Some("tag"), _) | (_, None) => String::new(),
        (_, Some(image)) => format!("  of {image} {}", miss["platform"].as_str().unwrap_or("")),
    };
    let (what, count, image) = (what(miss), &miss["count"], image.trim_end());
    let (first, last) = (word("first"), word("last"));
    format!("{what}  {count} times, {first} to {last}, by {by}{here}{image}\n")
}
