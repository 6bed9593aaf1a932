//! Reading small files whole, and no pipes: those would be waited for.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes that are read of one file: far above any configuration, certificate bundle or password.
const FILE_MAX: u64 = 4 << 20;

/// Bytes that are read of a file that this program writes itself out of many smaller ones, or that
/// another program writes of a whole cluster.
const LARGE_FILE_MAX: u64 = 256 << 20;

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
    read_open(file, FILE_MAX)
}

/// As [`read_bytes`], also from a pipe: what a command is given may be another's output.
pub(crate) fn read_once(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::empty())?;
    read_open(file, FILE_MAX)
}

/// As [`read_once`], with the bound of a large file.
pub(crate) fn read_large_once(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    rustix::fs::fcntl_setfl(&file, rustix::fs::OFlags::empty())?;
    read_open(file, LARGE_FILE_MAX)
}

/// As [`read_large_once`], of what is open already.
pub(crate) fn read_stream(stream: impl Read) -> io::Result<Vec<u8>> {
    read_open(stream, LARGE_FILE_MAX)
}

/// Does not wait for somebody to write, should it be a pipe.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

fn read_open(file: impl Read, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(invalid(format!("it is larger than {} MiB", max >> 20)));
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

/// As [`read_utf8`], of what this program has written itself, with the larger bound of that.
pub(crate) fn read_large_utf8(path: &Path) -> io::Result<String> {
    read_open(open(path)?, LARGE_FILE_MAX).and_then(utf8)
}

/// The text that these bytes of a file are.
///
/// # Errors
/// `InvalidData` if it is not UTF-8.
pub(crate) fn utf8(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| invalid("it is not UTF-8 text"))
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
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

/// The texts of [`list_files`].
///
/// # Errors
/// A sentence that names the file that cannot be read.
pub(super) fn read_all(path: &Path) -> Result<Vec<(PathBuf, String)>, String> {
    list_files(path)?.into_iter().map(|file| Ok((file.clone(), read_text(&file)?))).collect()
}

/// The sentence about a file that cannot be read.
pub(crate) fn cannot_read(path: &Path, error: &io::Error) -> String {
    format!("cannot read {}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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
}
