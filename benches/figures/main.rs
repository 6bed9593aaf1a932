//! What cold and unlucky requests cost: many clients on one cold blob, first bytes, whole cold
//! blobs, dropped pages, wrong logins, reloads, pushes; and what waiting for a refusal tells.
//!
//! `cargo bench --bench figures -- [herd | first-byte | cold | pages | logins | reload | oracle |
//! push | crowd | warm]…`, all of them without an argument. Each prints what was measured and what is
//! required. Wrong content or a needless download ends the run with a failure; a figure that
//! depends on the machine is only printed.
#![expect(clippy::print_stdout, reason = "the figures are the result")]

#[path = "../support/client.rs"]
mod client;
mod cold;
#[path = "../support/content.rs"]
#[expect(dead_code, reason = "static files are for the comparison")]
mod content;
mod herd;
mod logins;
mod oracle;
#[path = "../support/origin.rs"]
mod origin;
mod pages;
mod push;
mod reload;
#[path = "../support/server.rs"]
mod server;
mod stats;
mod taker;
#[path = "../support/tls.rs"]
mod tls;
mod warming;

use anyhow::bail;
use tokio::runtime::Runtime;

fn main() -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    // cargo adds --bench of its own.
    let mut names: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    if names.is_empty() {
        names = [
            "herd",
            "first-byte",
            "cold",
            "pages",
            "logins",
            "reload",
            "oracle",
            "push",
            "crowd",
            "warm",
        ]
        .map(String::from)
        .to_vec();
    }
    for name in names {
        match name.as_str() {
            "herd" => runtime.block_on(herd::run())?,
            "first-byte" => runtime.block_on(cold::first_byte())?,
            "cold" => runtime.block_on(cold::whole())?,
            "logins" => runtime.block_on(logins::run())?,
            "oracle" => runtime.block_on(oracle::run())?,
            "reload" => runtime.block_on(reload::run())?,
            "pages" => runtime.block_on(pages::run())?,
            "push" => runtime.block_on(push::large())?,
            "crowd" => runtime.block_on(push::crowd())?,
            "warm" => runtime.block_on(warming::run())?,
            other => bail!("there is no figure {other}"),
        }
    }
    Ok(())
}
