//! Where something was found, and what is wrong there.

use std::fmt;
use std::sync::Arc;

/// Problems that are told; of more only their number.
const TOLD_MAX: usize = 1000;

/// A place in a file that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundAt {
    pub(crate) file: Arc<str>,
    /// Counted from 1, where the file holds several.
    pub(crate) document: Option<usize>,
    /// The line, from 1; with a document that on which it begins.
    pub(crate) line: Option<usize>,
    /// As `spec.containers[0].image`.
    pub(crate) path: Option<String>,
}

impl FoundAt {
    pub(super) fn file(file: &Arc<str>) -> Self {
        Self { file: file.clone(), document: None, line: None, path: None }
    }
}

/// `list:3`, `pods.json: items[0].spec.containers[0].image`, or
/// `all.yaml: document 2 (line 9): spec.containers[0].image`.
impl fmt::Display for FoundAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        match (self.document, self.line) {
            (Some(document), Some(line)) => write!(f, ": document {document} (line {line})")?,
            (Some(document), None) => write!(f, ": document {document}")?,
            (None, Some(line)) => write!(f, ":{line}")?,
            (None, None) => {}
        }
        self.path.as_ref().map_or(Ok(()), |path| write!(f, ": {path}"))
    }
}

/// Everything that is wrong with the lists, in their order.
#[derive(Debug, Default)]
pub(crate) struct ListProblems {
    told: Vec<(FoundAt, String)>,
    more: usize,
}

impl ListProblems {
    pub(super) fn add(&mut self, at: FoundAt, message: impl Into<String>) {
        if self.told.len() < TOLD_MAX {
            self.told.push((at, message.into()));
        } else {
            self.more += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.told.is_empty()
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn told(&self) -> &[(FoundAt, String)] {
        &self.told
    }
}

/// One line for each.
impl fmt::Display for ListProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, (at, message)) in self.told.iter().enumerate() {
            let end = if nth == 0 { "" } else { "\n" };
            write!(f, "{end}{at}: {message}")?;
        }
        if self.more > 0 { write!(f, "\nand {} more", self.more) } else { Ok(()) }
    }
}

/// What somebody wrote, as it may stand in a message: quoted, and not for long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN_MAX: usize = 100;
    match text.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}
