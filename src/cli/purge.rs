//! `roadstead purge`: images leave the cache, with what only they need.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use serde_json::{Value, json};

use super::check::load;
use super::failure::CommandFailure;
use super::output::{image_name, print, size};
use crate::config::parse_duration;
use crate::control;

#[derive(Debug, clap::Args)]
pub(super) struct PurgeArguments {
    /// An image (docker.io/library/nginx:1.27, NAME@sha256:...; without a tag every one), or a
    /// pattern of names: docker.io/library/* or quay.io/**
    #[arg(required_unless_present = "unused_for", value_name = "IMAGE|PATTERN")]
    images: Option<String>,
    /// Only images of which no part was used for so long, as 30d; without an image or a pattern, also
    /// content that belongs to no image.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    unused_for: Option<Duration>,
    /// Say what would go, and let it stay.
    #[arg(long)]
    dry_run: bool,
    /// The answer of the server as it is (docs/control.md).
    #[arg(long)]
    json: bool,
    /// Configuration file of the server.
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CONFIG")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &PurgeArguments) -> Result<(), CommandFailure> {
    let (config, _) = load(arguments.config.as_deref())?;
    let order = json!({
        "images": arguments.images,
        "unused_for": arguments.unused_for.map(|age| age.as_secs()),
        "dry_run": arguments.dry_run,
    });
    let answer = control::post_and_wait(&config, "/v1/purge", &order)?;
    print(&if arguments.json { format!("{answer}\n") } else { as_text(&answer) })?;
    // Whoever names one image means one that is there.
    let named = arguments.images.as_ref().filter(|named| !named.contains('*'));
    match (named, answer["refused"].as_u64().unwrap_or(0)) {
        (Some(named), _) if !list(&answer["pinned"]).is_empty() => {
            Err(anyhow!("{named} is pinned: unpin it first").into())
        }
        (Some(named), _)
            if list(&answer["images"]).is_empty() && arguments.unused_for.is_none() =>
        {
            Err(anyhow!("nothing that is cached is {named}").into())
        }
        (_, 0) => Ok(()),
        (_, refused) => {
            Err(anyhow!("the disk would not let go of {refused} files; they are tried again")
                .into())
        }
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn as_text(answer: &Value) -> String {
    let images: String = list(&answer["images"])
        .iter()
        .flat_map(|image| [image_name(image), "\n".to_owned()])
        .collect();
    let amount = |key: &str| {
        let number = |figure: &str| answer[key][figure].as_u64().unwrap_or(0);
        format!("{} in {} files", size(number("bytes")), number("files"))
    };
    let count = match list(&answer["images"]).len() {
        1 => "1 image".to_owned(),
        more => format!("{more} images"),
    };
    let pinned = match list(&answer["pinned"]).len() {
        0 => String::new(),
        some => format!("; {some} stay, because they are pinned"),
    };
    let dry_run = answer["dry_run"] == true;
    let (goes, freed) = if dry_run { ("would go", "would be freed") } else { ("gone", "freed") };
    format!(
        "{images}{count} {goes}: {} {freed}; {} stay, because others need them{pinned}\n",
        amount("freed"),
        amount("shared"),
    )
}
