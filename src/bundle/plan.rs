//! What goes into a bundle. It is settled at the beginning and written down, so that an export that is
//! killed ends as it would have.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::inventory::Inventory;
use super::layout;
use super::path::BundlePath;
use super::plain_files::read_bounded;
use super::statement::{BundledContent, BundledFile, BundledImage, STATEMENT_MAX, Statement};
use crate::clock::Timestamp;
use crate::files;
use crate::oci::{Algorithm, Digest};

/// Beside the bundle until it is whole.
pub(super) const PLAN_FILE: &str = ".roadstead-export.json";

/// Images and all that they consist of, as they are in the cache.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlannedImages {
    pub(crate) images: Vec<BundledImage>,
    pub(crate) contents: Vec<BundledContent>,
}

/// A bundle that is to be written.
#[derive(Debug)]
pub(crate) struct ExportPlan {
    /// Of what was asked for. Another order does not go on with this one's bundle.
    order: Digest,
    /// The hashes of files that are named by another algorithm than SHA-256 are not known yet.
    pub(super) statement: Statement,
}

#[derive(Deserialize, Serialize)]
struct PlanFields {
    order: String,
    statement: String,
}

impl ExportPlan {
    /// A bundle of `images` without the blobs that the other side `has`. Manifests are small, and
    /// always in it, so that it can be read by itself.
    pub(crate) fn new(
        order: Digest,
        images: PlannedImages,
        has: &Inventory,
        id: [u8; 16],
        now: Timestamp,
    ) -> Self {
        let PlannedImages { mut images, mut contents } = images;
        images.sort_by(|a, b| (&a.name, &a.tag, &a.digest).cmp(&(&b.name, &b.tag, &b.digest)));
        images.dedup_by(|a, b| (&a.name, &a.tag, &a.digest) == (&b.name, &b.tag, &b.digest));
        contents.sort_by(|a, b| a.digest.cmp(&b.digest));
        contents.dedup_by(|a, b| a.digest == b.digest);
        let is_wanted =
            |content: &&BundledContent| content.media_type.is_some() || !has.has(&content.digest);
        let files = contents.iter().filter(is_wanted).map(BundledFile::of).collect();
        let mut statement = Statement {
            id: hex(id),
            created: now,
            exporter: concat!("roadstead ", env!("CARGO_PKG_VERSION")).to_owned(),
            images,
            contents,
            files,
        };
        let index = layout::index(&statement);
        statement.files.push(BundledFile::small(BundlePath::Index, &index));
        statement.files.push(BundledFile::small(BundlePath::Marker, layout::MARKER));
        Self { order, statement }
    }

    /// The plan of an export into `folder` that has not come to its end, if there is one.
    ///
    /// # Errors
    /// A sentence: it is of another order, or damaged.
    pub(super) fn of_earlier(folder: &Path, order: &Digest) -> Result<Option<Self>, String> {
        let path = folder.join(PLAN_FILE);
        if path.symlink_metadata().is_err() {
            return Ok(None);
        }
        let bytes = read_bounded(&path, STATEMENT_MAX * 2)?;
        let fields: PlanFields = serde_json::from_slice(&bytes).map_err(|error| {
            format!("{PLAN_FILE} is damaged: {error}; remove the directory, and begin again")
        })?;
        if fields.order != order.as_str() {
            return Err(
                "an export of other images, or with other options, is not finished here: give the \
                 same command again, or another directory"
                    .to_owned(),
            );
        }
        let statement = Statement::parse(fields.statement.as_bytes())?;
        Ok(Some(Self { order: order.clone(), statement }))
    }

    pub(super) fn write(&self, folder: &Path) -> Result<(), String> {
        let statement = String::from_utf8(self.statement.to_json()).unwrap_or_default();
        let fields = PlanFields { order: self.order.to_string(), statement };
        let bytes = serde_json::to_vec(&fields).map_err(|error| error.to_string())?;
        let path = folder.join(PLAN_FILE);
        files::replace_private(&path, &bytes)
            .map_err(|error| format!("cannot write {}: {error}", path.display()))
    }
}

impl BundledFile {
    fn of(content: &BundledContent) -> Self {
        let hash = match content.digest.algorithm() {
            Algorithm::Sha256 => content.digest.clone(),
            // Known when it is written.
            Algorithm::Sha512 => Digest::of(Algorithm::Sha256, b""),
        };
        Self { path: BundlePath::Content(content.digest.clone()), size: content.size, hash }
    }

    fn small(path: BundlePath, bytes: &[u8]) -> Self {
        Self { path, size: bytes.len() as u64, hash: Digest::of(Algorithm::Sha256, bytes) }
    }
}

fn hex(bytes: [u8; 16]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
