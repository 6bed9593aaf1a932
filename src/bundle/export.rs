//! Writes a bundle into a folder: every file whole, verified and on disk before it has its name, the
//! statement last. Whatever ends it in between, the same order goes on from there (BUNDLE-3).

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::content::{ContentReader, FetchContent, Hashes, hash_all};
use super::envelope::{ENVELOPE_FILE, Signer};
use super::layout;
use super::path::BundlePath;
use super::plan::{ExportPlan, PLAN_FILE};
use super::statement::{BundledFile, Statement};
use crate::files;
use crate::oci::{Algorithm, Digest};

/// Files that are written at once: while one waits for its fsync, others are copied.
const WRITERS: usize = 4;

/// A bundle that is being written.
#[derive(Debug)]
pub(crate) struct Export {
    folder: PathBuf,
    plan: ExportPlan,
}

impl Export {
    /// Goes on with what an earlier export of the same `order` has left in `folder`, if one has.
    ///
    /// # Errors
    /// A sentence: there is something else.
    pub(crate) fn resume(folder: &Path, order: &Digest) -> Result<Option<Self>, String> {
        let told = |error: String| format!("{}: {error}", folder.display());
        // Of one that was killed while it wrote these.
        for file in [PLAN_FILE, ENVELOPE_FILE] {
            files::remove_half_written(&folder.join(file));
        }
        if let Some(plan) = ExportPlan::of_earlier(folder, order).map_err(told)? {
            return Ok(Some(Self { folder: folder.to_path_buf(), plan }));
        }
        check_is_free(folder).map_err(told)?;
        Ok(None)
    }

    /// Begins in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// A sentence: the disk takes nothing.
    pub(crate) fn begin(folder: &Path, plan: ExportPlan) -> Result<Self, String> {
        make_folder(folder)?;
        plan.write(folder)?;
        Ok(Self { folder: folder.to_path_buf(), plan })
    }

    /// Writes what is not there yet.
    ///
    /// # Errors
    /// A sentence. What was written stays, for the next time.
    pub(crate) fn write(
        mut self,
        source: &dyn FetchContent,
        signer: &Signer,
    ) -> Result<Statement, String> {
        self.make_folders()?;
        let hashes = self.write_all(source)?;
        for (file, hash) in self.plan.statement.files.iter_mut().zip(hashes) {
            file.hash = hash;
        }
        self.sync_folders()?;
        let envelope = signer.seal(&self.plan.statement);
        let path = self.folder.join(ENVELOPE_FILE);
        if path.symlink_metadata().is_err() {
            files::create(&path, &envelope, 0o644)?;
        }
        let plan = self.folder.join(PLAN_FILE);
        fs::remove_file(&plan).map_err(|error| format!("{}: {error}", plan.display()))?;
        Ok(self.plan.statement)
    }

    fn make_folders(&self) -> Result<(), String> {
        for file in &self.plan.statement.files {
            let path = self.folder.join(file.path.to_relative());
            path.parent().map_or(Ok(()), make_folder)?;
        }
        Ok(())
    }

    /// The SHA-256 of every file, in their order.
    fn write_all(&self, source: &dyn FetchContent) -> Result<Vec<Digest>, String> {
        let listed = &self.plan.statement.files;
        let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
        let done = Mutex::new(vec![None; listed.len()]);
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                let Some(file) = listed.get(nth) else { break };
                let written = self.ensure(file, source).inspect_err(|_| {
                    failed.store(true, Ordering::Relaxed);
                });
                let hash = written?;
                done.lock().unwrap_or_else(PoisonError::into_inner)[nth] = Some(hash);
            }
            Ok(())
        };
        let ended: Vec<Result<(), String>> = thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(work)).collect();
            let ended = |writer: thread::ScopedJoinHandle<'_, _>| {
                writer.join().unwrap_or_else(|_| Err("a writer has panicked".to_owned()))
            };
            writers.into_iter().map(ended).collect()
        });
        ended.into_iter().collect::<Result<(), String>>()?;
        let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        // Without a failure all of them are done.
        Ok(done.into_iter().flatten().collect())
    }

    /// Writes the file, unless it is there and right; its SHA-256.
    fn ensure(&self, file: &BundledFile, source: &dyn FetchContent) -> Result<Digest, String> {
        let path = self.folder.join(file.path.to_relative());
        if let Some(hash) = existing(&path, file) {
            return Ok(hash);
        }
        let told = |error: io::Error| format!("{}: {error}", path.display());
        let partial = partial_path(&path);
        let hash = match &file.path {
            BundlePath::Marker => write_small(&partial, layout::MARKER),
            BundlePath::Index => write_small(&partial, &layout::index(&self.plan.statement)),
            BundlePath::Content(digest) => {
                let opened = source.open(digest).map_err(|error| absent(digest, &error))?;
                copy(opened, &partial, (digest, file.size))
            }
        };
        let hash = hash.map_err(told)?;
        fs::rename(&partial, &path).map_err(told)?;
        Ok(hash)
    }

    /// The names have to survive a power cut before the statement says that they are there.
    fn sync_folders(&self) -> Result<(), String> {
        let mut folders: Vec<_> = self
            .plan
            .statement
            .files
            .iter()
            .filter_map(|file| {
                self.folder.join(file.path.to_relative()).parent().map(Path::to_path_buf)
            })
            .collect();
        folders.sort();
        folders.dedup();
        for folder in folders {
            let synced = File::open(&folder).and_then(|folder| folder.sync_all());
            synced.map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        Ok(())
    }
}

fn absent(digest: &Digest, error: &io::Error) -> String {
    if error.kind() == ErrorKind::NotFound {
        return format!(
            "{digest} has left the cache meanwhile: give the same command again, which fetches it"
        );
    }
    format!("{digest} cannot be read: {error}")
}

/// Nothing of anybody else may be in the way.
fn check_is_free(folder: &Path) -> Result<(), String> {
    if folder.join(ENVELOPE_FILE).symlink_metadata().is_ok() {
        return Err("there is a bundle already; give another directory".to_owned());
    }
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => Err("it is not empty; give another directory".to_owned()),
        Ok(false) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn make_folder(folder: &Path) -> Result<(), String> {
    fs::create_dir_all(folder).map_err(|error| format!("cannot make {}: {error}", folder.display()))
}

/// The SHA-256 of a file that is there already, if it is what it should be.
fn existing(path: &Path, file: &BundledFile) -> Option<Digest> {
    let opened = File::open(path).ok()?;
    if opened.metadata().ok()?.len() != file.size {
        return None;
    }
    let mut hashes = Hashes::new(file);
    hash_all(opened, &mut hashes, &mut io::sink()).ok()?;
    hashes.finish(file)
}

fn write_small(partial: &Path, bytes: &[u8]) -> io::Result<Digest> {
    let mut file = create(partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(Digest::of(Algorithm::Sha256, bytes))
}

/// Copies content, and waits until it is on disk; its SHA-256.
fn copy(from: ContentReader, partial: &Path, (digest, size): (&Digest, u64)) -> io::Result<Digest> {
    let (mut to, mut hashes) = (create(partial)?, Hashes::of(digest));
    hash_all(from, &mut hashes, &mut to)?;
    let found = to.metadata()?.len();
    if found != size {
        let told = format!("it has {found} bytes, where its manifest says {size}");
        return Err(io::Error::new(ErrorKind::InvalidData, told));
    }
    let Some(sha256) = hashes.finish_as(digest) else {
        let damaged = "the cache has it damaged; roadstead fsck --repair removes what is";
        return Err(io::Error::new(ErrorKind::InvalidData, damaged));
    };
    to.sync_all()?;
    Ok(sha256)
}

/// In place of one that was left half done.
fn create(partial: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(partial)
}

fn partial_path(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".partial");
    path.with_file_name(name)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;
    use crate::bundle::envelope::Trust;
    use crate::bundle::inventory::Inventory;
    use crate::bundle::opened::OpenedBundle;
    use crate::bundle::plan::PlannedImages;
    use crate::bundle::statement::{BundledContent, BundledImage};
    use crate::clock::Timestamp;
    use crate::oci::{CanonicalName, MediaType, Tag};

    /// Content that lies in a folder under its digest.
    pub(in crate::bundle) struct Contents(tempfile::TempDir);

    impl Contents {
        fn of(contents: &[&[u8]]) -> Self {
            let folder = tempfile::tempdir().expect("a temporary directory");
            for bytes in contents {
                let digest = Digest::of(Algorithm::Sha256, bytes);
                fs::write(folder.path().join(digest.hex()), bytes).expect("written");
            }
            Self(folder)
        }

        fn path(&self, digest: &Digest) -> PathBuf {
            self.0.path().join(digest.hex())
        }
    }

    impl FetchContent for Contents {
        fn open(&self, digest: &Digest) -> io::Result<ContentReader> {
            File::open(self.path(digest)).map(|file| Box::new(file) as ContentReader)
        }
    }

    pub(in crate::bundle) const LAYERS: [&[u8]; 3] = [b"first", b"second", b"third"];

    fn order() -> Digest {
        Digest::of(Algorithm::Sha256, b"nginx:1.27")
    }

    pub(in crate::bundle) fn plan(has: &Inventory) -> ExportPlan {
        let now = Timestamp::from_unix(Duration::from_secs(1_000_000_000));
        let from = CanonicalName::parse("docker.io/library/nginx").expect("a name");
        let kind = MediaType::parse("application/vnd.oci.image.manifest.v1+json");
        let content = |bytes: &[u8], media_type| BundledContent {
            digest: Digest::of(Algorithm::Sha256, bytes),
            size: bytes.len() as u64,
            media_type,
            from: from.clone(),
            seen: now,
        };
        let layers = LAYERS.iter().map(|bytes| content(bytes, None));
        let images = vec![BundledImage {
            reference: "nginx:1.27".to_owned(),
            name: from.clone(),
            tag: Tag::parse("1.27").ok(),
            digest: Digest::of(Algorithm::Sha256, b"manifest"),
            media_type: kind.clone().expect("a type"),
            seen: now,
        }];
        let contents = layers.chain([content(b"manifest", kind)]).collect();
        ExportPlan::new(order(), PlannedImages { images, contents }, has, [7; 16], now)
    }

    pub(in crate::bundle) fn all() -> Contents {
        Contents::of(&[LAYERS.as_slice(), &[b"manifest"]].concat())
    }

    fn export(folder: &Path, contents: &Contents) -> Result<Statement, String> {
        let export = match Export::resume(folder, &order())? {
            Some(export) => export,
            None => Export::begin(folder, plan(&Inventory::default()))?,
        };
        export.write(contents, &Signer(None))
    }

    /// Every file below `folder`.
    fn files_in(folder: &Path) -> HashMap<PathBuf, Vec<u8>> {
        let mut files = HashMap::new();
        let mut folders = vec![folder.to_path_buf()];
        while let Some(next) = folders.pop() {
            for entry in fs::read_dir(next).expect("a folder").flatten() {
                if entry.path().is_dir() {
                    folders.push(entry.path());
                } else {
                    let path = entry.path().strip_prefix(folder).expect("below").to_path_buf();
                    files.insert(path, fs::read(entry.path()).expect("readable"));
                }
            }
        }
        files
    }

    #[test]
    fn a_bundle_is_a_layout_with_a_statement_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let statement = export(folder.path(), &all()).expect("written");
        let mut found: Vec<_> =
            files_in(folder.path()).keys().map(|path| path.display().to_string()).collect();
        let mut expected: Vec<_> =
            statement.files.iter().map(|file| file.path.to_string()).collect();
        expected.push(ENVELOPE_FILE.to_owned());
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
        let opened = OpenedBundle::open(folder.path(), &Trust::Unsigned).expect("a bundle");
        assert_eq!(opened.statement, statement);
        let index = fs::read(folder.path().join("index.json")).expect("an index");
        let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
        let entry = &index["manifests"][0];
        for key in ["org.opencontainers.image.ref.name", "io.containerd.image.name"] {
            assert_eq!(entry["annotations"][key], "docker.io/library/nginx:1.27");
        }
        assert_eq!(entry["size"], 8);
    }

    #[test]
    fn what_was_left_half_done_ends_as_it_would_have() {
        let whole = tempfile::tempdir().expect("a temporary directory");
        export(whole.path(), &all()).expect("written");
        let resumed = tempfile::tempdir().expect("a temporary directory");
        let contents = all();
        let third = contents.path(&Digest::of(Algorithm::Sha256, b"third"));
        fs::remove_file(&third).expect("removed");
        let error = export(resumed.path(), &contents).expect_err("a layer is missing");
        assert!(error.contains("same command again"), "{error}");
        assert!(!resumed.path().join(ENVELOPE_FILE).exists());
        // As a kill and a bad disk leave them: half a file, and one that has rotted since.
        let blobs = resumed.path().join("blobs/sha256");
        let first = Digest::of(Algorithm::Sha256, b"first");
        fs::write(blobs.join(format!(".{}.partial", first.hex())), "fi").expect("written");
        fs::write(blobs.join(first.hex()), "fIrst").expect("written");
        for half in
            ["..roadstead-export.json.0123456789abcdef", ".roadstead-bundle.json.0123456789abcdef"]
        {
            fs::write(resumed.path().join(half), "{").expect("written");
        }
        fs::write(&third, "third").expect("written");
        export(resumed.path(), &contents).expect("written");
        assert_eq!(files_in(resumed.path()), files_in(whole.path()));
    }

    #[test]
    fn damaged_content_is_not_carried_away() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let contents = all();
        let second = contents.path(&Digest::of(Algorithm::Sha256, b"second"));
        fs::write(second, "secOnd").expect("written");
        let error = export(folder.path(), &contents).expect_err("it is damaged");
        assert!(error.contains("fsck"), "{error}");
        assert!(!folder.path().join(ENVELOPE_FILE).exists());
    }

    #[test]
    fn the_other_side_is_sent_what_it_lacks_and_all_manifests() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let here = folder.path().join("inventory.json");
        let digests = [b"first".as_slice(), b"second", b"manifest"];
        let digests = digests.map(|bytes| Digest::of(Algorithm::Sha256, bytes));
        let now = Timestamp::from_unix(Duration::ZERO);
        fs::write(&here, Inventory::to_json(&digests, now)).expect("written");
        let has = Inventory::read(&here).expect("an inventory");
        let bundle = folder.path().join("bundle");
        let export = Export::begin(&bundle, plan(&has)).expect("begun");
        export.write(&all(), &Signer(None)).expect("written");
        let opened = OpenedBundle::open(&bundle, &Trust::Unsigned).expect("a bundle");
        let is_here =
            |bytes: &[u8]| opened.content(&Digest::of(Algorithm::Sha256, bytes)).expect("right");
        assert!(is_here(b"third").is_some() && is_here(b"manifest").is_some());
        assert!(is_here(b"first").is_none() && is_here(b"second").is_none());
        assert_eq!(opened.statement.contents.len(), 4);
        // The bundle is an inventory of whoever has imported it.
        assert!(Inventory::read(&bundle).expect("a bundle").has(&digests[0]));
    }

    #[test]
    fn nothing_of_anybody_else_is_written_into() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        fs::write(folder.path().join("mine"), "").expect("written");
        assert!(export(folder.path(), &all()).expect_err("not ours").contains("not empty"));
        let folder = tempfile::tempdir().expect("a temporary directory");
        export(folder.path(), &all()).expect("written");
        assert!(export(folder.path(), &all()).expect_err("done").contains("a bundle already"));
        let folder = tempfile::tempdir().expect("a temporary directory");
        Export::begin(folder.path(), plan(&Inventory::default())).expect("begun");
        let other = Digest::of(Algorithm::Sha256, b"another list");
        let error = Export::resume(folder.path(), &other).expect_err("another's");
        assert!(error.contains("other images"), "{error}");
    }
}
