//! Which images a command is for: named on its command line, or in files of any kind that
//! `roadstead list` reads.

use std::io;
use std::path::Path;

use anyhow::{Context, anyhow};

use super::failure::CommandFailure;
use crate::config::Config;
use crate::files::{read_large_once, read_stream};
use crate::oci::ImageReference;
use crate::route::Routes;
use crate::wanted::{ImageLine, ListReader, WantedPlatforms};

#[derive(Debug, clap::Args)]
pub(super) struct WantedArguments {
    /// Images, as lines of a list: nginx:1.27, or "quay.io/acme/app:2 platform=linux/arm64".
    #[arg(value_name = "IMAGE", required_unless_present = "from")]
    images: Vec<String>,
    /// Lists of images, manifests, compose files or Chart.yaml, told by their content; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    from: Vec<String>,
    /// For which platforms, where a list does not say: linux/amd64,linux/arm64, or all.
    #[arg(long, value_name = "PLATFORMS", value_parser = WantedPlatforms::parse)]
    platform: Option<WantedPlatforms>,
    /// Whether signatures and what else is attached comes along, where a list does not say.
    #[arg(long, value_name = "BOOL", default_value_t = true, num_args = 0..=1,
          default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    referrers: bool,
}

impl WantedArguments {
    /// Every image, with what of it is wanted.
    ///
    /// # Errors
    /// Everything that is wrong with the lists, images of registries that are not configured among
    /// it.
    pub(super) fn read(&self, config: &Config) -> Result<Vec<ImageLine>, CommandFailure> {
        let mut reader = read_files(&self.from)?;
        if !self.images.is_empty() {
            reader.read_list("command line", &self.images.join("\n"));
        }
        let routes = Routes::new(config);
        let is_configured = |image: &ImageReference| {
            let registry = &image.name().upstream;
            routes
                .find_image(image.name())
                .map(drop)
                .ok_or_else(|| format!("{image}: no upstream {registry} is configured"))
        };
        let wanted = reader.finish_with(is_configured).map_err(CommandFailure::Lists)?;
        let lines: Vec<_> = wanted.list().iter().map(|image| self.complete(&image.line)).collect();
        if lines.is_empty() {
            return Err(anyhow!("no image is named in {}", self.from.join(", ")).into());
        }
        Ok(lines)
    }

    /// With what the lists do not say.
    fn complete(&self, line: &ImageLine) -> ImageLine {
        let platforms = line.platforms.clone().or_else(|| self.platform.clone());
        let referrers = Some(line.referrers.unwrap_or(self.referrers));
        ImageLine { image: line.image.clone(), platforms, referrers }
    }
}

/// Everything that the files say.
pub(super) fn read_files(files: &[String]) -> anyhow::Result<ListReader> {
    let mut reader = ListReader::default();
    for file in files {
        let bytes = if file == "-" {
            read_stream(io::stdin().lock())
        } else {
            read_large_once(Path::new(file))
        };
        reader.read(file, &bytes.with_context(|| format!("cannot read {file}"))?);
    }
    Ok(reader)
}
