//! Small files: what a configuration points to is read whole, but never without a bound; keys,
//! licences and revocations are written.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::secret::Secret;

/// Bytes that are read of one file: far above any configuration, certificate bundle or password.
const FILE_MAX: u64 = 4 << 20;

/// Files that a folder of lists may hold.
const FOLDER_MAX: usize = 1000;

/// The whole file.
///
/// # Errors
/// Those of the system, and `InvalidData` above 4 MiB.
pub(crate) fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 4 MiB"));
    }
    Ok(bytes)
}

/// The whole file as text; [`read_text`] with the errors of the system, for callers that tell them
/// apart.
///
/// # Errors
/// Those of [`read_bytes`], and `InvalidData` if it is not UTF-8.
pub(crate) fn read_utf8(path: &Path) -> io::Result<String> {
    String::from_utf8(read_bytes(path)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

/// A password from a file: its text without the line ends that editors add.
pub(crate) fn read_secret(path: &Path) -> Result<Secret, String> {
    let text = read_text(path)?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        Err(format!("{} is empty", path.display()))
    } else {
        Ok(Secret::new(password.to_owned()))
    }
}

/// The whole file as text.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn read_text(path: &Path) -> Result<String, String> {
    read_utf8(path).map_err(|error| cannot_read(path, &error))
}

/// The file itself, or whatever a folder holds that is not hidden, by name. Folders in it are among
/// them, so that what was meant to be read is not passed over in silence.
///
/// # Errors
/// A sentence that names the folder, if it cannot be read or holds more than a thousand files.
pub(crate) fn list_files(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let cannot = |error: io::Error| cannot_read(path, &error);
    let mut files = Vec::new();
    for entry in fs::read_dir(path).map_err(cannot)? {
        let file = entry.map_err(cannot)?.path();
        if !file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
            files.push(file);
        }
        if files.len() > FOLDER_MAX {
            return Err(format!(
                "{} holds more than {FOLDER_MAX} files; put them together",
                path.display()
            ));
        }
    }
    files.sort();
    Ok(files)
}

/// The texts of [`list_files`].
///
/// # Errors
/// A sentence that names the file that cannot be read.
pub(crate) fn read_all(path: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    list_files(path)?.into_iter().map(|file| read_text(&file).map(|text| (file, text))).collect()
}

/// Writes a file that must not exist yet, with these permissions.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), String> {
    write_new(path, bytes, mode)
        .map_err(|error| format!("cannot create {}: {error}", path.display()))
}

/// Writes a file that must not exist yet for its owner alone, and the folders that it lies in.
///
/// # Errors
/// Those of the system, `AlreadyExists` among them.
pub(crate) fn create_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    write_new(path, bytes, 0o600)
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Adds whole lines to the end of a file, or begins it, and waits until they are on disk. A last
/// line that an editor left open is ended first.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn append_lines(path: &Path, lines: &str) -> Result<(), String> {
    let written =
        OpenOptions::new().read(true).append(true).create(true).mode(0o644).open(path).and_then(
            |mut file| {
                let end = if ends_open(&mut file)? { "\n" } else { "" };
                file.write_all(format!("{end}{lines}").as_bytes())?;
                file.sync_all()
            },
        );
    written.map_err(|error| format!("cannot write to {}: {error}", path.display()))
}

/// Whether the last line has no end.
fn ends_open(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}

/// Whether there is a file with leave to run it. Whether this process may is found out when it is
/// run.
///
/// # Errors
/// A sentence that names it.
pub(crate) fn check_executable(path: &Path) -> Result<(), String> {
    let shown = path.display();
    let metadata =
        fs::metadata(path).map_err(|error| format!("cannot find the program {shown}: {error}"))?;
    if metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        Ok(())
    } else {
        Err(format!("{shown} is no program: it has to be a file with leave to run it (chmod +x)"))
    }
}

fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_folder_of_lists_is_passed_over_in_silence() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        for name in ["b", "a", ".hidden"] {
            fs::write(path(name), name).expect("a file");
        }
        assert_eq!(list_files(folder.path()), Ok(vec![path("a"), path("b")]));
        for i in 0..2 * FOLDER_MAX {
            fs::write(path(&format!(".{i}")), "").expect("a file");
        }
        assert_eq!(
            list_files(folder.path()).map(|files| files.len()),
            Ok(2),
            "hidden ones take no place"
        );
        fs::create_dir(path("c")).expect("a folder");
        assert!(read_all(folder.path()).expect_err("a folder is no list").contains("/c"));
        for i in 0..FOLDER_MAX {
            fs::write(path(&format!("d{i}")), "").expect("a file");
        }
        assert!(list_files(folder.path()).expect_err("too many").contains("more than 1000"));
    }

    #[test]
    fn what_is_added_begins_a_line_of_its_own() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("list");
        for (before, expected) in [
            (None, "new\n"),
            (Some(""), "new\n"),
            (Some("old\n"), "old\nnew\n"),
            (Some("old"), "old\nnew\n"),
            (Some("\n"), "\nnew\n"),
        ] {
            if let Some(before) = before {
                fs::write(&path, before).expect("writable");
            }
            append_lines(&path, "new\n").expect("writable");
            assert_eq!(fs::read_to_string(&path).expect("readable"), expected, "{before:?}");
        }
        let refused = append_lines(folder.path(), "new\n").expect_err("a folder");
        assert!(refused.contains(&folder.path().display().to_string()), "{refused}");
    }
}
