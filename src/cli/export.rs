//! `roadstead export`: images from the cache as a bundle that can be carried away.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use serde_json::{Value, json};

use super::check::load;
use super::failure::CommandFailure;
use super::output::{print, size, tell};
use super::wanted_images::WantedArguments;
use super::warm::lacks;
use super::warm_progress::ShownProgress;
use crate::bundle::{
    BundledContent, BundledImage, ContentReader, Export, ExportPlan, FetchContent, Inventory,
    PlannedImages, Signer, Statement, write_archive,
};
use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::control::{self, Absent, Order};
use crate::files;
use crate::licence::{PrivateKey, calendar};
use crate::oci::{Algorithm, CanonicalName, Digest, ImageReference, MediaType, Tag};
use crate::store::PublishedFiles;

#[derive(Debug, clap::Args)]
pub(super) struct ExportArguments {
    #[command(flatten)]
    wanted: WantedArguments,
    /// Where to: a directory that is empty or not there, or `-` for a tar archive on standard output.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The private key that signs it, NAME.key of `roadstead licence keygen`.
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,
    /// An inventory or a bundle: blobs that are in it are left out; may be repeated.
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// How many blobs are fetched at once.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Configuration file of the server.
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CONFIG")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &ExportArguments, clock: &Clock) -> Result<(), CommandFailure> {
    let (config, _) = load(arguments.config.as_deref())?;
    let images: Vec<_> = arguments.wanted.read(&config)?.iter().map(ToString::to_string).collect();
    let signer = arguments.signer()?;
    let order = arguments.order(&images);
    let source = Published(PublishedFiles::of(&config.cache.path));
    let plan = || {
        let has = arguments.inventory()?;
        let planned = arguments.warm(&config, &images)?;
        anyhow::Ok(ExportPlan::new(order.clone(), planned, &has, random_id()?, clock.now()))
    };
    if arguments.out == Path::new("-") {
        let out = io::BufWriter::new(io::stdout().lock());
        let written = write_archive(plan()?, &source, &signer, out);
        tell(summary(&written.map_err(anyhow::Error::msg)?).trim_end());
        return Ok(());
    }
    let resumed = Export::resume(&arguments.out, &order).map_err(anyhow::Error::msg)?;
    let export = if let Some(export) = resumed {
        // What has been evicted since then is brought in again.
        arguments.warm(&config, &images)?;
        export
    } else {
        Export::begin(&arguments.out, plan()?).map_err(anyhow::Error::msg)?
    };
    let statement = export.write(&source, &signer).map_err(anyhow::Error::msg)?;
    let text = if arguments.json { as_json(&statement) } else { summary(&statement) };
    Ok(print(&text)?)
}

impl ExportArguments {
    fn signer(&self) -> anyhow::Result<Signer> {
        let Some(file) = &self.sign else { return Ok(Signer(None)) };
        let pem = files::read_text_once(file).map_err(anyhow::Error::msg)?;
        let key = PrivateKey::from_pem(&pem);
        Ok(Signer(Some(key.map_err(|message| anyhow!("{} {message}", file.display()))?)))
    }

    /// What is told apart from other exports into the same directory.
    fn order(&self, images: &[String]) -> Digest {
        let against = self.against.iter().map(|file| file.display().to_string());
        let lines: Vec<_> = images.iter().cloned().chain(against).collect();
        Digest::of(Algorithm::Sha256, lines.join("\n").as_bytes())
    }

    fn inventory(&self) -> anyhow::Result<Inventory> {
        let mut inventory = Inventory::default();
        for file in &self.against {
            inventory.add(Inventory::read(file).map_err(anyhow::Error::msg)?);
        }
        Ok(inventory)
    }

    /// Brings in what is not here, and says of what the images consist.
    fn warm(&self, config: &Config, images: &[String]) -> anyhow::Result<PlannedImages> {
        let body = json!({ "images": images, "jobs": self.jobs, "contents": true });
        let order = Order { path: "/v1/warm", body, absent: Absent::Made };
        let mut planned = PlannedImages::default();
        // On standard output there is nothing beside an archive or JSON.
        let is_quiet = self.json || self.out == Path::new("-");
        let mut shown = (!is_quiet).then(|| ShownProgress::new(false));
        let result = control::follow_and_wait(config, &order, &mut |line| {
            let Some(contents) = line.get("contents") else {
                return shown.as_mut().map_or(Ok(()), |shown| shown.line(line));
            };
            add(&mut planned, contents).context("the server does not answer as this version does")
        });
        drop(shown);
        let result = result?;
        let incomplete = result["incomplete"].as_array().map_or(&[][..], Vec::as_slice);
        if incomplete.is_empty() {
            return Ok(planned);
        }
        for image in incomplete {
            tell(&lacks(image));
        }
        Err(anyhow!("{} images are not complete, so nothing is exported", incomplete.len()))
    }
}

/// The files of the cache directory.
struct Published(PublishedFiles);

impl FetchContent for Published {
    fn open(&self, digest: &Digest) -> io::Result<ContentReader> {
        self.0.open(digest).map(|file| Box::new(file) as ContentReader)
    }
}

/// Reads what the server says of one image.
fn add(planned: &mut PlannedImages, contents: &Value) -> Option<()> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let image = ImageReference::parse(contents["image"].as_str()?).ok()?;
    let name = image.name();
    let mut types = BTreeMap::new();
    for part in contents["parts"].as_array()? {
        let content = content(name, part)?;
        types.insert(content.digest.clone(), (content.media_type.clone(), content.seen));
        planned.contents.push(content);
    }
    let root = Digest::parse(contents["digest"].as_str()?).ok()?;
    let (root_type, root_seen) = types.get(&root)?.clone();
    let bundled = |tag: Option<Tag>, digest: Digest, media_type: MediaType, seen: Timestamp| {
        let reference = image.to_string();
        BundledImage { reference, name: name.clone(), tag, digest, media_type, seen }
    };
    let tags = contents["tags"].as_array()?;
    for tag in tags {
        let digest = Digest::parse(tag["digest"].as_str()?).ok()?;
        let (media_type, seen) = types.get(&digest)?.clone();
        let tag_seen = text(&tag["seen"]).and_then(|seen| calendar::parse(&seen).ok());
        let tag = Tag::parse(tag["tag"].as_str()?).ok()?;
        planned.images.push(bundled(Some(tag), digest, media_type?, tag_seen.unwrap_or(seen)));
    }
    for attached in contents["attached"].as_array()? {
        let digest = Digest::parse(attached.as_str()?).ok()?;
        let (media_type, seen) = types.get(&digest)?.clone();
        planned.images.push(bundled(None, digest, media_type?, seen));
    }
    if tags.is_empty() || image.digest().is_some() {
        planned.images.push(bundled(None, root, root_type?, root_seen));
    }
    Some(())
}

fn content(name: &CanonicalName, part: &Value) -> Option<BundledContent> {
    let media_type = part["media_type"].as_str();
    Some(BundledContent {
        digest: Digest::parse(part["digest"].as_str()?).ok()?,
        size: part["size"].as_u64()?,
        media_type: media_type.map(MediaType::parse).map_or(Some(None), |kind| kind.map(Some))?,
        from: name.clone(),
        seen: calendar::parse(part["seen"].as_str()?).ok()?,
    })
}

fn random_id() -> anyhow::Result<[u8; 16]> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| anyhow!("the system gives no randomness"))?;
    Ok(id)
}

/// Bytes in the bundle, but for the statement.
fn bytes(statement: &Statement) -> u64 {
    statement.files.iter().map(|file| file.size).sum()
}

fn summary(statement: &Statement) -> String {
    let Statement { id, images, files, .. } = statement;
    format!(
        "bundle {id}: {} images, {} files ({})\n",
        images.len(),
        files.len(),
        size(bytes(statement))
    )
}

fn as_json(statement: &Statement) -> String {
    let result = json!({
        "id": statement.id,
        "images": statement.images.len(),
        "files": statement.files.len(),
        "bytes": bytes(statement),
    });
    format!("{result}\n")
}
