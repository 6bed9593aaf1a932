//! `roadstead check FILE`

use std::path::{Path, PathBuf};

use super::failure::CommandFailure;
use super::output::{print, tell};
use crate::clock::Clock;
use crate::config::{self, Config, Draft, Problems, Surroundings};
use crate::reload::inputs::Input;

#[derive(Debug, clap::Args)]
pub(super) struct CheckArguments {
    /// The configuration to look at.
    #[arg(required_unless_present = "config")]
    file: Option<PathBuf>,
    /// The same, as it is written for `serve`.
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
}

pub(super) fn run(arguments: &CheckArguments) -> Result<(), CommandFailure> {
    let file = arguments.file.as_deref().or(arguments.config.as_deref());
    let (config, warnings) = load(file)?;
    if !warnings.list().is_empty() {
        tell(&warnings.to_string());
    }
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    let count = match names.len() {
        1 => "1 upstream".to_owned(),
        more => format!("{more} upstreams"),
    };
    print(&format!(
        "{} is valid: {count} ({}), clients at {}\n",
        file.unwrap_or(Path::new("-")).display(),
        names.join(", "),
        config.listen
    ))?;
    Ok(())
}

/// The configuration of `file`, or the built-in one, after every file that it names was read and
/// found good too; and what in it is probably not meant.
pub(super) fn load(file: Option<&Path>) -> Result<(Config, Problems), CommandFailure> {
    let now = Clock::system().now();
    let around = Surroundings::of_process(now);
    let Some(file) = file else {
        return Ok((config::builtin(around.environment), Problems::default()));
    };
    let draft = Draft::read(file, &around)?;
    for input in Input::ALL {
        let wrong = input.check(draft.config()).map_err(|unusable| unusable.problems);
        for (key, message) in wrong.err().unwrap_or_default() {
            draft.problem(&key, message);
        }
    }
    if draft.is_right() {
        for (key, message) in
            Input::ALL.into_iter().flat_map(|input| input.warnings(draft.config(), now))
        {
            draft.warning(&key, message);
        }
    }
    Ok(draft.finish()?)
}
