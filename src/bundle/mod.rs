//! Bundles: images as files that are carried to where no registry can be reached, and proof of what
//! they are (docs/bundles.md).
//!
//! A bundle is an OCI image layout with a signed `statement` beside it. `export` writes one and goes
//! on where it was killed; `opened` reads one, and believes nothing that is not signed. `inventory`
//! is what the other side has already.

mod archive;
mod archive_writer;
mod content;
mod envelope;
mod export;
mod inventory;
mod layout;
mod opened;
mod path;
mod plain_files;
mod plan;
mod statement;

pub(crate) use archive_writer::write_archive;
pub(crate) use content::{ContentReader, FetchContent};
pub(crate) use envelope::{Signer, Trust};
pub(crate) use export::Export;
pub(crate) use inventory::Inventory;
pub(crate) use opened::OpenedBundle;
pub(crate) use plan::{ExportPlan, PlannedImages};
pub(crate) use statement::{BundledContent, BundledImage, Statement};
