//! Writes a bundle as one tar archive, to a pipe in one go.

use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};

use super::content::{ContentReader, FetchContent, Hashes, hash_all};
use super::envelope::{ENVELOPE_FILE, Signer};
use super::layout;
use super::path::BundlePath;
use super::plan::ExportPlan;
use super::statement::{BundledFile, Statement};
use crate::oci::Algorithm;

/// Writes the bundle to `out`, the statement first, so that whoever reads it knows what comes.
///
/// # Errors
/// A sentence; what was written is then of no use.
pub(crate) fn write_archive(
    plan: ExportPlan,
    source: &dyn FetchContent,
    signer: &Signer,
    out: impl Write,
) -> Result<Statement, String> {
    let mut statement = plan.statement;
    let index = layout::index(&statement);
    for file in &mut statement.files {
        hash_ahead(file, source)?;
    }
    let mut archive = Builder::new(out);
    let told = |error: io::Error| format!("cannot write the archive: {error}");
    append(&mut archive, ENVELOPE_FILE, &signer.seal(&statement)).map_err(told)?;
    for file in &statement.files {
        let path = file.path.to_string();
        match &file.path {
            BundlePath::Marker => append(&mut archive, &path, layout::MARKER).map_err(told)?,
            BundlePath::Index => append(&mut archive, &path, &index).map_err(told)?,
            BundlePath::Content(_) => append_content(&mut archive, file, source)?,
        }
    }
    archive.into_inner().and_then(|mut out| out.flush()).map_err(told)?;
    Ok(statement)
}

/// The hash of what is named by another algorithm than SHA-256, which is said before it is sent.
fn hash_ahead(file: &mut BundledFile, source: &dyn FetchContent) -> Result<(), String> {
    let BundlePath::Content(digest) = &file.path else { return Ok(()) };
    if digest.algorithm() == Algorithm::Sha256 {
        return Ok(());
    }
    let mut hashes = Hashes::new(file);
    let read = source.open(digest).and_then(|from| hash_all(from, &mut hashes, &mut io::sink()));
    read.map_err(|error| format!("{digest} cannot be read: {error}"))?;
    let hash = hashes.finish(file);
    file.hash = hash.ok_or_else(|| format!("the cache has {digest} damaged"))?;
    Ok(())
}

fn append(archive: &mut Builder<impl Write>, path: &str, bytes: &[u8]) -> io::Result<()> {
    archive.append_data(&mut header(bytes.len() as u64), path, bytes)
}

fn append_content(
    archive: &mut Builder<impl Write>,
    file: &BundledFile,
    source: &dyn FetchContent,
) -> Result<(), String> {
    let path = file.path.to_string();
    let told = |error: io::Error| format!("{path}: {error}");
    let BundlePath::Content(digest) = &file.path else { return Ok(()) };
    let mut hashed = Hashed { from: source.open(digest).map_err(told)?, hashes: Hashes::new(file) };
    archive
        .append_data(&mut header(file.size), &path, (&mut hashed).take(file.size))
        .map_err(told)?;
    let is_right = hashed.hashes.finish(file).is_some_and(|hash| hash == file.hash);
    is_right.then_some(()).ok_or_else(|| format!("the cache has {digest} damaged"))
}

/// What is read is hashed on the way.
struct Hashed {
    from: ContentReader,
    hashes: Hashes,
}

impl Read for Hashed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.hashes.update(&buffer[..read]);
        Ok(read)
    }
}

/// The same for everybody who exports the same.
pub(super) fn header(size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_entry_type(EntryType::Regular);
    header
}
