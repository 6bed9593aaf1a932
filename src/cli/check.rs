//! `roadstead check FILE`

use std::path::{Path, PathBuf};

use super::failure::CommandFailure;
use super::output::print;
use crate::config::{self, Config};
use crate::reload::inputs::Input;

#[derive(Debug, clap::Args)]
pub(super) struct CheckArguments {
    /// The configuration to look at.
    file: PathBuf,
}

pub(super) fn run(arguments: &CheckArguments) -> Result<(), CommandFailure> {
    let config = load(Some(&arguments.file))?;
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    let count = match names.len() {
        1 => "1 upstream".to_owned(),
        more => format!("{more} upstreams"),
    };
    print(&format!(
        "{} is valid: {count} ({}), clients at {}\n",
        arguments.file.display(),
        names.join(", "),
        config.listen
    ))?;
    Ok(())
}

/// The configuration of `file`, or the built-in one, after every file that it names was read and
/// found good too.
pub(super) fn load(file: Option<&Path>) -> Result<Config, CommandFailure> {
    let config = file.map_or_else(|| Ok(config::builtin()), config::load)?;
    let check = |part: Input| part.check(&config).err();
    let problems: Vec<String> =
        Input::ALL.into_iter().filter_map(check).flat_map(|unusable| unusable.0).collect();
    if problems.is_empty() { Ok(config) } else { Err(CommandFailure::Files(problems)) }
}
