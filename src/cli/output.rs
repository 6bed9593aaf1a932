//! What commands print. Nothing else in this crate prints.

use std::io::{self, Write};

/// The answer of a command, on stdout.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// A message for people, on stderr. A closed stderr is no failure of the command.
pub(super) fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}
