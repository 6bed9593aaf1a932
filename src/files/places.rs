//! What lies at a path, and on what disk.

use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::reading::open;

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
