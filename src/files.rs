//! Small files: what a configuration points to is read whole, but never without a bound, and
//! compared with what it was; keys, licences and revocations are written.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::digest;

/// Bytes that are read of one file: far above any configuration, certificate bundle or password.
const FILE_MAX: u64 = 4 << 20;

/// Files that a folder of lists may hold.
const FOLDER_MAX: usize = 1000;

/// The mark that editors on Windows put before a text in UTF-8. It is no part of the text.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The whole file, without byte order marks. Pipes are refused: what is in them could be read only
/// once, and would be waited for.
///
/// # Errors
/// Those of the system, and `InvalidData` above 4 MiB, for UTF-16 and for a pipe.
pub(crate) fn read_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    if file.metadata()?.file_type().is_fifo() {
        return Err(invalid("it is a pipe; put the content into a file"));
    }
    read_open(file)
}

/// As [`read_bytes`], also from a pipe: what a command is given may be another's output.
pub(crate) fn read_once(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::empty())?;
    read_open(file)
}

/// Does not wait for somebody to write, should it be a pipe.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

fn read_open(file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(invalid("it is larger than 4 MiB"));
    }
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return Err(invalid("it is not UTF-8 text but UTF-16; save it as UTF-8"));
    }
    Ok(without_marks(bytes))
}

/// Also drops the marks before later lines: files that were put together from marked ones, as
/// chains of certificates are, have them there.
fn without_marks(bytes: Vec<u8>) -> Vec<u8> {
    if !bytes.windows(BYTE_ORDER_MARK.len()).any(|three| three == BYTE_ORDER_MARK) {
        return bytes;
    }
    let bare = |line| <[u8]>::strip_prefix(line, BYTE_ORDER_MARK).unwrap_or(line);
    bytes.split_inclusive(|byte| *byte == b'\n').flat_map(bare).copied().collect()
}

/// The whole file as text; [`read_text`] with the errors of the system, for callers that tell them
/// apart.
///
/// # Errors
/// Those of [`read_bytes`], and `InvalidData` if it is not UTF-8.
pub(crate) fn read_utf8(path: &Path) -> io::Result<String> {
    read_bytes(path).and_then(utf8)
}

/// The text that these bytes of a file are.
///
/// # Errors
/// `InvalidData` if it is not UTF-8.
pub(crate) fn utf8(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8 text"))
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

/// The whole file as text.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn read_text(path: &Path) -> Result<String, String> {
    read_utf8(path).map_err(|error| cannot_read(path, &error))
}

/// As [`read_text`], also from a pipe.
pub(crate) fn read_text_once(path: &Path) -> Result<String, String> {
    read_once(path).and_then(utf8).map_err(|error| cannot_read(path, &error))
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

/// Whether it is there, as far as can be seen, and this user may not read it.
pub(crate) fn is_forbidden(path: &Path) -> bool {
    open(path).is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
}

/// The link that this file is, or that its folder is.
pub(crate) fn link_at(path: &Path) -> Option<&Path> {
    [path.parent(), Some(path)].into_iter().flatten().find(|path| path.is_symlink())
}

/// Sees to it that there is a file in a folder, if anything: a pipe would be waited for, and a link
/// leads who knows where.
///
/// # Errors
/// `NotADirectory` if it is anything else.
pub(crate) fn check_place(path: &Path) -> io::Result<()> {
    let is = |path: &Path, kind: fn(&fs::Metadata) -> bool| {
        path.symlink_metadata().ok().is_none_or(|found| kind(&found))
    };
    let is_in_folder = path.parent().is_none_or(|folder| is(folder, fs::Metadata::is_dir));
    if is_in_folder && is(path, fs::Metadata::is_file) {
        Ok(())
    } else {
        Err(io::Error::new(ErrorKind::NotADirectory, "it is no file in a folder"))
    }
}

/// The texts of [`list_files`].
///
/// # Errors
/// A sentence that names the file that cannot be read.
pub(crate) fn read_all(path: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    list_files(path)?.into_iter().map(|file| Ok((file.clone(), read_text(&file)?))).collect()
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

/// Writes a file of ours anew, whole or not at all, and the folders that it lies in.
///
/// # Errors
/// Those of the system.
pub(crate) fn replace_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    create_folder_of(path)?;
    Aside::write(path, bytes, 0o600)?.rename(path)?;
    sync_folder_of(path)
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

/// Bytes of the file system that a folder lies on, or will lie on when it is made. None if nobody
/// says.
pub(crate) fn disk_size(folder: &Path) -> Option<u64> {
    let absolute = std::path::absolute(folder).ok()?;
    let there = absolute.ancestors().find(|folder| folder.exists())?;
    let stat = rustix::fs::statvfs(there).ok()?;
    Some(stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// The sentence about a file that cannot be read.
pub(crate) fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

/// What a file holds, or that it cannot be read, in a form that can be compared: neither times nor
/// sizes tell for sure, and a mounted secret changes behind a link. Shows nothing of itself, since
/// the hash of a short password gives it away.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of what was read, or could not be.
    pub(crate) fn of<E: fmt::Display>(read: &Result<impl AsRef<[u8]>, E>) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        match read {
            Ok(bytes) => context.update(bytes.as_ref()),
            Err(error) => context.update(format!("\0{error}").as_bytes()),
        }
        Self::end(context)
    }

    /// Of files, and of the files in folders, as they are now.
    pub(crate) fn of_all(paths: &[PathBuf]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for path in paths {
            let read = read_all(path).map(|files| {
                for (file, text) in files {
                    context.update(file.as_os_str().as_encoded_bytes());
                    context.update(&(text.len() as u64).to_be_bytes());
                    context.update(text.as_bytes());
                }
            });
            if let Err(message) = read {
                context.update(message.as_bytes());
            }
        }
        Self::end(context)
    }

    fn end(context: digest::Context) -> Self {
        let mut print = [0; 32];
        print.copy_from_slice(context.finish().as_ref());
        Self(print)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_marks_are_no_part_of_a_text() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text");
        for (content, expected) in [
            (&b"\xef\xbb\xbfa\r\nb"[..], Ok("a\r\nb")),
            (b"a\n\xef\xbb\xbfb\n\xef\xbb\xbf", Ok("a\nb\n")),
            (b"a\xef\xbb\xbfb", Ok("a\u{feff}b")),
            (b"\xef\xbb\xbf", Ok("")),
            (b"\xff\xfea\0", Err("UTF-16")),
            (b"\xfe\xff\0a", Err("UTF-16")),
            (b"\xe4", Err("UTF-8")),
        ] {
            fs::write(&path, content).expect("writable");
            match (read_text(&path), expected) {
                (Ok(text), Ok(expected)) => assert_eq!(text, expected),
                (Err(message), Err(word)) => assert!(message.contains(word), "{message}"),
                (read, _) => panic!("{read:?} of {content:?}"),
            }
        }
    }

    #[test]
    fn a_print_differs_as_soon_as_anything_does_and_shows_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("text");
        let missing = Fingerprint::of(&read_bytes(&path));
        fs::write(&path, "").expect("writable");
        let empty = Fingerprint::of(&read_bytes(&path));
        fs::write(&path, "a").expect("writable");
        let full = Fingerprint::of(&read_bytes(&path));
        assert!(missing != empty && empty != full && missing != full);
        assert_eq!(full, Fingerprint::of(&Ok::<_, String>("a")));
        assert_eq!(format!("{full:?}"), "Fingerprint(…)");
    }

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
    fn nobody_waits_for_a_pipe_and_a_command_reads_one_that_is_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("coreutils");
        assert!(made.success());
        for read in [read_text(&path), read_all(folder.path()).map(|_| String::new())] {
            let message = read.expect_err("a pipe");
            assert!(message.contains("/pipe: it is a pipe"), "{message}");
        }
        let (reader, mut writer) = io::pipe().expect("descriptors");
        writer.write_all(b"text").expect("there is room");
        drop(writer);
        let path = PathBuf::from(format!("/dev/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&reader)));
        assert_eq!(read_text_once(&path), Ok("text".to_owned()));
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
        let link = folder.path().join("list");
        std::os::unix::fs::symlink(&path, &link).expect("ours");
        append_lines(&link, "\nline\n").expect("writable");
        assert!(link.is_symlink());
        assert_eq!(fs::read(&path).expect("readable"), b"third\n\nline\n");
        let rights = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(rights & 0o777, 0o600, "as before");
    }
}
