//! `roadstead check FILE`

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;

use super::{Failure, load};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration to look at.
    file: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let config = load(Some(&arguments.file))?;
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
    let count = match names.len() {
        1 => "1 upstream".to_owned(),
        more => format!("{more} upstreams"),
    };
    let summary = format!(
        "{} is valid: {count} ({}), clients at {}",
        arguments.file.display(),
        names.join(", "),
        config.listen
    );
    writeln!(io::stdout(), "{summary}").context("cannot write the result")?;
    Ok(())
}
