//! Configuration: read, checked as a whole, and turned into types that cannot hold nonsense.
//!
//! `document` reads the YAML into a tree whose nodes know their lines. `place` walks the tree and
//! notes problems. `check`, with a file for each section, turns it into a [`Config`], whose types
//! stand in `model`. The result is a configuration without any problem, or every problem that was
//! found.

mod access;
mod applications;
mod certificates;
mod check;
mod credentials;
mod docker_config;
mod document;
mod hosts;
mod keys;
mod licence_file;
mod listen;
mod model;
mod place;
mod presets;
mod problem;
mod units;
mod upstreams;

use std::path::Path;

use crate::files;

use document::{Node, YamlValue};
use place::{Place, Report};

pub use licence_file::{LicenceFile, read_licence};
pub use model::{
    Access, Allow, Application, Cache, ClientAuth, Config, Credential, Host, Licences, Log,
    LogFormat, Login, MinFree, Rule, Tls, UnknownCredentials, Upstream, Writes,
};
pub use problem::{Problem, Problems};
pub use upstreams::host_and_port;

/// Looks up an environment variable by its name; tests have other variables than the process.
pub type EnvLookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a configuration file, and the files and environment variables that it names.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let text = files::read_utf8(path)
        .map_err(|error| Problems::whole(path, None, format!("cannot be read: {error}")))?;
    parse(&text, path, &|name| std::env::var(name).ok())
}

/// Reads the text of a configuration; `file` only names it in problems.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, file: &Path, environment: EnvLookup<'_>) -> Result<Config, Problems> {
    let root = document::read(text).map_err(|error| {
        let line = error.location().map(|place| place.line());
        Problems::whole(file, line, format!("is not valid YAML: {error}"))
    })?;
    let report = Report::default();
    let mut config = check::config(&Place::root(&root, &report), environment);
    config.files = report.files();
    let problems = report.into_problems(text);
    if problems.is_empty() { Ok(config) } else { Err(Problems::new(file, problems)) }
}

/// The configuration of a proxy that is started without a file: the well-known registries, on
/// loopback only.
pub fn builtin() -> Config {
    let empty = Node { number: 0, value: YamlValue::Null };
    check::config(&Place::root(&empty, &Report::default()), &|_| None)
}
