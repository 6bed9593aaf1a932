//! The two programs, built from their sources at fixed versions.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::process::Process;

/// Module, version and name of the program.
const SUITE: [&str; 3] = [
    "github.com/opencontainers/distribution-spec/conformance",
    "v0.0.0-20260831232431-97274622c111",
    "conformance",
];
/// Later versions want a later Go.
const REGISTRY: [&str; 3] =
    ["github.com/distribution/distribution/v3/cmd/registry", "v3.0.0", "registry"];

/// The oldest Go that builds both: 1.this.
const GO_MINOR: u32 = 24;

/// Compiling distribution takes minutes of two cores.
const BUILD: Duration = Duration::from_mins(20);

#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) suite: PathBuf,
    pub(crate) registry: PathBuf,
}

impl Tools {
    /// Both, as built before or just now; `None`, and a line that says why, where they cannot be
    /// built.
    pub(crate) async fn ready() -> Option<Self> {
        if go_minor().is_none_or(|minor| minor < GO_MINOR) {
            return skip(&format!("needs Go 1.{GO_MINOR} or later"));
        }
        let (Some(suite), Some(registry)) = (install(SUITE).await, install(REGISTRY).await) else {
            assert!(
                std::env::var_os("CI").is_none(),
                "cannot be skipped in CI where there is Go: its tools cannot be built"
            );
            return skip("its tools cannot be built; see go.err in target/conformance");
        };
        Some(Self { suite, registry })
    }
}

/// Says so on a line of its own that `./test` counts.
fn skip<T>(reason: &str) -> Option<T> {
    // The raw stream: the test runner swallows what the print macros write.
    let _ = writeln!(std::io::stderr(), "\nskipped: conformance: {reason}");
    None
}

/// 26 of `go1.26.8`; `None` without Go, or with something newer than that scheme.
fn go_minor() -> Option<u32> {
    // Elsewhere than here, where nothing asks for another toolchain.
    let output = Command::new("go")
        .args(["env", "GOVERSION"])
        .current_dir("/")
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let version = String::from_utf8(output.stdout).ok()?;
    version.trim().strip_prefix("go1.")?.split('.').next()?.parse().ok()
}

/// The program, which is compiled once for all runs.
async fn install([module, version, program]: [&str; 3]) -> Option<PathBuf> {
    let target =
        Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target folder");
    let folder = target.join("conformance").join(format!("{program}-{version}"));
    let built = folder.join(program);
    if !built.exists() {
        std::fs::create_dir_all(&folder).expect("the target folder can be written");
        let mut go = Command::new("go");
        go.args(["install", &format!("{module}@{version}")]).env("GOBIN", &folder).current_dir("/");
        Process::start("go", &folder, go).exit(BUILD).await;
    }
    built.exists().then_some(built)
}
