//! `roadstead import`: bundles come into the cache.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, anyhow};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::check::load;
use super::failure::CommandFailure;
use super::output::{print, tell};
use crate::bundle::{BundledContent, OpenedBundle, Statement, Trust};
use crate::control::{Absent, Session};
use crate::files;
use crate::licence::{KeyId, PublicKey, calendar};
use crate::oci::MediaType;

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub(super) struct ImportArguments {
    /// Bundles: directories, or tar archives.
    #[arg(value_name = "PATH", required = true)]
    paths: Vec<PathBuf>,
    /// A public key whose bundles are taken, NAME.pub; may be repeated.
    #[arg(long, value_name = "FILE", required_unless_present = "unsigned")]
    trust: Vec<PathBuf>,
    /// Take bundles whoever has signed them, and those that nobody has.
    #[arg(long, conflicts_with = "trust")]
    unsigned: bool,
    /// Let tags move back in time.
    #[arg(long)]
    force: bool,
    /// Let what is imported go when other content needs room; otherwise it is pinned.
    #[arg(long)]
    no_pin: bool,
    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
    /// Configuration file of the server.
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CONFIG")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &ImportArguments) -> Result<(), CommandFailure> {
    let (config, _) = load(arguments.config.as_deref())?;
    let trust = arguments.trust()?;
    let opened = arguments.paths.iter().map(|path| OpenedBundle::open(path, &trust));
    let (bundles, refused): (Vec<_>, Vec<_>) = opened.partition(Result::is_ok);
    let refused: Vec<_> = refused.into_iter().filter_map(Result::err).collect();
    if !refused.is_empty() {
        return Err(anyhow!(refused.join("\n")).into());
    }
    let bundles: Vec<_> = bundles.into_iter().filter_map(Result::ok).collect();
    let session = Session::begin(&config, Absent::Made)?;
    let imported = import(&session, &bundles, arguments.force);
    let pinned = match &imported {
        Ok(images) if !arguments.no_pin => pin(&session, images),
        Ok(_) | Err(_) => Ok(()),
    };
    session.end();
    let images = imported?;
    let text = if arguments.json {
        let bundles: Vec<_> = bundles.iter().map(described).collect();
        format!("{}\n", json!({ "bundles": bundles, "images": images }))
    } else {
        table(&images)
    };
    print(&text)?;
    match images.iter().filter(|image| is_refused(image)).count() {
        0 => Ok(pinned.context("all of it is imported, but nothing is pinned")?),
        refused => Err(anyhow!("{refused} of {} images refused", images.len()).into()),
    }
}

impl ImportArguments {
    fn trust(&self) -> anyhow::Result<Trust> {
        if self.unsigned {
            return Ok(Trust::Unsigned);
        }
        let keys = self.trust.iter().map(|file| {
            let pem = files::read_text_once(file).map_err(anyhow::Error::msg)?;
            PublicKey::from_pem(&pem).map_err(|message| anyhow!("{} {message}", file.display()))
        });
        keys.collect::<anyhow::Result<_>>().map(Trust::Keys)
    }
}

/// First the content that is not here, then what the bundles say of it.
fn import(
    session: &Session<'_>,
    bundles: &[OpenedBundle],
    force: bool,
) -> anyhow::Result<Vec<Value>> {
    send_contents(session, bundles)?;
    let mut images = Vec::new();
    for bundle in bundles {
        let imported = session.post("/v1/import", &said(&bundle.statement, force))?;
        images.extend(imported["images"].as_array().cloned().unwrap_or_default());
    }
    Ok(images)
}

/// Everything that has come stays: by its tag, so that what follows it under the tag does, too.
fn pin(session: &Session<'_>, images: &[Value]) -> anyhow::Result<()> {
    let taken = images.iter().filter(|image| !is_refused(image));
    let lines: BTreeSet<_> = taken.map(named).collect();
    if lines.is_empty() {
        return Ok(());
    }
    session.post("/v1/pin", &json!({ "images": lines })).map(drop)
}

fn is_refused(image: &Value) -> bool {
    image["outcome"] == "refused"
}

/// The image, by its tag if it has one.
fn named(image: &Value) -> String {
    let text = |key: &str| image[key].as_str().unwrap_or_default();
    match image["tag"].as_str() {
        Some(tag) => format!("{}:{tag}", text("name")),
        None => format!("{}@{}", text("name"), text("digest")),
    }
}

fn send_contents(session: &Session<'_>, bundles: &[OpenedBundle]) -> anyhow::Result<()> {
    let contents = || bundles.iter().flat_map(|bundle| &bundle.statement.contents);
    let digests: BTreeSet<_> = contents().map(|content| content.digest.as_str()).collect();
    let names: BTreeSet<_> = contents().map(|content| content.from.to_string()).collect();
    let order = json!({ "digests": digests, "names": names });
    let missing = session.post("/v1/import/missing", &order)?;
    let mut lacks = texts(&missing["missing"]);
    let unknown = texts(&missing["unknown"]);
    for bundle in bundles {
        for content in &bundle.statement.contents {
            if !lacks.contains(content.digest.as_str())
                || unknown.contains(&content.from.to_string())
            {
                continue;
            }
            if let Some(reader) = bundle.content(&content.digest).map_err(anyhow::Error::msg)? {
                let sent = session.put(&path(content), reader);
                sent.with_context(|| format!("{} is not taken", content.digest))?;
                lacks.remove(content.digest.as_str());
            }
        }
    }
    Ok(())
}

fn texts(list: &Value) -> BTreeSet<String> {
    let list = list.as_array().map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Where a piece of content is sent.
fn path(content: &BundledContent) -> String {
    let query = form_urlencoded::Serializer::new(String::new())
        .append_pair("size", &content.size.to_string())
        .append_pair("manifest", if content.media_type.is_some() { "true" } else { "false" })
        .append_pair("from", &content.from.to_string())
        .finish();
    format!("/v1/contents/{}?{query}", content.digest)
}

fn said(statement: &Statement, force: bool) -> Value {
    let images = statement.images.iter().map(|image| {
        json!({
            "name": image.name.to_string(),
            "tag": image.tag.as_ref().map(ToString::to_string),
            "digest": image.digest.as_str(),
            "seen": calendar::format(image.seen),
        })
    });
    let contents = statement.contents.iter().map(|content| {
        json!({
            "digest": content.digest.as_str(),
            "media_type": content.media_type.as_ref().map(MediaType::as_str),
        })
    });
    json!({
        "images": images.collect::<Vec<_>>(),
        "contents": contents.collect::<Vec<_>>(),
        "force": force,
    })
}

fn described(bundle: &OpenedBundle) -> Value {
    let Statement { id, created, .. } = &bundle.statement;
    let signer = bundle.signer.as_ref().map(KeyId::as_str);
    json!({ "id": id, "created": calendar::format(*created), "signer": signer })
}

fn table(images: &[Value]) -> String {
    let line = |image: &Value| {
        let (outcome, name) = (image["outcome"].as_str().unwrap_or_default(), named(image));
        if is_refused(image) {
            tell(&format!("{name}: {}", image["why"].as_str().unwrap_or_default()));
        }
        format!("{outcome:8}  {name}\n")
    };
    images.iter().map(line).collect()
}
