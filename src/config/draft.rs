//! A document that was read and is no configuration yet: others look at the files that it names,
//! and what they find stands in one list with its own mistakes.

use std::path::{Path, PathBuf};

use super::document::Node;
use super::files_read::FilesRead;
use super::place::Report;
use super::problem::{Problem, Problems};
use super::{Config, Surroundings, check, document, place::Place};
use crate::files;

/// What a document says, and what is wrong with it so far.
#[derive(Debug)]
pub struct Draft {
    file: PathBuf,
    text: String,
    root: Node,
    /// Only a configuration if there is no problem; where a key is wrong, the default stands.
    config: Config,
    report: Report,
}

impl Draft {
    /// Reads a configuration file, and the files and environment variables that it names.
    ///
    /// # Errors
    /// If it cannot be read at all, or is no YAML.
    pub fn read(file: &Path, around: &Surroundings<'_>) -> Result<Self, Problems> {
        let mut files_read = FilesRead::default();
        let text = files_read.read_document(file).and_then(files::utf8).map_err(|error| {
            Problems::whole(file, None, format!("cannot be read: {error}"), files_read.clone())
        })?;
        Self::of(text, file, around, files_read)
    }

    /// Reads the text of a configuration; `file` only names it in problems.
    ///
    /// # Errors
    /// If it is no YAML.
    pub fn parse(text: &str, file: &Path, around: &Surroundings<'_>) -> Result<Self, Problems> {
        Self::of(text.to_owned(), file, around, FilesRead::default())
    }

    /// A text, and the files that were read for it.
    fn of(
        text: String,
        file: &Path,
        around: &Surroundings<'_>,
        files_read: FilesRead,
    ) -> Result<Self, Problems> {
        let root = match document::read(&text) {
            Ok(root) => root,
            Err(error) => {
                let (line, message) = document::in_plain_words(&text, &error);
                return Err(Problems::whole(file, line, message, files_read));
            }
        };
        let report = Report::beginning_with(files_read);
        let config = check::config(&Place::root(&root, &report), around);
        Ok(Self { file: file.to_owned(), text, root, config, report })
    }

    /// What the document says; where it is wrong, the default.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Whether nothing is wrong with it so far.
    pub(crate) fn is_right(&self) -> bool {
        !self.report.has_errors()
    }

    /// Notes what is wrong with the value of `key`, as `access.users`.
    pub(crate) fn problem(&self, key: &str, message: String) {
        self.report.problem(self.root.number_of(key), Problem::error(key, message));
    }

    /// Notes what is probably not meant.
    pub(crate) fn warning(&self, key: &str, message: String) {
        self.report.problem(self.root.number_of(key), Problem::warning(key, message));
    }

    /// The configuration, and what was warned of.
    ///
    /// # Errors
    /// Everything that is wrong, and the warnings as well.
    pub fn finish(self) -> Result<(Config, Problems), Problems> {
        let (list, files_read) = self.report.end(&self.text);
        let problems = Problems::new(&self.file, list, files_read.clone());
        if problems.are_fatal() {
            return Err(problems);
        }
        Ok((Config { files_read, ..self.config }, problems))
    }
}
