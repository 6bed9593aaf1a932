//! A bundle as one tar archive, read from a file without unpacking.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use tar::{Archive, EntryType};

use super::envelope::ENVELOPE_FILE;
use super::path::BundlePath;

/// Where the files of an archive begin, and how many bytes they have.
#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) envelope: Option<Span>,
    pub(super) files: HashMap<BundlePath, Span>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    offset: u64,
    pub(super) size: u64,
}

impl Span {
    /// Reads it, from a handle of its own position.
    pub(super) fn open(self, file: &File) -> io::Result<io::Take<At>> {
        Ok(At { file: file.try_clone()?, at: self.offset }.take(self.size))
    }
}

/// A file that is read from a place on, whoever reads it elsewhere.
#[derive(Debug)]
pub(crate) struct At {
    file: File,
    at: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(&self.file, buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Entries {
    /// Goes through the archive. No name leads anywhere: they are compared with those that a bundle
    /// has, and content is read in place.
    ///
    /// # Errors
    /// A sentence: it holds something else than the files of a bundle, or is cut.
    pub(super) fn read(file: &mut File) -> Result<Self, String> {
        let cut = |error: io::Error| format!("it is no whole tar archive: {error}");
        let length = file.seek(SeekFrom::End(0)).map_err(cut)?;
        file.rewind().map_err(cut)?;
        let mut archive = Archive::new(&*file);
        let mut found = Self::default();
        for entry in archive.entries_with_seek().map_err(cut)? {
            let entry = entry.map_err(cut)?;
            let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let span = Span { offset: entry.raw_file_position(), size: entry.size() };
            let kind = entry.header().entry_type();
            if kind == EntryType::Directory {
                continue;
            }
            if !matches!(kind, EntryType::Regular | EntryType::Continuous) {
                return Err(format!("{path:?} is of the kind {kind:?}, and no file"));
            }
            if span.offset.checked_add(span.size).is_none_or(|end| end > length) {
                return Err("it is no whole tar archive: it ends too early".to_owned());
            }
            found.add(path.strip_prefix("./").unwrap_or(&path), span)?;
        }
        Ok(found)
    }

    fn add(&mut self, path: &str, span: Span) -> Result<(), String> {
        let before = if path == ENVELOPE_FILE {
            self.envelope.replace(span)
        } else {
            self.files.insert(BundlePath::parse(path)?, span)
        };
        before.map_or(Ok(()), |_| Err(format!("{path:?} is in it twice")))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tar::{Builder, Header};

    use super::*;
    use crate::bundle::archive_writer::{header, write_archive};
    use crate::bundle::envelope::{Signer, Trust};
    use crate::bundle::export::tests::{LAYERS, all, plan};
    use crate::bundle::inventory::Inventory;
    use crate::bundle::opened::OpenedBundle;
    use crate::oci::{Algorithm, Digest};

    fn written() -> Vec<u8> {
        let mut archive = Vec::new();
        let plan = plan(&Inventory::default());
        write_archive(plan, &all(), &Signer(None), &mut archive).expect("written");
        archive
    }

    fn open(archive: &[u8]) -> Result<OpenedBundle, String> {
        let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
        file.write_all(archive).expect("written");
        OpenedBundle::open(file.path(), &Trust::Unsigned)
    }

    /// An archive of these entries: their names, kinds and bytes.
    fn archive(entries: &[(&str, EntryType, &[u8])]) -> Vec<u8> {
        let mut archive = Builder::new(Vec::new());
        for (name, kind, bytes) in entries {
            let mut header = header(bytes.len() as u64);
            header.set_entry_type(*kind);
            let field = &mut header.as_gnu_mut().expect("it is").name;
            field[..name.len()].copy_from_slice(name.as_bytes());
            if kind.is_symlink() || kind.is_hard_link() {
                header.set_link_name("/etc/passwd").expect("a name");
            }
            header.set_cksum();
            archive.append(&header, *bytes).expect("written");
        }
        archive.into_inner().expect("whole")
    }

    #[test]
    fn an_archive_is_read_as_the_folder_would_be() {
        let archive = written();
        assert_eq!(archive, written(), "the same for everybody");
        let opened = open(&archive).expect("a bundle");
        for bytes in LAYERS {
            let mut read = Vec::new();
            let content = opened.content(&Digest::of(Algorithm::Sha256, bytes)).expect("right");
            content.expect("it is there").read_to_end(&mut read).expect("readable");
            assert_eq!(read, bytes);
        }
    }

    #[test]
    fn of_an_archive_that_is_cut_nothing_half_is_read() {
        let archive = written();
        for end in (0..archive.len()).step_by(100) {
            let Ok(opened) = open(&archive[..end]) else { continue };
            for content in &opened.statement.contents {
                let Ok(Some(mut reader)) = opened.content(&content.digest) else { continue };
                let mut read = Vec::new();
                reader.read_to_end(&mut read).expect("readable");
                assert_eq!(Digest::of(Algorithm::Sha256, &read), content.digest, "cut at {end}");
            }
        }
    }

    #[test]
    fn whatever_is_no_file_of_a_bundle_is_refused() {
        let hex = "a".repeat(64);
        let content = format!("blobs/sha256/{hex}");
        for (name, kind) in [
            ("/etc/passwd", EntryType::Regular),
            ("../escape", EntryType::Regular),
            ("blobs/sha256/../../escape", EntryType::Regular),
            ("note.txt", EntryType::Regular),
            (&content, EntryType::Symlink),
            (&content, EntryType::Link),
            (&content, EntryType::Fifo),
            (&content, EntryType::Char),
            (&content, EntryType::Block),
            (&content, EntryType::GNUSparse),
        ] {
            let error = open(&archive(&[(name, kind, b"")])).expect_err(name);
            assert!(!error.contains(ENVELOPE_FILE), "{name} {kind:?}: {error}");
        }
        let twice = [("index.json", EntryType::Regular, b"{}".as_slice()); 2];
        assert!(open(&archive(&twice)).expect_err("twice").contains("twice"));
        let mut larger = archive(&[(&content, EntryType::Regular, b"x")]);
        // A header that claims more than there is.
        let mut header = Header::from_byte_slice(&larger[..512]).clone();
        header.set_size(1 << 40);
        header.set_cksum();
        larger[..512].copy_from_slice(header.as_bytes());
        assert!(open(&larger).expect_err("a bomb").contains("whole"));
    }
}
