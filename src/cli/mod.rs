//! The command line: one file for each command. `failure` and `output` are what they share;
//! `wanted_images` is what commands share that are for lists of images, `licences_here` what the two commands share that answer docker and kubelet.

mod check;
pub mod credential_helper;
mod credential_provider;
mod export;
mod failure;
mod fsck;
mod images;
mod import;
mod inventory;
mod issue;
mod licence;
mod licences_here;
mod list;
mod misses;
mod output;
mod pin;
mod pull_secret;
mod purge;
mod seal;
mod serve;
mod verifier;
mod wanted_images;
mod warm;
mod warm_progress;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::clock::Clock;
use failure::CommandFailure;

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
    Serve(serve::ServeArguments),
    /// Say everything that is wrong with a configuration file, without starting.
    Check(check::CheckArguments),
    /// List what is cached, as images.
    Images(images::ImagesArguments),
    /// Have images stay in the cache, whatever needs room.
    Pin(pin::PinArguments),
    /// Let pinned images go when room is needed.
    Unpin(pin::UnpinArguments),
    /// Take images out of the cache, with everything that no other image needs.
    Purge(purge::PurgeArguments),
    /// List what clients wanted of sealed upstreams and did not get.
    Misses(misses::MissesArguments),
    /// Say which upstreams are sealed, or open one of them for a while.
    Seal(seal::SealArguments),
    /// Say which images lists, manifests, compose files and charts name.
    List(list::ListArguments),
    /// Bring images into the cache before anybody pulls them.
    Warm(warm::WarmArguments),
    /// Check everything that is cached: every blob hashes to its name, and records and files agree.
    Fsck(fsck::FsckArguments),
    /// Write images to a directory that can be carried to where no registry is.
    Export(export::ExportArguments),
    /// Take what was exported into the cache.
    Import(import::ImportArguments),
    /// Say what is cached, so that the next export leaves it out.
    Inventory(inventory::InventoryArguments),
    /// Make keys, and issue, look at and revoke licences.
    #[command(subcommand)]
    Licence(licence::LicenceCommand),
    /// Answer kubelet, as its credential provider, from the licence files on this machine.
    CredentialProvider,
}

/// Runs the command. Exit codes: 0 done, 64 the configuration is wrong, 1 anything else.
pub fn run(arguments: &Arguments) -> ExitCode {
    let result = match &arguments.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Images(arguments) => images::run(arguments),
        Command::Pin(arguments) => pin::pin(arguments),
        Command::Unpin(arguments) => pin::unpin(arguments),
        Command::Purge(arguments) => purge::run(arguments),
        Command::Misses(arguments) => misses::run(arguments),
        Command::Seal(arguments) => seal::run(arguments),
        Command::List(arguments) => list::run(arguments),
        Command::Warm(arguments) => warm::run(arguments),
        Command::Fsck(arguments) => fsck::run(arguments),
        Command::Export(arguments) => export::run(arguments, &Clock::system()),
        Command::Import(arguments) => import::run(arguments),
        Command::Inventory(arguments) => inventory::run(arguments, &Clock::system()),
        Command::Licence(command) => licence::run(command),
        Command::CredentialProvider => credential_provider::run(),
    };
    result.map_or_else(CommandFailure::report, |()| ExitCode::SUCCESS)
}
