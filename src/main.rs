//! The binary: process-wide installs, the command, its exit code.

use std::process::ExitCode;

use clap::Parser;
use mimalloc::MiMalloc;
use roadstead::cli::{self, Arguments};

/// Pieces of 256 KiB come and go with every cold transfer. glibc maps and unmaps each of them, and the page faults were a
/// tenth of the transfer's CPU time.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Fails only if a provider is installed already, and this is the first line that could.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run(&arguments)
}
