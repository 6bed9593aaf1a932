//! The cache directory as a start finds it: whose it is, who else may change it, and what of it is
//! not what it should be.
//!
//! Whoever may write to a folder may put something else in the place of what is ours. So what lies
//! in the directory has to be this user's or root's, and what is made in it is for this user alone.
//! The directory itself may be root's and open to others, as volumes often are: then it is used, and
//! that is told. What is of a wrong kind, or cannot be made because the file system takes nothing,
//! is told and left as it is: content is served from the rest, or passed through. Only a link in the
//! place of all content ends the start: somebody has put it there on purpose.

use std::fs::{File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::fs::{AtFlags, Dir};

use super::facts::Stamp;
use super::layout::{Layout, is_staging_name};
use super::{Error, create_folder};

/// The rights of everybody but the owner.
const OTHERS: u32 = 0o077;
const OTHERS_WRITE: u32 = 0o022;

/// The directory, for this process alone.
#[derive(Debug)]
pub(super) struct Premises {
    pub(super) locks: Vec<File>,
    /// What cannot be used as it is.
    pub(super) troubles: Vec<Error>,
}

/// Makes the folders, locks the directory for this process, and sweeps what an earlier one left
/// half done.
///
/// # Errors
/// If the directory cannot be made or entered, if somebody else could change what is served from
/// it, or if another process has it.
pub(super) fn take(layout: &Layout) -> Result<Premises, Error> {
    let root = layout.root();
    create_folder(root)?;
    // It may be reached over a link.
    let opened = File::open(root).map_err(Error::file("open", root))?;
    // Before it or anything in it is changed, which may be another process's.
    lock(&opened, root)?;
    refuse_foreign(&opened, root)?;
    let mut troubles = Vec::new();
    let lock_file = match lock_file(layout) {
        Ok(file) => Some(file),
        Err(error) if error.is_of_the_file() => {
            troubles.push(error);
            None
        }
        Err(error) => return Err(error),
    };
    make_ours(&opened, root)?;
    for folder in layout.content_folders() {
        refuse_link(&folder)?;
    }
    for folder in layout.folders() {
        let made = claim(&folder, Kind::Folder).and_then(|()| create_folder(&folder));
        troubles.extend(unless_fatal(made)?);
    }
    for folder in layout.other_folders() {
        troubles.extend(unless_fatal(claim(&folder, Kind::Folder))?);
    }
    for file in layout.files() {
        troubles.extend(unless_fatal(claim(&file, Kind::File))?);
    }
    troubles.extend(sweep(&layout.staging()).err());
    let locks = [opened].into_iter().chain(lock_file).collect();
    Ok(Premises { locks, troubles })
}

/// A trouble to go on with. Missing rights are a mistake of whoever set this up, and would be found
/// out late.
fn unless_fatal(done: Result<(), Error>) -> Result<Option<Error>, Error> {
    match done {
        Ok(()) => Ok(None),
        Err(error) if error.is_of_the_file() => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// What something in the directory has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
}

/// Sees to it that what is there, if anything is, is of this kind and nobody else's to change.
fn claim(path: &Path, kind: Kind) -> Result<(), Error> {
    let found = match path.symlink_metadata() {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::file("stat", path)(error)),
    };
    check_kind(&found, kind).map_err(Error::file("use", path))?;
    if is_foreign(&found) || found.mode() & OTHERS != 0 {
        match no_follow(File::options().read(true)).open(path) {
            Ok(file) => make_ours(&file, path)?,
            Err(_) if is_foreign(&found) => return Err(foreign(&found, path)),
            // What is root's, and not for us to read, is not for us to change either.
            Err(_) => {}
        }
    }
    Ok(())
}

/// What is another user's becomes root's if root runs this, and is refused otherwise. What is ours
/// loses the rights of others.
fn make_ours(file: &File, path: &Path) -> Result<(), Error> {
    let stat = || file.metadata().map_err(Error::file("stat", path));
    let found = stat()?;
    if is_foreign(&found) {
        adopt(file).map_err(|_| foreign(&found, path))?;
        tracing::warn!(path = %path.display(), owner = found.uid(),
            "this belonged to another user, who could change what is served; now it is root's");
    }
    let mode = found.mode() & 0o7777;
    if mode & OTHERS != 0 {
        // Not ours to change, or without effect, on many a volume: what counts is what comes of it.
        drop(file.set_permissions(Permissions::from_mode(mode & !OTHERS)));
        warn_if_others_may_write(&stat()?, path);
    }
    Ok(())
}

fn warn_if_others_may_write(found: &Metadata, path: &Path) {
    if found.mode() & OTHERS_WRITE != 0 {
        tracing::warn!(
            path = %path.display(),
            owner = found.uid(),
            group = found.gid(),
            mode = format_args!("{:04o}", found.mode() & 0o7777),
            "others may write to the cache directory, and this user cannot change that: they could \
             remove what is cached, or put something else in its place"
        );
    }
}

/// Before anything is made in it.
fn refuse_foreign(opened: &File, root: &Path) -> Result<(), Error> {
    let found = opened.metadata().map_err(Error::file("stat", root))?;
    if is_foreign(&found) && !rustix::process::geteuid().is_root() {
        return Err(foreign(&found, root));
    }
    Ok(())
}

/// A link to a folder is what somebody has chosen, and not a failure to go on with for ever.
fn refuse_link(path: &Path) -> Result<(), Error> {
    match path.symlink_metadata() {
        Ok(found) if found.is_symlink() => Err(Error::Link { path: path.to_path_buf() }),
        _ => Ok(()),
    }
}

/// Whether it is neither this user's nor root's.
pub(super) fn is_foreign(found: &Metadata) -> bool {
    found.uid() != 0 && found.uid() != rustix::process::geteuid().as_raw()
}

fn foreign(found: &Metadata, path: &Path) -> Error {
    Error::Foreign { path: path.to_path_buf(), owner: found.uid() }
}

/// Makes it root's, which only root can.
pub(super) fn adopt(file: &File) -> io::Result<()> {
    if rustix::process::geteuid().is_root() {
        fchown(file, Some(0), Some(0))
    } else {
        Err(ErrorKind::PermissionDenied.into())
    }
}

fn check_kind(found: &Metadata, kind: Kind) -> io::Result<()> {
    let (is_right, wanted) = match kind {
        Kind::Folder => (found.is_dir(), "a folder"),
        Kind::File => (found.is_file(), "a plain file"),
    };
    if is_right { Ok(()) } else { Err(io::Error::other(format!("it is not {wanted}"))) }
}

/// Neither follows a link nor waits for somebody at the other end of a pipe.
fn no_follow(options: &mut OpenOptions) -> &mut OpenOptions {
    options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
}

/// Locks the directory or a file in it, for as long as that is open.
fn lock(file: &File, root: &Path) -> Result<(), Error> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: root.to_path_buf() }),
        Err(TryLockError::Error(error)) => Err(Error::file("lock", root)(error)),
    }
}

/// `LOCK`, for directories that several machines mount: the lock of a folder may hold on one of them
/// only. It alone would not do, since it cannot be made on every disk: whoever made it later would
/// take the directory for free.
fn lock_file(layout: &Layout) -> Result<File, Error> {
    let path = layout.lock();
    let file = open_lock(&path).map_err(Error::file("open", &path))?;
    lock(&file, layout.root()).map(|()| file)
}

fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    // To be locked it need not be written to, which an immutable file does not allow.
    let to_read = || no_follow(File::options().read(true)).open(path);
    let file = no_follow(&mut options).open(path).or_else(|error| to_read().map_err(|_| error))?;
    check_kind(&file.metadata()?, Kind::File).map(|()| file)
}

/// Removes what an earlier process was writing; none of it was ever visible. Whatever else lies
/// there is not ours, nor is a folder that a link leads to.
fn sweep(staging: &Path) -> Result<(), Error> {
    let cannot =
        |operation| move |error: rustix::io::Errno| Error::file(operation, staging)(error.into());
    let mut options = File::options();
    options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY);
    let folder = options.open(staging).map_err(Error::file("open", staging))?;
    let mut left = Vec::new();
    for entry in Dir::read_from(&folder).map_err(cannot("list"))? {
        let entry = entry.map_err(cannot("list"))?;
        if is_staging_name(entry.file_name().to_bytes()) {
            left.push(entry.file_name().to_owned());
        }
    }
    let mut swept = Ok(());
    // All that can go goes.
    for name in &left {
        if let Err(error) = rustix::fs::unlinkat(&folder, name, AtFlags::empty()) {
            swept = Err(cannot("remove from")(error));
        }
    }
    swept
}

/// Whether it is a folder, and not a link that leads to somebody else's.
pub(super) fn check_folder(path: &Path) -> io::Result<()> {
    check_kind(&path.symlink_metadata()?, Kind::Folder)
}

/// A plain file, whoever it belongs to, over no link.
pub(super) fn open_plain(path: &Path) -> io::Result<(File, Metadata)> {
    let file = no_follow(File::options().read(true)).open(path)?;
    let found = file.metadata()?;
    check_kind(&found, Kind::File)?;
    Ok((file, found))
}

/// A file of the store, open.
pub(super) struct OpenedFile {
    pub(super) file: File,
    pub(super) stamp: Stamp,
    /// All the time. Somebody else's could be changed at any time and made to look as before.
    pub(super) is_ours: bool,
}

impl OpenedFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let (file, found) = open_plain(path)?;
        let (stamp, is_ours) = (Stamp::from(&found), !is_foreign(&found));
        if !is_ours {
            let owned = |_| io::Error::other(format!("it belongs to user {}", found.uid()));
            adopt(&file).map_err(owned)?;
        }
        Ok(Self { file, stamp, is_ours })
    }
}
