//! The command line: one file for each command, and what its failures become.

mod check;
pub mod credential_helper;
mod credential_provider;
mod issue;
mod licence;
mod licences_here;
mod pull_secret;
mod serve;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{self, Config, Problems};
use crate::reload::inputs::Input;

/// `EX_USAGE` of sysexits.h: the configuration is wrong, and a restart does not help.
const BAD_CONFIGURATION: u8 = 64;

/// A pull-through caching proxy for container registries.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve registries through the cache. Without a configuration: the well-known ones, on
    /// 127.0.0.1:5000.
    Serve(serve::Arguments),
    /// Say everything that is wrong with a configuration file, without starting.
    Check(check::Arguments),
    /// Make keys, and issue, look at and revoke licences.
    #[command(subcommand)]
    Licence(licence::Command),
    /// Answer kubelet, as its credential provider, from the licence files on this machine.
    CredentialProvider,
}

/// Why a command ended without doing what it was asked.
#[derive(Debug)]
enum Failure {
    Configuration(Problems),
    /// What is wrong with the files that a configuration names.
    Files(Vec<String>),
    Other(anyhow::Error),
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::Configuration(problems)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Runs the command. Exit codes: 0 done, 64 the configuration is wrong, 1 anything else.
pub fn run(arguments: &Arguments) -> ExitCode {
    let result = match &arguments.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Licence(command) => licence::run(command),
        Command::CredentialProvider => credential_provider::run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(problems)) => {
            tell(&problems.to_string());
            ExitCode::from(BAD_CONFIGURATION)
        }
        Err(Failure::Files(problems)) => {
            tell(&problems.join("\n"));
            ExitCode::from(BAD_CONFIGURATION)
        }
        Err(Failure::Other(error)) => {
            tell(&format!("roadstead: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The configuration, and every file that it names, found good.
fn load(file: Option<&Path>) -> Result<Config, Failure> {
    let config = file.map_or_else(|| Ok(config::builtin()), config::load)?;
    let check = |input: Input| input.check(&config).err();
    let problems: Vec<String> =
        Input::ALL.into_iter().filter_map(check).flat_map(|unusable| unusable.0).collect();
    if problems.is_empty() { Ok(config) } else { Err(Failure::Files(problems)) }
}

/// For whoever asked, on stdout.
fn print(text: &str) -> anyhow::Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// For people, on stderr; that nobody reads it is no failure.
fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
