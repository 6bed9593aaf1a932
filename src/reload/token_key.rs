//! The secret that the keys of our own tokens come from.

use std::io::{self, ErrorKind};
use std::path::Path;

use crate::access;
use crate::config::Config;
use crate::files;
use crate::secret::Secret;

/// The text of the key file, which is made, for its owner alone, if there is none.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn token_key(config: &Config) -> Result<Secret, String> {
    read_or_make(&config.key_file(), config.access.key_file.is_none())
}

/// `ours` says that nobody has asked for this very file: it lies in the cache directory.
fn read_or_make(path: &Path, ours: bool) -> Result<Secret, String> {
    let read = if ours { files::check_place(path) } else { Ok(()) };
    match read.and_then(|()| files::read_utf8(path)) {
        Ok(text) => {
            let key = Secret::new(text.trim_end().to_owned());
            if ours && access::is_too_short(&key) { replace(path) } else { Ok(key) }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => make(path, ours),
        Err(error) if ours && is_of_the_disk(&error) => {
            access::generate_key().inspect(|_| warn_of_stand_in(path, &error))
        }
        Err(error) => Err(files::cannot_read(path, &error)),
    }
}

fn make(path: &Path, ours: bool) -> Result<Secret, String> {
    let key = access::generate_key()?;
    match files::create_private(path, key.expose().as_bytes()) {
        Ok(()) => Ok(key),
        // A replica that shares the folder was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read_or_make(path, false),
        Err(error) if ours && is_of_the_disk(&error) => {
            warn_of_stand_in(path, &error);
            Ok(key)
        }
        Err(error) => Err(format!("cannot create the key file {}: {error}", path.display())),
    }
}

/// Versions before this one wrote the file in place, and may have been killed before its end.
fn replace(path: &Path) -> Result<Secret, String> {
    let key = access::generate_key()?;
    files::replace_private(path, key.expose().as_bytes())
        .map_err(|error| format!("cannot replace the key file {}: {error}", path.display()))?;
    tracing::warn!(path = %path.display(), "the key file was incomplete; a new one takes its place");
    Ok(key)
}

fn warn_of_stand_in(path: &Path, error: &io::Error) {
    tracing::warn!(%error, path = %path.display(),
        "the key file cannot be used; the tokens and uploads of this process end with it");
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
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_missing_key_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("keys/access");
        let made = read_or_make(&path, true).expect("writable");
        assert!(made.expose().len() >= 32, "no short secret");
        let permissions =
            |path: &Path| fs::metadata(path).expect("made").permissions().mode() & 0o777;
        assert_eq!(
            (permissions(&path), permissions(path.parent().expect("a folder"))),
            (0o600, 0o700)
        );
        assert_eq!(read_or_make(&path, true), Ok(made), "read from now on");
        let by_hand = "by hand, and long enough to be one\n";
        fs::write(&path, by_hand).expect("writable");
        assert_eq!(read_or_make(&path, true), Ok(Secret::new(by_hand.trim_end().to_owned())));
    }

    #[test]
    fn a_key_that_a_kill_has_cut_is_made_anew_and_one_of_the_operators_never() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("access");
        for cut in ["", "half of a k"] {
            fs::write(&path, cut).expect("writable");
            assert_eq!(read_or_make(&path, false), Ok(Secret::new(cut.to_owned())));
            let made = read_or_make(&path, true).expect("writable");
            assert!(made.expose().len() >= 32, "no short secret");
            assert_eq!(fs::read_to_string(&path).expect("readable"), *made.expose());
        }
    }

    #[test]
    fn a_key_that_cannot_be_read_is_never_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let refused = read_or_make(folder.path(), false).expect_err("a folder is no key");
        assert!(refused.contains(&folder.path().display().to_string()), "{refused}");
        let stood_in = read_or_make(folder.path(), true).expect("where nobody asked for this file");
        assert!(stood_in.expose().len() >= 32 && folder.path().is_dir());
    }
}
