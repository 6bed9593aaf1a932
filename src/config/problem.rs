//! What is wrong with a configuration: all of it, each with its place.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

/// One thing that is wrong, and what would be right. Never holds the value of a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The key, as `upstreams.docker.io.url`; empty if it concerns the file as a whole.
    pub path: String,
    /// From 1.
    pub line: Option<usize>,
    pub message: String,
}

/// Everything that is wrong with one file, in the order of its lines. Shown one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    file: PathBuf,
    list: Vec<Problem>,
}

impl Problems {
    pub(super) fn new(file: &Path, list: Vec<Problem>) -> Self {
        Self { file: file.to_owned(), list }
    }

    /// One problem with the file as a whole.
    pub(super) fn whole(file: &Path, line: Option<usize>, message: String) -> Self {
        Self::new(file, vec![Problem { path: String::new(), line, message }])
    }

    /// At least one.
    pub fn list(&self) -> &[Problem] {
        &self.list
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
            if !problem.path.is_empty() {
                write!(f, " {}:", problem.path)?;
            }
            write!(f, " {}", problem.message)?;
        }
        Ok(())
    }
}

impl Error for Problems {}
