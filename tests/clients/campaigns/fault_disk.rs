//! Steers `fault_disk.c` in the proxy that it is preloaded into.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::support::process::Process;
use crate::support::proxy::{Proxy, Settings};

use super::compile;

/// What happens to the call that is struck.
#[derive(Clone, Copy, Debug)]
pub(super) enum Strike {
    /// The process is killed before the call.
    Kill,
    /// The call fails so, and the next one does what it should.
    Once(i32),
    /// The call and all later ones fail so, until the disk is healed.
    Errno(i32),
}

/// A disk that can be made to fail.
#[derive(Debug)]
pub(super) struct FaultDisk {
    library: PathBuf,
    control: PathBuf,
    file: File,
}

impl FaultDisk {
    pub(super) async fn make(folder: &Path) -> Self {
        let library = compile("fault_disk.c", folder, &["-shared", "-fPIC", "-ldl"]).await;
        let control = folder.join("control");
        fs::write(&control, [0; 32]).expect("the folder is the test's own");
        let file = File::options().read(true).write(true).open(&control).expect("just written");
        Self { library, control, file }
    }

    /// Starts a proxy whose cache is on this disk.
    pub(super) fn start(&self, settings: &Settings) -> Process {
        let mut command = settings.command();
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAULT_FOLDER", settings.cache())
            .env("FAULT_CONTROL", &self.control);
        Process::start("roadstead", &settings.folder, command)
    }

    pub(super) async fn proxy(&self, settings: &Settings) -> Proxy {
        Proxy::watch(self.start(settings)).await
    }

    /// Calls until now that change something.
    pub(super) fn calls(&self) -> u64 {
        let mut number = [0; 8];
        self.file.read_exact_at(&mut number, 0).expect("32 bytes");
        u64::from_ne_bytes(number)
    }

    /// Strikes the `nth` call from now on, counted from 1.
    pub(super) fn strike(&self, nth: u64, strike: Strike) {
        let (errno, lasts) = match strike {
            Strike::Kill => (0, 0),
            Strike::Once(errno) => (errno, 0),
            Strike::Errno(errno) => (errno, 1),
        };
        let errno = u64::try_from(errno).expect("positive");
        // The number last: it is what arms the library.
        for (at, number) in [(16, errno), (24, lasts), (8, self.calls() + nth)] {
            self.file.write_all_at(&number.to_ne_bytes(), at).expect("32 bytes");
        }
    }

    pub(super) fn heal(&self) {
        self.file.write_all_at(&0u64.to_ne_bytes(), 8).expect("32 bytes");
    }
}
