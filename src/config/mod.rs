//! Configuration: read, checked as a whole, and turned into types that cannot hold nonsense.
//!
//! `document` reads the YAML into a tree whose nodes know their lines. `place` walks the tree and
//! notes problems. `check`, with a file for each section, turns it into a [`Config`], whose types
//! stand in `model`. Until the files that it names have been looked at, it is a [`Draft`]; the result
//! is a configuration without any problem, or every problem that was found.

mod access;
mod applications;
mod certificates;
mod check;
mod credentials;
mod docker_config;
mod document;
mod draft;
mod hosts;
mod keys;
mod licence_file;
mod listen;
mod model;
mod place;
mod presets;
mod problem;
mod sources;
mod units;
mod upstreams;

use std::path::Path;

use document::{Node, YamlValue};
use place::{Place, Report};

pub use draft::Draft;
pub use licence_file::{LicenceFile, read_licence};
pub use model::{
    Access, Allow, Application, Cache, ClientAuth, Config, Credential, Host, Licences, Log,
    LogFormat, Login, MinFree, Rule, Tls, UnknownCredentials, Upstream, Writes,
};
pub use problem::{Problem, Problems};
pub use sources::Sources;
pub use upstreams::host_and_port;

/// Looks up an environment variable by its name; tests have other variables than the process.
pub type EnvLookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a configuration file, and the files and environment variables that it names.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, Problems> {
    Ok(Draft::read(path, &environment)?.finish()?.0)
}

/// Reads the text of a configuration; `file` only names it in problems.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, file: &Path, environment: EnvLookup<'_>) -> Result<Config, Problems> {
    Ok(Draft::of(text.to_owned(), file, environment, Sources::default())?.finish()?.0)
}

/// The variables of this process.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The configuration of a proxy that is started without a file: the well-known registries, on
/// loopback only.
pub fn builtin() -> Config {
    let empty = Node { number: 0, value: YamlValue::Null };
    check::config(&Place::root(&empty, &Report::default()), &|_| None)
}
