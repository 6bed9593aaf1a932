//! The binary: process-wide installs, the command, its exit code.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use roadstead::cli::{self, Arguments, credential_helper};

/// It gives back what a flood took within 10 s of its end, by a thread of its own; the system's
/// allocator, and others, keep it for good (tests/cli/memory.rs).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let called = words.next().unwrap_or_default();
    // docker finds its helpers by their names.
    if Path::new(&called).file_name().is_some_and(|name| name == credential_helper::HELPER_NAME) {
        return credential_helper::run(words.next().as_deref().and_then(|verb| verb.to_str()));
    }
    let arguments = Arguments::parse();
    // Fails only if a provider is installed already, and this is the first line that could.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run(&arguments)
}
