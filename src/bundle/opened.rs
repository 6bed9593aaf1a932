//! Reading a bundle, which may be anybody's: what is signed counts, and every file is opened as what
//! it has to be and compared with that (BUNDLE-1).

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::archive::{Entries, Span};
use super::content::ContentReader;
use super::envelope::{ENVELOPE_FILE, Trust};
use super::path::BundlePath;
use super::plain_files::{open_plain, read_bounded};
use super::statement::{STATEMENT_MAX, Statement};
use crate::licence::KeyId;
use crate::oci::{Algorithm, Digest};

/// A bundle that is trusted.
#[derive(Debug)]
pub(crate) struct OpenedBundle {
    path: PathBuf,
    place: Place,
    /// Of the content that is in it, bytes.
    sizes: HashMap<Digest, u64>,
    pub(crate) statement: Statement,
    /// Whose it is, if that was asked.
    pub(crate) signer: Option<KeyId>,
}

/// Where its files are.
#[derive(Debug)]
enum Place {
    Folder,
    Archive(File, HashMap<BundlePath, Span>),
}

impl OpenedBundle {
    /// Opens a folder, or a tar archive.
    ///
    /// # Errors
    /// A sentence: it is no bundle, nobody who is trusted has signed it, or what it says does not
    /// fit together.
    pub(crate) fn open(path: &Path, trust: &Trust) -> Result<Self, String> {
        let told = |error: String| format!("{}: {error}", path.display());
        let (place, envelope) = read_place(path).map_err(told)?;
        let (statement, signer) = trust.open(&envelope).map_err(told)?;
        check(&statement).map_err(told)?;
        let sizes = statement.files.iter().filter_map(|file| match &file.path {
            BundlePath::Content(digest) => Some((digest.clone(), file.size)),
            BundlePath::Marker | BundlePath::Index => None,
        });
        let sizes = sizes.collect();
        Ok(Self { path: path.to_path_buf(), place, sizes, statement, signer })
    }

    /// Opens the file of `digest`, which has as many bytes as it should; what they are is for the
    /// reader to see. `None` if the bundle leaves it out.
    ///
    /// # Errors
    /// A sentence: it is missing, no file, or cut.
    pub(crate) fn content(&self, digest: &Digest) -> Result<Option<ContentReader>, String> {
        let Some(listed) = self.sizes.get(digest) else { return Ok(None) };
        let path = BundlePath::Content(digest.clone());
        let told = |error: String| format!("{}: {path}: {error}", self.path.display());
        let (reader, size) = self.open_file(&path).map_err(told)?;
        if size != *listed {
            return Err(told(format!("it has {size} bytes, and should have {listed}")));
        }
        Ok(Some(reader))
    }

    /// The file, and its bytes.
    fn open_file(&self, path: &BundlePath) -> Result<(ContentReader, u64), String> {
        let told = |error: io::Error| error.to_string();
        match &self.place {
            Place::Folder => {
                let file = open_plain(&self.path.join(path.to_relative()))?;
                let size = file.metadata().map_err(told)?.len();
                Ok((Box::new(file), size))
            }
            Place::Archive(file, spans) => {
                let span = spans.get(path).ok_or("it is not in the archive")?;
                Ok((Box::new(span.open(file).map_err(told)?), span.size))
            }
        }
    }
}

/// Where the files are, and the envelope.
fn read_place(path: &Path) -> Result<(Place, Vec<u8>), String> {
    // Base64 takes four bytes for three.
    let max = STATEMENT_MAX / 3 * 4 + (1 << 20);
    if path.is_dir() {
        return Ok((Place::Folder, read_bounded(&path.join(ENVELOPE_FILE), max)?));
    }
    let mut file = open_plain(path)?;
    let Entries { envelope, files } = Entries::read(&mut file)?;
    let envelope = envelope.ok_or_else(|| format!("{ENVELOPE_FILE} is not in it"))?;
    if envelope.size > max {
        return Err(format!("{ENVELOPE_FILE} is larger than {} MiB", max >> 20));
    }
    let mut bytes = Vec::new();
    let read = envelope.open(&file).and_then(|mut from| from.read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    Ok((Place::Archive(file, files), bytes))
}

/// Whether what is said fits together.
fn check(statement: &Statement) -> Result<(), String> {
    let mut contents = HashMap::new();
    for content in &statement.contents {
        if contents.insert(&content.digest, content).is_some() {
            return Err(format!("its statement names {} twice", content.digest));
        }
    }
    for image in &statement.images {
        let manifest = contents.get(&image.digest);
        if manifest.is_none_or(|content| content.media_type.is_none()) {
            return Err(format!("its statement says nothing of the manifest {}", image.digest));
        }
    }
    let mut files = HashSet::new();
    for file in &statement.files {
        if !files.insert(&file.path) {
            return Err(format!("its statement names {} twice", file.path));
        }
        let BundlePath::Content(digest) = &file.path else { continue };
        let fits = |size| size == file.size;
        if !contents.get(digest).is_some_and(|content| fits(content.size))
            || (digest.algorithm() == Algorithm::Sha256 && *digest != file.hash)
        {
            return Err(format!("its statement contradicts itself about {digest}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::bundle::envelope::Signer;
    use crate::bundle::statement::tests::sample;

    fn bundle(change: impl FnOnce(&mut Statement)) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let mut statement = sample();
        change(&mut statement);
        let written = Signer(None).seal(&statement);
        std::fs::write(folder.path().join(ENVELOPE_FILE), written).expect("written");
        folder
    }

    fn refusal(folder: &Path) -> String {
        OpenedBundle::open(folder, &Trust::Unsigned).expect_err("it is refused")
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        type Change = fn(&mut Statement);
        let changes: [(Change, &str); 7] = [
            (|it| it.contents.push(it.contents[0].clone()), "twice"),
            (|it| it.files.push(it.files[0].clone()), "twice"),
            (|it| it.contents.clear(), "says nothing"),
            (|it| it.contents[0].media_type = None, "says nothing"),
            (|it| it.files[0].size = 9, "contradicts"),
            (|it| it.files[0].hash = Digest::of(Algorithm::Sha256, b"other"), "contradicts"),
            (|it| drop(it.contents.remove(0)), "says nothing"),
        ];
        for (change, told) in changes {
            let error = refusal(bundle(change).path());
            assert!(error.contains(told), "{told}: {error}");
        }
    }

    #[test]
    fn only_plain_files_of_the_right_size_are_opened() {
        let folder = bundle(|_| {});
        let opened = OpenedBundle::open(folder.path(), &Trust::Unsigned).expect("it is right");
        let digest = sample().images[0].digest.clone();
        let path = folder.path().join(format!("blobs/sha256/{}", digest.hex()));
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        opened.content(&digest).err().expect("it is missing");
        std::fs::write(&path, "manifest").expect("written");
        assert!(opened.content(&digest).expect("it is there").is_some());
        assert!(opened.content(&Digest::of(Algorithm::Sha256, b"layer")).expect("told").is_none());
        for bytes in ["manifes", "manifests"] {
            std::fs::write(&path, bytes).expect("written");
            assert!(opened.content(&digest).err().expect(bytes).contains("should have 8"));
        }
        std::fs::write(&path, "manifest").expect("written");
        let elsewhere = folder.path().join("elsewhere");
        std::fs::rename(&path, &elsewhere).expect("moved");
        symlink(&elsewhere, &path).expect("a link");
        opened.content(&digest).err().expect("a link is not followed");
        std::fs::remove_file(&path).expect("removed");
        std::fs::create_dir(&path).expect("made");
        assert!(opened.content(&digest).err().expect("a folder").contains("no plain file"));
    }

    #[test]
    fn a_folder_without_a_statement_is_no_bundle() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        assert!(refusal(folder.path()).contains(ENVELOPE_FILE));
    }
}
