//! What commands print. Nothing else in this crate prints.

use std::io::{self, Write};

use anyhow::Context;
use serde_json::Value;

/// The answer of a command, on stdout.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    io::stdout().write_all(text.as_bytes()).context("cannot print")
}

/// A message for people, on stderr. A closed stderr is no failure of the command.
pub(super) fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// How an image of an answer is named, which may have no tag.
pub(super) fn image_name(image: &Value) -> String {
    let tag = image["tag"].as_str().map(|tag| format!(":{tag}")).unwrap_or_default();
    format!("{}{tag}", image["name"].as_str().unwrap_or_default())
}

/// Bytes for people: three digits, in powers of ten, as registries show sizes.
pub(super) fn size(bytes: u64) -> String {
    let (mut unit, mut divisor) = ("B", 1_u64);
    for next in ["kB", "MB", "GB", "TB"] {
        if bytes / divisor < 1000 {
            break;
        }
        (unit, divisor) = (next, divisor * 1000);
    }
    let tenths = bytes / (divisor / 10).max(1);
    if divisor == 1 || tenths >= 1000 {
        format!("{} {unit}", bytes / divisor)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_or_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (12_345, "12.3 kB"),
            (123_456_789, "123 MB"),
            (5_000_000_000, "5.0 GB"),
            (7_654_000_000_000_000, "7654 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
