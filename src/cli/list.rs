//! `roadstead list FILE...`

use anyhow::anyhow;
use serde_json::{Value, json};

use super::failure::CommandFailure;
use super::output::print;
use super::wanted_images::read_files;
use crate::oci::ImageQuery;
use crate::wanted::{FoundAt, WantedImage, WantedPlatforms};

#[derive(Debug, clap::Args)]
pub(super) struct ListArguments {
    /// Lists of images, manifests, compose files or Chart.yaml, told by their content; `-` is stdin.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Say in which files, and where in them, this image is named; without a tag, with any.
    #[arg(long, value_name = "IMAGE")]
    why: Option<String>,
    /// Print JSON: an array with an object for each image, with the places that name it.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &ListArguments) -> Result<(), CommandFailure> {
    let why = arguments.why.as_deref();
    let query = why.map(|why| ImageQuery::parse(why).map_err(|wrong| anyhow!("{why}: {wrong}")));
    let query = query.transpose()?;
    let wanted = read_files(&arguments.files)?.finish().map_err(CommandFailure::Lists)?;
    let is_meant =
        |image: &&WantedImage| query.as_ref().is_none_or(|query| query.meets(&image.line.image));
    let images: Vec<&WantedImage> = wanted.list().iter().filter(is_meant).collect();
    let text = if arguments.json {
        format!("{:#}\n", Value::Array(images.iter().map(|image| as_json(image)).collect()))
    } else {
        images.iter().map(|image| as_text(image, why.is_some())).collect()
    };
    if images.is_empty() {
        let files = arguments.files.join(", ");
        let what =
            why.map_or_else(|| "no image is named".to_owned(), |why| format!("{why} is not named"));
        return Err(anyhow!("{what} in {files}").into());
    }
    Ok(print(&text)?)
}

/// The line of the list, and the places below it if somebody asks why.
fn as_text(image: &WantedImage, with_places: bool) -> String {
    let places = image.places.iter().filter(|_| with_places).map(|at| format!("  {at}\n"));
    std::iter::once(format!("{}\n", image.line)).chain(places).collect()
}

fn as_json(image: &WantedImage) -> Value {
    let line = &image.line;
    json!({
        "image": line.image.to_string(),
        "platforms": line.platforms.as_ref().map(WantedPlatforms::words),
        "referrers": line.referrers,
        "places": image.places.iter().map(place).collect::<Vec<_>>(),
    })
}

fn place(at: &FoundAt) -> Value {
    json!({ "file": &*at.file, "document": at.document, "line": at.line, "path": at.path })
}
