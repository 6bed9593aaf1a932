//! A small disk of a test's own, which can be full, read-only or silent. Needs root.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use tempfile::TempDir;

/// A file system that goes with the value.
#[derive(Debug)]
pub(crate) struct Disk {
    mounted: TempDir,
    /// Writes wait until it thaws.
    is_frozen: AtomicBool,
}

impl Disk {
    /// Of so many MiB.
    pub(crate) fn of(mib: u64) -> Option<Self> {
        Self::with(&format!("size={mib}m"))
    }

    /// With these options of tmpfs. `None`, said on a line of its own that `./test` counts, without root; in CI
    /// that is a failure.
    pub(crate) fn with(options: &str) -> Option<Self> {
        Self::mounted(&["-t", "tmpfs", "-o", &format!("{options},mode=0700"), "tmpfs"])
    }

    /// One that can be frozen.
    pub(crate) fn freezable() -> Option<Self> {
        let image = tempfile::NamedTempFile::new().expect("a file");
        image.as_file().set_len(32 << 20).expect("a sparse file");
        run("mkfs.ext4", &["-q"], image.path());
        // The mount holds the file.
        Self::mounted(&["-o", "loop", &image.path().display().to_string()])
    }

    fn mounted(how: &[&str]) -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            assert!(std::env::var_os("CI").is_none(), "cannot be skipped in CI: needs root");
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            // The raw stream: the test runner swallows what the print macros write.
            let _ = writeln!(std::io::stderr(), "\nskipped: {test}: needs root");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary directory");
        run("mount", how, folder.path());
        Some(Self { mounted: folder, is_frozen: AtomicBool::new(false) })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mounted.path().join(name)
    }

    /// Lets nothing be written any more, or again. No file may be open to be written to.
    pub(crate) fn set_read_only(&self, read_only: bool) {
        let how = if read_only { "remount,ro" } else { "remount,rw" };
        run("mount", &["-o", how], self.mounted.path());
    }

    /// Lets whoever writes wait, or go on.
    pub(crate) fn set_frozen(&self, frozen: bool) {
        run("fsfreeze", &[if frozen { "--freeze" } else { "--unfreeze" }], self.mounted.path());
        self.is_frozen.store(frozen, Ordering::SeqCst);
    }

    /// Leaves no byte free.
    pub(crate) fn fill(&self) {
        let mut ballast = std::fs::File::create(self.path("ballast")).expect("a file");
        let full = loop {
            if let Err(error) = ballast.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    }

    pub(crate) fn free(&self) {
        std::fs::remove_file(self.path("ballast")).expect("it was full");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if *self.is_frozen.get_mut() {
            self.set_frozen(false);
        }
        run("umount", &["--lazy"], self.mounted.path());
    }
}

fn run(program: &str, arguments: &[&str], folder: &Path) {
    let done = Command::new(program).args(arguments).arg(folder).status();
    assert!(done.expect("the program is there").success(), "{program} {arguments:?}");
}
