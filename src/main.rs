//! The binary: process-wide installs, the command, its exit code.

use std::process::ExitCode;

use clap::Parser;
use roadstead::cli::{self, Arguments};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Fails only if a provider is installed already, and this is the first line that could.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run(&arguments)
}
