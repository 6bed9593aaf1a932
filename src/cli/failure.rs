//! Why a command failed, and what its exit code is then.

use std::process::ExitCode;

use super::output::tell;
use crate::config::Problems;
use crate::wanted::ListProblems;

/// `EX_USAGE` of sysexits.h: the configuration is wrong, and a restart does not help.
const EXIT_BAD_CONFIGURATION: u8 = 64;

/// Why a command ended without doing what it was asked.
#[derive(Debug)]
pub(super) enum CommandFailure {
    Configuration(Problems),
    /// What is wrong with the files that a configuration names.
    Files(String),
    /// What is wrong with lists of images.
    Lists(ListProblems),
    Other(anyhow::Error),
}

impl CommandFailure {
    /// Says on stderr what failed. The exit code is 64 if the configuration is wrong, else 1.
    pub(super) fn report(self) -> ExitCode {
        match self {
            Self::Configuration(problems) => {
                tell(&problems.to_string());
                ExitCode::from(EXIT_BAD_CONFIGURATION)
            }
            Self::Files(problems) => {
                tell(&problems);
                ExitCode::from(EXIT_BAD_CONFIGURATION)
            }
            Self::Lists(problems) => {
                tell(&problems.to_string());
                ExitCode::FAILURE
            }
            Self::Other(error) => {
                tell(&format!("roadstead: {error:#}"));
                ExitCode::FAILURE
            }
        }
    }
}

impl From<Problems> for CommandFailure {
    fn from(problems: Problems) -> Self {
        Self::Configuration(problems)
    }
}

impl From<anyhow::Error> for CommandFailure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}
