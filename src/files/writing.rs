//! Writing small files, whole or not at all.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::reading::open;

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
    create_folder_of(path)?;
    write_new(path, bytes, 0o600)
}

fn create_folder_of(path: &Path) -> io::Result<()> {
    path.parent()
        .map_or(Ok(()), |folder| DirBuilder::new().recursive(true).mode(0o700).create(folder))
}

/// Whole or not at all, also if the process or the machine ends meanwhile: a half-written key would
/// end every later start.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let aside = Aside::write(path, bytes, mode)?;
    match fs::hard_link(&aside.0, path) {
        // Not every file system has links.
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            if path.symlink_metadata().is_ok() {
                return Err(ErrorKind::AlreadyExists.into());
            }
            aside.rename(path)?;
        }
        linked => linked?,
    }
    sync_folder_of(path)
}

/// Gives a file of ours that is damaged the ending `.damaged`, and tells its new name. One that was
/// set aside before is left as it is: it says most.
///
/// # Errors
/// Those of the system, `AlreadyExists` among them.
pub(crate) fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = path.with_extension("damaged");
    if aside.symlink_metadata().is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    fs::rename(path, &aside).map(|()| aside)
}

/// Writes a file of ours anew, whole or not at all, and the folders that it lies in.
///
/// # Errors
/// Those of the system.
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create_folder_of(path)?;
    Aside::write(path, bytes, 0o600)?.rename(path)?;
    sync_folder_of(path)
}

/// Removes what processes that were killed have left beside a file that only this process writes.
/// What cannot be removed does no harm.
pub(crate) fn remove_half_written(path: &Path) {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if is_aside(entry.file_name().as_encoded_bytes(), name.as_encoded_bytes()) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Whether this is a name that [`Aside`] gives to what becomes the file `name`.
fn is_aside(found: &[u8], name: &[u8]) -> bool {
    let serial = found
        .strip_prefix(b".")
        .and_then(|rest| rest.strip_prefix(name))
        .and_then(|rest| rest.strip_prefix(b"."));
    serial.is_some_and(|serial| serial.len() == 16 && serial.iter().all(u8::is_ascii_hexdigit))
}

/// A file beside the one that it becomes; gone if it does not.
struct Aside(PathBuf);

impl Aside {
    fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<Self> {
        let mut random = [0; 8];
        aws_lc_rs::rand::fill(&mut random)
            .map_err(|_| io::Error::other("the system gives no randomness"))?;
        let name = path.file_name().ok_or(ErrorKind::InvalidFilename)?;
        let mut aside = OsString::from(".");
        aside.push(name);
        aside.push(format!(".{:016x}", u64::from_ne_bytes(random)));
        let aside = Self(path.with_file_name(aside));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&aside.0)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        Ok(aside)
    }

    fn rename(&self, path: &Path) -> io::Result<()> {
        fs::rename(&self.0, path)
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // After a rename there is none.
        drop(fs::remove_file(&self.0));
    }
}

/// The name has to survive a power cut as well.
fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// Adds whole lines to the end of a file, or begins it, and waits until they are on disk. A last
/// line that an editor left open is ended first. All of the lines are there or none of them, also if
/// the process or the machine ends meanwhile, wherever the file may be replaced.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn append_lines(path: &Path, lines: &str) -> Result<(), String> {
    let written = replace_with(path, lines).or_else(|_| append_in_place(path, lines));
    written.map_err(|error| format!("cannot write to {}: {error}", path.display()))
}

/// Puts a longer file in the place of this one, which a mounted file, or one of another owner, does
/// not allow.
fn replace_with(path: &Path, lines: &str) -> io::Result<()> {
    let path = &fs::canonicalize(path)?;
    let (mut file, ours) = (open(path)?, rustix::process::geteuid().as_raw());
    let metadata = file.metadata()?;
    if metadata.uid() != ours || metadata.nlink() != 1 || !metadata.is_file() {
        return Err(ErrorKind::Unsupported.into());
    }
    // Against another that adds to it at the same time.
    file.lock()?;
    let end = if ends_open(&mut file)? { "\n" } else { "" };
    file.seek(SeekFrom::Start(0))?;
    let mut text = Vec::new();
    file.read_to_end(&mut text)?;
    if fs::metadata(path)?.ino() != metadata.ino() {
        return Err(ErrorKind::Interrupted.into());
    }
    text.extend(format!("{end}{lines}").into_bytes());
    let aside = Aside::write(path, &text, metadata.permissions().mode() & 0o777)?;
    fs::set_permissions(&aside.0, metadata.permissions())?;
    aside.rename(path)?;
    sync_folder_of(path)
}

fn append_in_place(path: &Path, lines: &str) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.read(true).append(true).create(true).mode(0o644).open(path)?;
    file.lock()?;
    let end = if ends_open(&mut file)? { "\n" } else { "" };
    file.write_all(format!("{end}{lines}").as_bytes())?;
    file.sync_all()
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let names = fs::read_dir(folder.path()).expect("a folder").count();
        assert_eq!(names, 1, "nothing is left beside it");
        let refused = append_lines(folder.path(), "new\n").expect_err("a folder");
        assert!(refused.contains(&folder.path().display().to_string()), "{refused}");
    }

    #[test]
    fn a_file_is_made_once_and_whole_and_a_link_stays_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys/access");
        create_private(&path, b"first").expect("writable");
        let again = create_private(&path, b"second").expect_err("it is there");
        assert_eq!(again.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("readable"), b"first");
        replace_private(&path, b"third").expect("writable");
        assert_eq!(fs::read(&path).expect("readable"), b"third");
        assert_eq!(fs::read_dir(path.parent().expect("keys")).expect("a folder").count(), 1);
        let [left, others] = [".access.0123456789abcdef", ".access.note"].map(|name| {
            let left = path.with_file_name(name);
            fs::write(&left, b"half").expect("writable");
            left
        });
        remove_half_written(&path);
        assert!(!left.exists() && others.exists() && path.exists());
        let link = folder.path().join("list");
        std::os::unix::fs::symlink(&path, &link).expect("ours");
        append_lines(&link, "\nline\n").expect("writable");
        assert!(link.is_symlink());
        assert_eq!(fs::read(&path).expect("readable"), b"third\n\nline\n");
        let rights = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(rights & 0o777, 0o600, "as before");
    }
}
