//! Configuration: read, checked as a whole, and turned into types that cannot hold nonsense.
//!
//! `document` reads the YAML into a tree whose nodes know their lines. `place` walks the tree and
//! notes problems. `check`, with a file for each section, turns it into a [`Config`], whose types
//! stand in `model`. Until the files that it names have been looked at, it is a [`Draft`]; the
//! result is a configuration without any problem, or every problem that was found.

mod access;
mod applications;
mod cache;
mod certificates;
mod check;
mod credentials;
mod docker_config;
mod document;
mod draft;
mod files_read;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod hosts;
mod keys;
mod licence_file;
mod listen;
mod model;
mod openings;
mod place;
mod presets;
mod problem;
mod proxy;
mod units;
mod upstreams;
mod way_out;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use crate::clock::{Clock, Timestamp};

use document::{Node, YamlValue};
use place::{Place, Report};

pub(crate) use certificates::{Validity, certificate_flaws};
pub use draft::Draft;
pub use files_read::FilesRead;
pub use licence_file::{LicenceFile, read_licence};
pub use model::{
    Access, Allow, Application, Cache, ClientAuth, Config, Credential, Host, Licences, Log,
    LogFormat, Login, MinFree, PinList, Rule, Tls, UnknownCredentials, Upstream, WhenRejected,
    Writes,
};
pub use problem::{Problem, Problems};
pub(crate) use units::duration as parse_duration;
pub use upstreams::host_and_port;
pub use way_out::{DialTarget, DirectHost, DirectName, ForwardProxy, WayOut};

/// Looks up an environment variable by its name; tests have other variables than the process.
pub type EnvLookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What a document is read in: what it may name, and what it is judged by.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    pub environment: EnvLookup<'a>,
    pub now: Timestamp,
}

impl Surroundings<'_> {
    /// Those of this process.
    pub fn of_process(now: Timestamp) -> Self {
        Self { environment: &|name| std::env::var(name).ok(), now }
    }
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Surroundings").field("now", &self.now).finish_non_exhaustive()
    }
}

/// Reads a configuration file, and the files and environment variables that it names.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, Problems> {
    let around = Surroundings::of_process(Clock::system().now());
    Ok(Draft::read(path, &around)?.finish()?.0)
}

/// Reads the text of a configuration; `file` only names it in problems.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str, file: &Path, environment: EnvLookup<'_>) -> Result<Config, Problems> {
    let around = Surroundings { environment, now: Clock::system().now() };
    Ok(Draft::parse(text, file, &around)?.finish()?.0)
}

/// The configuration of a proxy that is started without a file: the well-known registries, on
/// loopback only. Of the environment it only notes what it does not follow.
pub fn builtin(environment: EnvLookup<'_>) -> Config {
    let empty = Node { number: 0, value: YamlValue::Null };
    // It names nothing that could be judged by a time.
    let around = Surroundings { environment, now: Timestamp::from_unix(Duration::ZERO) };
    check::config(&Place::root(&empty, &Report::default()), &around)
}
