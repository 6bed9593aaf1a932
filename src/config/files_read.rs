//! What a configuration was read from, as it was then, so that a change of any of it is seen.
//!
//! A file is remembered when it is read and not when somebody begins to watch it: whatever changes
//! in between counts as changed. What was missing is remembered as missing, so that a secret which
//! is mounted later is a change, too.

use std::io;
use std::path::{Path, PathBuf};

use crate::files::{self, Fingerprint};

/// The document itself, the files that it names, and the programs that it was looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesRead(Vec<(Source, Fingerprint)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    /// Of a program counts whether it can be run, not what it holds.
    Program(PathBuf),
}

impl FilesRead {
    /// Reads a file, and remembers what it held or why it could not be read.
    ///
    /// # Errors
    /// Those of [`files::read_bytes`].
    pub(super) fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let read = files::read_bytes(path);
        self.0.push((Source::File(path.to_owned()), Fingerprint::of(&read)));
        read
    }

    /// As [`FilesRead::read`], also from a pipe.
    ///
    /// # Errors
    /// Those of [`files::read_once`].
    pub(super) fn read_document(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        let read = files::read_once(path);
        self.0.push((Source::File(path.to_owned()), Fingerprint::of(&read)));
        read
    }

    /// Whether there is a program, and remembers it.
    ///
    /// # Errors
    /// A sentence that names the program.
    pub(super) fn find_program(&mut self, path: &Path) -> Result<(), String> {
        let found = files::check_executable(path);
        self.0.push((Source::Program(path.to_owned()), print_of(&found)));
        found
    }

    /// Whether any of it is not any more as it was; reads all of it.
    pub(crate) fn have_changed(&self) -> bool {
        self.0.iter().any(|(source, print)| source.print() != *print)
    }
}

impl Source {
    fn print(&self) -> Fingerprint {
        match self {
            Self::File(path) => Fingerprint::of(&files::read_bytes(path)),
            Self::Program(path) => print_of(&files::check_executable(path)),
        }
    }
}

fn print_of(found: &Result<(), String>) -> Fingerprint {
    Fingerprint::of(&found.as_ref().map(|()| ""))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_comes_changes_or_goes_is_a_change() {
        let folder = tempfile::tempdir().expect("a folder");
        let (file, program) = (folder.path().join("file"), folder.path().join("program"));
        let look = || {
            let mut files_read = FilesRead::default();
            let _ = files_read.read(&file);
            let _ = files_read.find_program(&program);
            files_read
        };
        let mode = |bits| fs::set_permissions(&program, fs::Permissions::from_mode(bits));
        let steps: [&dyn Fn() -> io::Result<()>; 6] = [
            &|| fs::write(&file, ""),
            &|| fs::write(&file, "a"),
            &|| fs::write(&program, ""),
            &|| mode(0o755),
            &|| fs::remove_file(&file),
            &|| fs::remove_file(&program),
        ];
        for (n, step) in steps.into_iter().enumerate() {
            let before = look();
            assert!(!before.have_changed(), "before step {n}");
            step().expect("ours");
            assert!(before.have_changed(), "step {n}");
        }
    }
}
