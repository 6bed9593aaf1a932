//! `roadstead pin` and `roadstead unpin`: images that stay in the cache whatever needs room.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::check::load;
use super::failure::CommandFailure;
use super::output::{print, size};
use crate::control;

#[derive(Debug, clap::Args)]
pub(super) struct PinArguments {
    /// An image, as docker.io/library/nginx:1.27 (without a tag: latest) or NAME@sha256:..., or all
    /// tags of some names: docker.io/library/* or quay.io/**. Without any: say what is pinned.
    #[arg(value_name = "IMAGE|PATTERN")]
    images: Vec<String>,
    /// Of images for several platforms, only these: linux/amd64,linux/arm64.
    #[arg(long, value_name = "PLATFORMS", requires = "images")]
    platform: Option<String>,
    /// The answer of the server as it is (docs/control.md).
    #[arg(long)]
    json: bool,
    /// Configuration file of the server.
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(super) struct UnpinArguments {
    /// What was pinned; by a pattern also the images of these names that are pinned one by one.
    #[arg(value_name = "IMAGE|PATTERN", required = true)]
    images: Vec<String>,
    /// The answer of the server as it is (docs/control.md).
    #[arg(long)]
    json: bool,
    /// Configuration file of the server.
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CONFIG")]
    config: Option<PathBuf>,
}

pub(super) fn pin(arguments: &PinArguments) -> Result<(), CommandFailure> {
    let (config, _) = load(arguments.config.as_deref())?;
    let options =
        arguments.platform.as_ref().map(|names| format!(" platform={names}")).unwrap_or_default();
    let lines: Vec<_> = arguments.images.iter().map(|image| format!("{image}{options}")).collect();
    let answer = if lines.is_empty() {
        control::ask_and_wait(&config, "/v1/pins")?
    } else {
        control::post_and_wait(&config, "/v1/pin", &json!({ "images": lines }))?
    };
    Ok(print(&if arguments.json { format!("{answer}\n") } else { pins(&answer) })?)
}

pub(super) fn unpin(arguments: &UnpinArguments) -> Result<(), CommandFailure> {
    let (config, _) = load(arguments.config.as_deref())?;
    let order = json!({ "images": arguments.images });
    let answer = control::post_and_wait(&config, "/v1/unpin", &order)?;
    if arguments.json {
        return Ok(print(&format!("{answer}\n"))?);
    }
    let gone = list(&answer["unpinned"]).iter().filter_map(Value::as_str);
    let gone: String = gone.flat_map(|pin| [pin, "\n"]).collect();
    Ok(print(&format!("{gone}{}", taken(&answer)))?)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn pins(answer: &Value) -> String {
    let lines = list(&answer["pins"]).iter().flat_map(|pin| {
        let by = if pin["by"] == "configuration" { ", by the configuration" } else { "" };
        let (images, bytes) = (number(&pin["images"]), size(number(&pin["bytes"])));
        let line = pin["pin"].as_str().unwrap_or_default();
        let unheld = list(&pin["unheld"]).iter().filter_map(Value::as_str);
        let unheld = unheld.map(|image| format!("  does not fit: {image}\n"));
        std::iter::once(format!("{line}: {bytes} in {images} images{by}\n")).chain(unheld)
    });
    lines.chain([taken(answer)]).collect()
}

fn taken(answer: &Value) -> String {
    let [bytes, allowed] = ["bytes", "allowed"].map(|key| size(number(&answer[key])));
    format!("{bytes} of {allowed} that pins may take\n")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}
