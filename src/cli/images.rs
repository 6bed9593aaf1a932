//! `roadstead images`: what is kept, as images.

use std::path::PathBuf;

use serde_json::Value;
use url::form_urlencoded;

use super::check::load;
use super::failure::CommandFailure;
use super::output::{image_name, print, size};
use crate::control;
use crate::oci::{Digest, Pattern};

#[derive(Debug, clap::Args)]
pub(super) struct ImagesArguments {
    /// Images of these names only: docker.io/library/nginx, docker.io/library/* or quay.io/**
    #[arg(value_parser = Pattern::parse)]
    pattern: Option<Pattern>,
    /// Only images that need this: of a manifest, a configuration or a layer.
    #[arg(long, value_parser = digest)]
    digest: Option<Digest>,
    /// Only images of which something is missing.
    #[arg(long)]
    incomplete: bool,
    /// The answer of the server as it is (docs/control.md).
    #[arg(long)]
    json: bool,
    /// Configuration file of the server.
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CONFIG")]
    config: Option<PathBuf>,
}

fn digest(text: &str) -> Result<Digest, String> {
    Digest::parse(text).map_err(|error| error.to_string())
}

pub(super) fn run(arguments: &ImagesArguments) -> Result<(), CommandFailure> {
    let (config, _) = load(arguments.config.as_deref())?;
    let answer = control::ask_and_wait(&config, &arguments.path())?;
    if arguments.json {
        return Ok(print(&format!("{answer}\n"))?);
    }
    let images = answer["images"].as_array().map_or(&[][..], Vec::as_slice);
    Ok(print(&table(images))?)
}

impl ImagesArguments {
    /// What the server is asked for.
    fn path(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(pattern) = &self.pattern {
            query.append_pair("pattern", pattern.as_str());
        }
        if let Some(digest) = &self.digest {
            query.append_pair("digest", digest.as_str());
        }
        if self.incomplete {
            query.append_pair("incomplete", "true");
        }
        format!("/v1/images?{}", query.finish())
    }
}

const COLUMNS: usize = 7;
const TITLES: [&str; COLUMNS] =
    ["IMAGE", "DIGEST", "PLATFORMS", "SIZE", "OWN", "PINNED", "LAST USED"];

fn table(images: &[Value]) -> String {
    let rows: Vec<[String; COLUMNS]> = images.iter().map(row).collect();
    let titles = TITLES.map(str::to_owned);
    let all = || [&titles].into_iter().chain(&rows);
    let widths: [usize; COLUMNS] = std::array::from_fn(|column| {
        all().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let line = |row: &[String; COLUMNS]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    all().map(line).collect()
}

fn row(image: &Value) -> [String; COLUMNS] {
    let text = |key: &str| image[key].as_str().unwrap_or_default();
    let number = |key: &str| size(image[key].as_u64().unwrap_or(0));
    let (algorithm, hex) = text("digest").split_once(':').unwrap_or_default();
    [
        image_name(image),
        format!("{algorithm}:{}", hex.get(..12).unwrap_or(hex)),
        platforms(image),
        number("size"),
        number("own"),
        if image["pinned"] == true { "yes" } else { "-" }.to_owned(),
        image["last_used"].as_str().unwrap_or("-").to_owned(),
    ]
}

/// Those that are here; what is missing of each.
fn platforms(image: &Value) -> String {
    let listed = image["platforms"].as_array().map_or(&[][..], Vec::as_slice);
    let shown = listed.iter().filter_map(|platform| {
        let name = platform["platform"].as_str().unwrap_or("-");
        match platform["state"].as_str()? {
            "complete" => Some(name.to_owned()),
            "incomplete" => {
                let missing = platform["missing"].as_array().map_or(0, Vec::len);
                Some(format!("{name} ({missing} missing)"))
            }
            _ => None,
        }
    });
    let shown: Vec<_> = shown.collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(", ") }
}
