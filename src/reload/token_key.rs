//! The secret that the keys of our own tokens come from.

use std::io::{self, ErrorKind};
use std::path::Path;

use crate::access;
use crate::config::Config;
use crate::files;
use crate::secret::Secret;

/// The text of the key file, which is made, for its owner alone, if there is none. `None`, told in
/// the log, if it lies in the cache directory and the disk does not give it.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn token_key(config: &Config) -> Result<Option<Secret>, String> {
    read_or_make(&config.key_file(), config.access.key_file.is_none())
}

/// `ours` says that nobody has asked for this very file: it lies in the cache directory.
fn read_or_make(path: &Path, ours: bool) -> Result<Option<Secret>, String> {
    if let Some(link) = files::link_at(path).filter(|_| ours) {
        return Err(format!(
            "{} is a link, and no link is followed in the cache directory; set `access.key_file` to \
             the file that is meant, or remove the link",
            link.display()
        ));
    }
    let read = if ours { files::check_place(path) } else { Ok(()) };
    if ours && read.is_ok() {
        files::remove_half_written(path);
    }
    match read.and_then(|()| files::read_utf8(path)) {
        Ok(text) => {
            let key = Secret::new(text.trim_end().to_owned());
            if ours && access::is_too_short(&key) { replace(path) } else { Ok(Some(key)) }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => make(path, ours),
        Err(error) if ours && is_of_the_disk(&error) => Ok(do_without(path, &error)),
        Err(error) => Err(files::cannot_read(path, &error)),
    }
}

fn make(path: &Path, ours: bool) -> Result<Option<Secret>, String> {
    let key = access::generate_key()?;
    match files::create_private(path, key.expose().as_bytes()) {
        Ok(()) => Ok(Some(key)),
        // A replica that shares the folder was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read_or_make(path, false),
        Err(error) if ours && is_of_the_disk(&error) => Ok(do_without(path, &error)),
        Err(error) => Err(format!("cannot create the key file {}: {error}", path.display())),
    }
}

/// Versions before this one wrote the file in place, and may have been killed before its end.
fn replace(path: &Path) -> Result<Option<Secret>, String> {
    let key = access::generate_key()?;
    match files::replace_private(path, key.expose().as_bytes()) {
        Ok(()) => {
            tracing::warn!(path = %path.display(),
                "the key file was incomplete; a new one takes its place");
            Ok(Some(key))
        }
        Err(error) if is_of_the_disk(&error) => Ok(do_without(path, &error)),
        Err(error) => Err(format!("cannot replace the key file {}: {error}", path.display())),
    }
}

fn do_without(path: &Path, error: &io::Error) -> Option<Secret> {
    tracing::warn!(%error, path = %path.display(),
        "the key file cannot be used; the key of this process stays as it is, and ends with it");
    None
}

/// Full, read-only or failing, or something else in its place: content is served from such a disk,
/// or passed through.
fn is_of_the_disk(error: &io::Error) -> bool {
    let kinds = [
        ErrorKind::StorageFull,
        ErrorKind::QuotaExceeded,
        ErrorKind::ReadOnlyFilesystem,
        ErrorKind::NotADirectory,
    ];
    // EPERM: the folder is immutable.
    kinds.contains(&error.kind())
        || [libc::EIO, libc::EPERM].map(Some).contains(&error.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_missing_key_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys/access");
        let made = read_or_make(&path, true).expect("writable").expect("a well disk");
        assert!(made.expose().len() >= 32, "no short secret");
        let permissions =
            |path: &Path| fs::metadata(path).expect("made").permissions().mode() & 0o777;
        assert_eq!(
            (permissions(&path), permissions(path.parent().expect("a folder"))),
            (0o600, 0o700)
        );
        assert_eq!(read_or_make(&path, true), Ok(Some(made)), "read from now on");
        let by_hand = "by hand, and long enough to be one\n";
        fs::write(&path, by_hand).expect("writable");
        let read = read_or_make(&path, true);
        assert_eq!(read, Ok(Some(Secret::new(by_hand.trim_end().to_owned()))));
    }

    #[test]
    fn a_key_that_a_kill_has_cut_is_made_anew_and_one_of_the_operators_never() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access");
        for cut in ["", "half of a k"] {
            fs::write(&path, cut).expect("writable");
            assert_eq!(read_or_make(&path, false), Ok(Some(Secret::new(cut.to_owned()))));
            let made = read_or_make(&path, true).expect("writable").expect("a well disk");
            assert!(made.expose().len() >= 32, "no short secret");
            assert_eq!(fs::read_to_string(&path).expect("readable"), *made.expose());
        }
    }

    #[test]
    fn a_key_that_cannot_be_read_is_never_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = read_or_make(folder.path(), false).expect_err("a folder is no key");
        assert!(refused.contains(&folder.path().display().to_string()), "{refused}");
        assert_eq!(read_or_make(folder.path(), true), Ok(None), "nobody asked for this file");
        assert!(folder.path().is_dir());
    }

    #[test]
    fn a_link_in_the_place_of_our_key_file_is_refused_and_one_of_the_operators_is_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        let key = Secret::new("k".repeat(43));
        fs::create_dir(at("real")).expect("writable");
        fs::write(at("real/access"), key.expose().as_bytes()).expect("writable");
        symlink(at("real"), at("keys")).expect("writable");
        symlink(at("real/access"), at("access")).expect("writable");
        symlink("nowhere", at("dangling")).expect("writable");
        for (path, link) in
            [("keys/access", "keys"), ("access", "access"), ("dangling", "dangling")]
        {
            let refused = read_or_make(&at(path), true).expect_err(path);
            let sentence = format!("{} is a link", at(link).display());
            assert!(
                refused.contains(&sentence) && refused.contains("`access.key_file`"),
                "{refused}"
            );
        }
        assert_eq!(read_or_make(&at("keys/access"), false), Ok(Some(key)));
    }
}
