//! `roadstead inventory`: what is here, for the next export on the other side.

use std::path::PathBuf;

use super::check::load;
use super::failure::CommandFailure;
use super::output::print;
use crate::bundle::Inventory;
use crate::clock::Clock;
use crate::control;
use crate::oci::Digest;

#[derive(Debug, clap::Args)]
pub(super) struct InventoryArguments {
    /// Configuration file of the server.
    #[arg(long, value_name = "FILE", env = "ROADSTEAD_CONFIG")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &InventoryArguments, clock: &Clock) -> Result<(), CommandFailure> {
    let (config, _) = load(arguments.config.as_deref())?;
    let answer = control::ask_and_wait(&config, "/v1/inventory")?;
    let listed = answer["contents"].as_array().map_or(&[][..], Vec::as_slice);
    let digests = listed.iter().filter_map(|digest| Digest::parse(digest.as_str()?).ok());
    let json = Inventory::to_json(&digests.collect::<Vec<_>>(), clock.now());
    Ok(print(&String::from_utf8_lossy(&json))?)
}
