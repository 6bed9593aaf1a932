//! A YAML text as a tree whose nodes remember where they stand.
//!
//! serde shows no positions, but the parser puts one on every error. So each node carries its
//! number in reading order. To find the line of a node, [`line_of`] reads the text once more and
//! fails on purpose at that number. Only documents with problems are read twice.
//!
//! Scope: YAML's own rules (one document, no custom tags); what the keys mean is decided elsewhere.
//! Repeated keys are kept; `place` refuses them with their line.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::Error;

/// A value and its number in reading order, from 1.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) number: usize,
    pub(super) value: YamlValue,
}

#[derive(Debug)]
pub(super) enum YamlValue {
    Null,
    Bool(bool),
    Integer(i128),
    Float,
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
}

impl YamlValue {
    /// What it is, in words for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Integer(_) | Self::Float => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl Node {
    /// The number of the value of `key`, as `access.rules[0].who`, or of the nearest thing around
    /// it that is there.
    pub(super) fn number_of(&self, key: &str) -> usize {
        self.find(key).unwrap_or(self.number)
    }

    fn find(&self, key: &str) -> Option<usize> {
        match &self.value {
            YamlValue::Map(entries) => entries.iter().find_map(|(name, value)| {
                let YamlValue::Text(text) = &name.value else { return None };
                let rest = key.strip_prefix(text.as_str())?;
                let rest = rest.strip_prefix('.').or(rest.starts_with('[').then_some(rest));
                // Names of upstreams hold dots: what is only the beginning of a name is none.
                let whole = rest.is_some() || key == text;
                whole.then(|| rest.and_then(|rest| value.find(rest)).unwrap_or(name.number))
            }),
            YamlValue::List(items) => {
                let (index, rest) = key.strip_prefix('[')?.split_once(']')?;
                let item = items.get(index.parse::<usize>().ok()?)?;
                Some(rest.strip_prefix('.').and_then(|rest| item.find(rest)).unwrap_or(item.number))
            }
            YamlValue::Null
            | YamlValue::Bool(_)
            | YamlValue::Integer(_)
            | YamlValue::Float
            | YamlValue::Text(_) => None,
        }
    }
}

/// Reads one document; an empty one is [`YamlValue::Null`].
///
/// # Errors
/// What the parser says, with its position.
pub(super) fn read(text: &str) -> Result<Node, Error> {
    run(text, None)
}

/// The line, from 1, on which the node with this number starts.
pub(super) fn line_of(text: &str, number: usize) -> Option<usize> {
    Some(run(text, Some(number)).err()?.location()?.line())
}

/// The line of what the parser does not understand, and what is wrong there. It has no word for
/// tabs of its own.
pub(super) fn in_plain_words(text: &str, error: &Error) -> (Option<usize>, String) {
    let line = error.location().map(|place| place.line());
    let indented_by_tab = |text: &&str| {
        let indent = text.len() - text.trim_start().len();
        text[..indent].contains('\t')
    };
    // The parser may notice a tab only on the next line.
    let near = line.map(|line| [line, line.saturating_sub(1)]).into_iter().flatten();
    let tab = near
        .filter(|line| *line > 0)
        .find(|line| text.lines().nth(line - 1).is_some_and(|text| indented_by_tab(&text)));
    match tab {
        Some(line) => {
            (Some(line), "begins with a tab; YAML is indented with spaces only".to_owned())
        }
        // The parser says this without a line.
        None if line.is_none() && serde_yaml::Deserializer::from_str(text).take(2).count() > 1 => {
            let begins = |line: &str| line.starts_with("---") || line.starts_with("...");
            let second = text.lines().skip(1).position(begins).map(|behind| behind + 2);
            (second, "begins a second YAML document; keep one of them".to_owned())
        }
        None => (line, format!("is not valid YAML: {error}")),
    }
}

fn run(text: &str, stop_at: Option<usize>) -> Result<Node, Error> {
    NumberedReader { count: &Cell::new(0), stop_at }
        .deserialize(serde_yaml::Deserializer::from_str(text))
}

#[derive(Clone, Copy)]
struct NumberedReader<'c> {
    count: &'c Cell<usize>,
    stop_at: Option<usize>,
}

impl NumberedReader<'_> {
    /// Numbers the node that begins here, and fails on purpose if it is the one looked for.
    fn begin<E: serde::de::Error>(self) -> Result<usize, E> {
        let number = self.count.get() + 1;
        self.count.set(number);
        if self.stop_at == Some(number) { Err(E::custom("here")) } else { Ok(number) }
    }

    fn leaf<E: serde::de::Error>(self, value: YamlValue) -> Result<Node, E> {
        Ok(Node { number: self.begin()?, value })
    }
}

impl<'de> DeserializeSeed<'de> for NumberedReader<'_> {
    type Value = Node;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NumberedReader<'_> {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plain YAML without tags")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Node, E> {
        self.leaf(YamlValue::Null)
    }

    fn visit_none<E: serde::de::Error>(self) -> Result<Node, E> {
        self.leaf(YamlValue::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<Node, E> {
        self.leaf(YamlValue::Bool(flag))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Node, E> {
        self.leaf(YamlValue::Integer(number.into()))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Node, E> {
        self.leaf(YamlValue::Integer(number.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, _number: f64) -> Result<Node, E> {
        self.leaf(YamlValue::Float)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Node, E> {
        self.leaf(YamlValue::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let number = self.begin()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Node { number, value: YamlValue::List(list) })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let number = self.begin()?;
        let mut map = Vec::new();
        while let Some(key) = entries.next_key_seed(self)? {
            map.push((key, entries.next_value_seed(self)?));
        }
        Ok(Node { number, value: YamlValue::Map(map) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `key -> line` of every key of the document, in reading order.
    fn lines(text: &str) -> Vec<(String, usize)> {
        fn walk(text: &str, node: &Node, out: &mut Vec<(String, usize)>) {
            match &node.value {
                YamlValue::Map(entries) => {
                    for (key, value) in entries {
                        let YamlValue::Text(name) = &key.value else {
                            panic!("keys of these tests are text")
                        };
                        out.push((
                            name.clone(),
                            line_of(text, key.number).expect("a key has a line"),
                        ));
                        walk(text, value, out);
                    }
                }
                YamlValue::List(items) => items.iter().for_each(|item| walk(text, item, out)),
                YamlValue::Null
                | YamlValue::Bool(_)
                | YamlValue::Integer(_)
                | YamlValue::Float
                | YamlValue::Text(_) => {}
            }
        }
        let mut out = Vec::new();
        walk(text, &read(text).expect("valid YAML"), &mut out);
        out
    }

    #[test]
    fn keys_know_their_line_in_every_style() {
        let text = "# head\na: 1\n\nb:\n  - c: x   # note\n    d: |\n      e: not a key\n  - { f: \
            1,\n      g: [ { h: 2 } ] }\n\"i\": 'j: k'\n";
        let expected =
            [("a", 2), ("b", 4), ("c", 5), ("d", 6), ("f", 8), ("g", 9), ("h", 9), ("i", 10)]
                .map(|(key, line)| (key.to_owned(), line));
        assert_eq!(lines(text), expected);
    }

    #[test]
    fn repeated_keys_are_both_kept_with_their_lines() {
        assert_eq!(
            lines("a: 1\nb: 2\na: 3\n"),
            [("a".to_owned(), 1), ("b".to_owned(), 2), ("a".to_owned(), 3)]
        );
    }

    #[test]
    fn values_keep_their_type() {
        let node = read("[1, -1, 1.5, true, null, x, '1']").expect("valid YAML");
        let YamlValue::List(items) = node.value else { panic!("a list") };
        let kinds: Vec<_> = items.iter().map(|item| item.value.kind()).collect();
        assert_eq!(
            kinds,
            ["a number", "a number", "a number", "true or false", "nothing", "text", "text"]
        );
    }

    #[test]
    fn an_empty_text_is_null_and_a_bad_one_has_a_place() {
        assert!(matches!(read("# only a comment\n").expect("empty").value, YamlValue::Null));
        for (text, line) in [("a: 1\nb: [1\n", 3), ("a: 1\nb: !tag x\n", 2)] {
            let error = read(text).expect_err(text);
            assert_eq!(error.location().map(|place| place.line()), Some(line), "{text:?}: {error}");
        }
    }
}
