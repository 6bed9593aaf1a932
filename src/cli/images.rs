//! `roadstead images`: what is kept, as images.

use std::path::PathBuf;

use serde_json::Value;
use url::form_urlencoded;

use super::check::load;
use super::failure::CommandFailure;
use super::output::print;
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

const TITLES: [&str; 6] = ["IMAGE", "DIGEST", "PLATFORMS", "SIZE", "OWN", "LAST USED"];

fn table(images: &[Value]) -> String {
    let rows: Vec<[String; 6]> = images.iter().map(row).collect();
    let titles = TITLES.map(str::to_owned);
    let all = || [&titles].into_iter().chain(&rows);
    let widths: [usize; 6] = std::array::from_fn(|column| {
        all().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    let line = |row: &[String; 6]| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    all().map(line).collect()
}

fn row(image: &Value) -> [String; 6] {
    let text = |key: &str| image[key].as_str().unwrap_or_default();
    let number = |key: &str| size(image[key].as_u64().unwrap_or(0));
    let tag = image["tag"].as_str().map(|tag| format!(":{tag}")).unwrap_or_default();
    let (algorithm, hex) = text("digest").split_once(':').unwrap_or_default();
    [
        format!("{}{tag}", text("name")),
        format!("{algorithm}:{}", hex.get(..12).unwrap_or(hex)),
        platforms(image),
        number("size"),
        number("own"),
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

/// Bytes for people: three digits, in powers of ten, as registries show sizes.
fn size(bytes: u64) -> String {
    let (mut unit, mut divisor) = ("B", 1_u64);
    for next in ["kB", "MB", "GB", "TB"] {
        if bytes / divisor < 1000 {
            break;
        }
        (unit, divisor) = (next, divisor * 1000);
    }
    let tenths = bytes / (divisor / 10).max(1);
    if divisor == 1 || tenths >= 1000 {
        format!("{} {unit}", bytes / divisor)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_or_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (12_345, "12.3 kB"),
            (123_456_789, "123 MB"),
            (5_000_000_000, "5.0 GB"),
            (7_654_000_000_000_000, "7654 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
