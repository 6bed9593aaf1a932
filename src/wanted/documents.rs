//! The documents of a file: one after the other, each read by itself, so that one that is broken
//! hides nothing of the others.

use std::iter;

use serde::de::DeserializeSeed;

use super::tree::{Cost, Tree, TreeReader};

/// Bytes of one YAML document, whose parser takes many times that in memory. JSON's does not.
const YAML_DOCUMENT_MAX: usize = 16 << 20;

/// Brackets that are open at once. The parser takes a time that is their square, and there is no
/// harm in counting those in texts too.
const OPEN_MAX: usize = 5_000;

/// A document, or why it cannot be read.
#[derive(Debug)]
pub(super) struct Document {
    /// Counted from 1, if there are several.
    pub(super) number: Option<usize>,
    /// On which it begins, if there are several and they have lines of their own.
    pub(super) line: Option<usize>,
    pub(super) tree: Result<Tree, String>,
}

/// JSON values behind each other. What follows one that is broken cannot be found.
pub(super) fn json_documents(text: &str) -> impl Iterator<Item = Document> {
    let (cost, mut json) = (Cost::of(text), serde_json::Deserializer::from_str(text));
    let (mut count, mut is_broken) = (0, false);
    iter::from_fn(move || {
        if is_broken || json.end().is_ok() {
            return None;
        }
        count += 1;
        let tree = TreeReader { cost: &cost }.deserialize(&mut json);
        is_broken = tree.is_err();
        let is_alone = count == 1 && (is_broken || json.end().is_ok());
        Some(Document {
            number: (!is_alone).then_some(count),
            line: None,
            tree: tree.map_err(|error| format!("is not valid JSON: {error}")),
        })
    })
}

/// What YAML's marks tell apart.
pub(super) fn yaml_documents(text: &str) -> impl Iterator<Item = Document> {
    let parts = parts(text);
    let are_several = parts.len() > 1;
    parts.into_iter().enumerate().map(move |(nth, (line, text))| Document {
        number: are_several.then_some(nth + 1),
        line: are_several.then_some(line),
        tree: read_yaml(line, text),
    })
}

/// Reads the document that begins on this line of its file.
fn read_yaml(line: usize, text: &str) -> Result<Tree, String> {
    if text.len() > YAML_DOCUMENT_MAX {
        let most = YAML_DOCUMENT_MAX >> 20;
        return Err(format!("is larger than {most} MiB, which only JSON may be"));
    }
    if open_brackets(text) > OPEN_MAX {
        return Err(format!("has more than {OPEN_MAX} brackets that are open at once"));
    }
    Tree::of_yaml(text).map_err(|error| {
        let told = error.to_string();
        // Lines that the parser names are counted from the document's first.
        let reason = told.split(" at line ").next().unwrap_or_default();
        let place = error.location().map(|place| format!(" in line {}", line + place.line() - 1));
        let template = if text.contains("{{") {
            "; if it is a template, give what `helm template` makes of it"
        } else {
            ""
        };
        format!("is not valid YAML{}: {reason}{template}", place.unwrap_or_default())
    })
}

/// The most brackets that are open somewhere.
fn open_brackets(text: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'[' | b'{' => open += 1,
            b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

/// Each document with the line on which it begins. A document begins at `---` and ends at `...`, at
/// the beginning of a line and nowhere else (YAML 1.2.2 §9.1.2); comments and directives before
/// the first mark belong to what follows.
fn parts(text: &str) -> Vec<(usize, &str)> {
    let (mut parts, mut begin, mut begin_line) = (Vec::new(), 0, 1);
    let (mut has_begun, mut at) = (false, 0);
    for (nth, line) in text.split_inclusive('\n').enumerate() {
        let bare = line.trim_start_matches('\u{feff}');
        if has_begun && is_mark(bare, "---") {
            parts.push((begin_line, &text[begin..at]));
            (begin, begin_line) = (at, nth + 1);
        }
        at += line.len();
        let ends = is_mark(bare, "...");
        if ends {
            parts.push((begin_line, &text[begin..at]));
            (begin, begin_line) = (at, nth + 2);
        }
        let is_content = !bare.trim().is_empty() && !bare.starts_with(['#', '%']);
        has_begun = !ends && (has_begun || is_content);
    }
    if has_begun || parts.is_empty() {
        parts.push((begin_line, &text[begin..]));
    }
    parts
}

fn is_mark(line: &str, mark: &str) -> bool {
    line.strip_prefix(mark)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number, line, and whether it could be read.
    fn told(
        documents: impl Iterator<Item = Document>,
    ) -> Vec<(Option<usize>, Option<usize>, bool)> {
        documents.map(|document| (document.number, document.line, document.tree.is_ok())).collect()
    }

    #[test]
    fn yaml_is_told_apart_at_its_marks() {
        for (text, lines) in [
            ("a: b", &[1][..]),
            ("---\na: b\n", &[1]),
            ("# c\n---\na: b\n---\n# d\nc: d\n", &[1, 4]),
            ("%YAML 1.2\n---\na: b\n...\n# c\n---\nb: c", &[1, 5]),
            ("---\n---\na: b\n---\n", &[1, 2, 4]),
            ("a: |\n  ---\n  b\n--- c\n", &[1, 4]),
            ("a: b\n---c: d", &[1]),
            ("a: b\n...\n", &[1]),
            ("# c\n", &[1]),
        ] {
            let lines_of = parts(text).iter().map(|(line, _)| *line).collect::<Vec<_>>();
            assert_eq!(lines_of, lines, "{text:?}");
        }
    }

    #[test]
    fn a_broken_document_hides_no_other_and_knows_its_line() {
        let documents = yaml_documents("a: b\n---\nc: [\n---\nd: e\n---\nf: {{ .Values.x }}-y\n");
        let trees: Vec<_> = documents.map(|document| document.tree).collect();
        assert_eq!(trees.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, false]);
        for (nth, told) in
            [(1, "is not valid YAML in line 4: "), (3, "give what `helm template` makes of it")]
        {
            let error = trees[nth].as_ref().expect_err(told);
            assert!(error.contains(told), "{error}");
        }
        for deep in ["[", "{a: "] {
            let text = format!("a: {}", deep.repeat(200_000));
            let error = yaml_documents(&text).next().expect("one").tree.expect_err("too deep");
            assert!(error.contains("brackets that are open at once"), "{error}");
        }
        let large = format!("a: {}", "x".repeat(YAML_DOCUMENT_MAX));
        let error = yaml_documents(&large).next().expect("one").tree.expect_err("too large");
        assert!(error.contains("larger than 16 MiB"), "{error}");
    }

    #[test]
    fn json_values_stand_behind_each_other() {
        assert_eq!(told(json_documents("{}\n")), [(None, None, true)]);
        assert_eq!(told(json_documents("{} [1]")), [(Some(1), None, true), (Some(2), None, true)]);
        assert_eq!(
            told(json_documents("{} {,} {}")),
            [(Some(1), None, true), (Some(2), None, false)]
        );
        assert_eq!(told(json_documents("{\"a\": ")), [(None, None, false)]);
        assert_eq!(told(json_documents(&"[".repeat(100_000))), [(None, None, false)]);
    }
}
