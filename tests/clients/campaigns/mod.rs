//! Campaigns: the same accident again and again, at every moment that there is.
//!
//! `./test` runs each a few times. A variable makes it long: `POINTS=all`, `CUTS=300`,
//! `FAULTS=200`, `KILLS=5000`, `RACES=40000`, `BLOBS=1000000`, `SOAK=1200` (CONTRIBUTING.md). `SEED` is a number that random moments
//! come from. Each prints one line that sums it up.

mod crash_points;
mod disk_faults;
mod fault_disk;
mod many_blobs;
mod power_cuts;
mod races;
mod soak;

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Pid;

use crate::support::process::run;

/// How often, if the variable `name` does not say.
pub(crate) fn how_often(name: &str, short: u64) -> u64 {
    let told = std::env::var(name).ok();
    told.map_or(short, |told| told.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// What random numbers begin with, if `SEED` does not say.
pub(crate) fn seed(usual: u64) -> u64 {
    how_often("SEED", usual)
}

/// Memory of a process that is no file's, in KiB.
fn anonymous_kib(process: Pid) -> u64 {
    let path = format!("/proc/{}/status", process.as_raw_nonzero());
    let status = std::fs::read_to_string(path).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|value| value.trim().trim_end_matches(" kB").parse().ok());
    kib.expect("Linux tells it")
}

/// Compiles a C file of this folder, and gives the program.
async fn compile(source: &str, folder: &Path, flags: &[&str]) -> PathBuf {
    let program = folder.join(source.trim_end_matches(".c"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/campaigns").join(source);
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-o"]).arg(&program).arg(source).args(flags);
    run("cc", folder, cc).await;
    program
}
