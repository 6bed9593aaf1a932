//! A cursor over the document that knows its path and notes problems, so that reading goes on past
//! the first one.
//!
//! Readers return `Result<T, String>`. [`Fields::read`] turns an error into a problem at the right
//! key and goes on with the default, so that one start shows every mistake. The default is never
//! used: a document with problems yields no configuration.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::Path;

use super::document::{Node, YamlValue, line_of};
use super::files_read::FilesRead;
use super::problem::{Problem, Severity};
use crate::files;

/// Everything wrong that was found so far, and what was read on the way.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: RefCell<Vec<(usize, Problem)>>,
    files_read: RefCell<FilesRead>,
    secret_variables: RefCell<BTreeSet<String>>,
}

impl Report {
    /// Where something was read already.
    pub(super) fn beginning_with(files_read: FilesRead) -> Self {
        Self { files_read: RefCell::new(files_read), ..Self::default() }
    }

    /// Notes a problem with the node of this number.
    pub(super) fn problem(&self, number: usize, problem: Problem) {
        self.problems.borrow_mut().push((number, problem));
    }

    pub(super) fn has_errors(&self) -> bool {
        self.problems.borrow().iter().any(|(_, problem)| problem.severity == Severity::Error)
    }

    /// The problems in the order of the document, with their lines in `text`, and what was read.
    pub(super) fn end(self, text: &str) -> (Vec<Problem>, FilesRead) {
        let mut found = self.problems.into_inner();
        found.sort_by_key(|(number, _)| *number);
        let problems = found
            .into_iter()
            .map(|(number, problem)| Problem { line: line_of(text, number), ..problem })
            .collect();
        (problems, self.files_read.into_inner())
    }
}

/// One value of the document. Problems point to `at`: the number of its key, or of the value itself
/// in a list.
#[derive(Clone, Debug)]
pub(super) struct Place<'d> {
    node: &'d Node,
    at: usize,
    path: String,
    report: &'d Report,
}

impl<'d> Place<'d> {
    pub(super) fn root(node: &'d Node, report: &'d Report) -> Self {
        Self { node, at: node.number, path: String::new(), report }
    }

    pub(super) fn problem(&self, message: impl Into<String>) {
        self.report.problem(self.at, Problem::error(&self.path, message.into()));
    }

    /// Notes what can be used and is probably not meant.
    pub(super) fn warning(&self, message: impl Into<String>) {
        self.report.problem(self.at, Problem::warning(&self.path, message.into()));
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self.node.value, YamlValue::Null)
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.node.value, YamlValue::List(_))
    }

    pub(super) fn is_mapping(&self) -> bool {
        matches!(self.node.value, YamlValue::Map(_))
    }

    pub(super) fn text(&self) -> Result<&'d str, String> {
        match &self.node.value {
            YamlValue::Text(text) if text.is_empty() => Err("should not be empty".to_owned()),
            YamlValue::Text(text) => Ok(text),
            YamlValue::Integer(_) | YamlValue::Float | YamlValue::Bool(_) => {
                Err(format!("should be text, not {}: put it in quotes", self.node.value.kind()))
            }
            YamlValue::Null | YamlValue::List(_) | YamlValue::Map(_) => Err(self.wanted("text")),
        }
    }

    /// The path of a file.
    pub(super) fn file(&self) -> Result<&'d Path, String> {
        self.text().map(Path::new)
    }

    /// What the file holds that the value names: a change of it is a change of the document.
    pub(super) fn read_bytes(&self) -> Result<Vec<u8>, String> {
        let path = self.file()?;
        let read = self.report.files_read.borrow_mut().read(path);
        read.map_err(|error| files::cannot_read(path, &error))
    }

    /// The same as text.
    pub(super) fn read_text(&self) -> Result<String, String> {
        let path = self.file()?;
        files::utf8(self.read_bytes()?).map_err(|error| files::cannot_read(path, &error))
    }

    /// Whether there is a program; one that comes or goes is a change of the document.
    pub(super) fn find_program(&self, path: &Path) -> Result<(), String> {
        self.report.files_read.borrow_mut().find_program(path)
    }

    /// A variable of the environment holds a password.
    pub(super) fn note_secret_variable(&self, name: &str) {
        self.report.secret_variables.borrow_mut().insert(name.to_owned());
    }

    /// Those that have been noted until now, anywhere in the document.
    pub(super) fn secret_variables(&self) -> Vec<String> {
        self.report.secret_variables.borrow().iter().cloned().collect()
    }

    /// Text, or a whole number as text: sizes need no quotes.
    pub(super) fn amount(&self) -> Result<String, String> {
        match &self.node.value {
            YamlValue::Integer(number) => Ok(number.to_string()),
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Float
            | YamlValue::Text(_)
            | YamlValue::List(_)
            | YamlValue::Map(_) => self.text().map(str::to_owned),
        }
    }

    pub(super) fn flag(&self) -> Result<bool, String> {
        match &self.node.value {
            YamlValue::Bool(flag) => Ok(*flag),
            YamlValue::Null
            | YamlValue::Integer(_)
            | YamlValue::Float
            | YamlValue::Text(_)
            | YamlValue::List(_)
            | YamlValue::Map(_) => Err(self.wanted("true or false, without quotes")),
        }
    }

    /// A whole number of at least 1.
    pub(super) fn count(&self) -> Result<u32, String> {
        let number = match &self.node.value {
            YamlValue::Integer(number) => u32::try_from(*number).ok().filter(|n| *n > 0),
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Float
            | YamlValue::Text(_)
            | YamlValue::List(_)
            | YamlValue::Map(_) => None,
        };
        number.ok_or_else(|| "should be a whole number of at least 1".to_owned())
    }

    /// The elements of a list; none if the value is left out.
    pub(super) fn items(&self) -> Vec<Place<'d>> {
        match &self.node.value {
            YamlValue::List(nodes) => {
                nodes.iter().enumerate().map(|(i, node)| self.item(i, node)).collect()
            }
            YamlValue::Null => Vec::new(),
            YamlValue::Bool(_)
            | YamlValue::Integer(_)
            | YamlValue::Float
            | YamlValue::Text(_)
            | YamlValue::Map(_) => {
                self.problem(self.wanted("a list, as [a, b]"));
                Vec::new()
            }
        }
    }

    /// Every element that `parse` takes; the others are problems.
    pub(super) fn parsed<T>(&self, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.items().iter().filter_map(|item| item.noted(item.text().and_then(&parse))).collect()
    }

    /// The value; an error becomes a problem here.
    pub(super) fn noted<T>(&self, result: Result<T, String>) -> Option<T> {
        result.map_err(|message| self.problem(message)).ok()
    }

    /// Keys and values of a mapping, repeated keys refused; empty if the value is left out, none if
    /// it is no mapping.
    pub(super) fn entries(&self) -> Option<Vec<(String, Place<'d>)>> {
        let map = match &self.node.value {
            YamlValue::Map(map) => map.as_slice(),
            YamlValue::Null => &[],
            YamlValue::Bool(_)
            | YamlValue::Integer(_)
            | YamlValue::Float
            | YamlValue::Text(_)
            | YamlValue::List(_) => {
                self.problem(self.wanted("a mapping of keys to values"));
                return None;
            }
        };
        let mut entries: Vec<(String, Place<'d>)> = Vec::with_capacity(map.len());
        for (key, value) in map {
            let YamlValue::Text(name) = &key.value else {
                Place { at: key.number, ..self.clone() }
                    .problem("has a key that is not text: put it in quotes");
                continue;
            };
            let place = self.entry(key.number, name, value);
            if entries.iter().any(|(known, _)| known == name) {
                place.problem("is given more than once; keep one");
            } else {
                entries.push((name.clone(), place));
            }
        }
        Some(entries)
    }

    /// A mapping whose keys are all among `known`; others are problems.
    pub(super) fn fields(&self, known: &'static [&'static str]) -> Fields<'d> {
        let (entries, unknown): (Vec<_>, Vec<_>) = self
            .entries()
            .unwrap_or_default()
            .into_iter()
            .partition(|(key, _)| known.contains(&key.as_str()));
        for (key, place) in unknown {
            place.problem(match closest(&key, known.iter().copied()) {
                Some(meant) => format!("unknown key; did you mean {meant}?"),
                None => format!("unknown key; known here: {}", known.join(", ")),
            });
        }
        Fields { place: self.clone(), known, entries }
    }

    fn wanted(&self, what: &str) -> String {
        format!("should be {what}, not {}", self.node.value.kind())
    }

    fn entry(&self, at: usize, key: &str, node: &'d Node) -> Self {
        let path =
            if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Self { node, at, path, report: self.report }
    }

    fn item(&self, index: usize, node: &'d Node) -> Self {
        Self { node, at: node.number, path: format!("{}[{index}]", self.path), report: self.report }
    }
}

/// The known keys of one mapping.
#[derive(Debug)]
pub(super) struct Fields<'d> {
    pub(super) place: Place<'d>,
    known: &'static [&'static str],
    entries: Vec<(String, Place<'d>)>,
}

impl<'d> Fields<'d> {
    pub(super) fn get(&self, key: &str) -> Option<&Place<'d>> {
        debug_assert!(self.known.contains(&key), "{key} is read but not known");
        self.entries.iter().find(|(name, _)| name == key).map(|(_, place)| place)
    }

    /// What `parse` makes of the value; the default if there is none, or (with a problem) if it is
    /// wrong.
    pub(super) fn read<T>(
        &self,
        key: &str,
        default: T,
        parse: impl FnOnce(&Place<'d>) -> Result<T, String>,
    ) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    pub(super) fn optional<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&Place<'d>) -> Result<T, String>,
    ) -> Option<T> {
        self.get(key).and_then(|place| place.noted(parse(place)))
    }

    /// The elements of a list; none if the key is not given.
    pub(super) fn list<T>(&self, key: &str, parse: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.get(key).map(|place| place.parsed(parse)).unwrap_or_default()
    }
}

/// The candidate that `word` was probably meant to be: at most two edits away, and fewer edits than
/// half of its letters, since any two short words are near to each other.
pub(super) fn closest<'c>(
    word: &str,
    candidates: impl Iterator<Item = &'c str>,
) -> Option<&'c str> {
    let near = |candidate: &&str| {
        let edits = strsim::levenshtein(word, candidate);
        (edits <= 2 && edits * 2 < candidate.len()).then_some(edits)
    };
    candidates
        .filter_map(|candidate| Some((near(&candidate)?, candidate)))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closest_word_is_two_edits_away_at_most() {
        let known = ["max_size", "min_free", "path", "ca"];
        for (word, meant) in [
            ("maxsize", Some("max_size")),
            ("min-free", Some("min_free")),
            ("paht", None),
            ("pat", Some("path")),
            ("c", None),
            ("tls", None),
        ] {
            assert_eq!(closest(word, known.into_iter()), meant, "{word}");
        }
    }
}
