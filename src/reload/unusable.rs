//! Why what an input was read from cannot be used.

use std::fmt;
use std::path::Path;

use crate::clock::Timestamp;

/// What is wrong with the files of one input: the key of the configuration that names the file, and
/// a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unusable {
    pub(crate) problems: Vec<KeyedMessage>,
    /// When the same files can be used, if that is only a matter of time.
    pub(crate) until: Option<Timestamp>,
}

/// A key of the configuration, as `tls.certificate`, and what is to be said of its value.
pub(crate) type KeyedMessage = (String, String);

impl Unusable {
    pub(super) fn new(problems: Vec<KeyedMessage>) -> Self {
        Self { problems, until: None }
    }

    pub(super) fn one(key: &str, message: String) -> Self {
        Self::new(vec![(key.to_owned(), message)])
    }

    /// The lines of a file that are wrong.
    pub(super) fn lines(key: &str, path: &Path, problems: Vec<(usize, String)>) -> Self {
        let line = |(line, message): (usize, String)| {
            (key.to_owned(), format!("{}:{line}: {message}", path.display()))
        };
        Self::new(problems.into_iter().map(line).collect())
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = |(key, message): &KeyedMessage| format!("{key}: {message}");
        f.write_str(&self.problems.iter().map(problem).collect::<Vec<_>>().join("; "))
    }
}
