//! What is wrong with a configuration: all of it, each with its place.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use super::files_read::FilesRead;

/// Whether a configuration with this problem can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// No.
    Error,
    /// Yes, but it is probably not what was meant, or will not be for long.
    Warning,
}

/// One thing that is wrong, and what would be right. Never holds the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// The key, as `upstreams.docker.io.url`; empty if it concerns the file as a whole.
    pub path: String,
    /// From 1.
    pub line: Option<usize>,
    pub message: String,
}

impl Problem {
    pub(super) fn error(path: &str, message: String) -> Self {
        Self { severity: Severity::Error, path: path.to_owned(), line: None, message }
    }

    pub(super) fn warning(path: &str, message: String) -> Self {
        Self { severity: Severity::Warning, ..Self::error(path, message) }
    }
}

/// Everything that is wrong with one file, in the order of its lines. Shown one a line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    file: PathBuf,
    list: Vec<Problem>,
    /// What was read to find them: until any of it changes, they are the same.
    files_read: FilesRead,
}

impl Problems {
    pub(super) fn new(file: &Path, list: Vec<Problem>, files_read: FilesRead) -> Self {
        Self { file: file.to_owned(), list, files_read }
    }

    /// One problem with the file as a whole.
    pub(super) fn whole(
        file: &Path,
        line: Option<usize>,
        message: String,
        files_read: FilesRead,
    ) -> Self {
        Self::new(file, vec![Problem { line, ..Problem::error("", message) }], files_read)
    }

    pub fn list(&self) -> &[Problem] {
        &self.list
    }

    /// What was read to find them.
    pub(crate) fn files_read(&self) -> &FilesRead {
        &self.files_read
    }

    /// Whether any of them keeps the configuration from being used.
    pub(super) fn are_fatal(&self) -> bool {
        self.list.iter().any(|problem| problem.severity == Severity::Error)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.list.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:", self.file.display())?;
            if let Some(line) = problem.line {
                write!(f, "{line}:")?;
            }
            if problem.severity == Severity::Warning {
                f.write_str(" warning:")?;
            }
            if !problem.path.is_empty() {
                write!(f, " {}:", problem.path)?;
            }
            write!(f, " {}", problem.message)?;
        }
        Ok(())
    }
}

impl Error for Problems {}
