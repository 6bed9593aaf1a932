//! Where in a document something stands, as people write it.

use std::fmt;

use super::place::quoted;

/// Characters of a path that are shown, the last ones.
const PATH_MAX: usize = 300;

/// The way to a value from the document's root.
pub(super) enum Trail<'t> {
    Root,
    Key(&'t Trail<'t>, &'t str),
    Item(&'t Trail<'t>, usize),
}

impl Trail<'_> {
    /// The path, of a long one the end.
    pub(super) fn shown(&self) -> String {
        let whole = self.to_string();
        match whole.char_indices().rev().nth(PATH_MAX) {
            Some((at, _)) => format!("…{}", &whole[at..]),
            None => whole,
        }
    }

    /// Whether this is an item of a list of one of these names.
    pub(super) fn is_item_of(&self, lists: &[&str]) -> bool {
        matches!(self, Self::Item(Trail::Key(_, key), _) if lists.contains(key))
    }

    /// Whether this is what a volume is made of.
    pub(super) fn is_image_of_volume(&self) -> bool {
        matches!(self, Self::Key(volume, "image") if volume.is_item_of(&["volumes"]))
    }
}

/// `spec.containers[0].image`; other keys than words stand in brackets and quotes.
impl fmt::Display for Trail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(before, key) if is_word(key) => {
                let dot = if matches!(before, Self::Root) { "" } else { "." };
                write!(f, "{before}{dot}{key}")
            }
            Self::Key(before, key) => write!(f, "{before}[{}]", quoted(key)),
            Self::Item(before, nth) => write!(f, "{before}[{nth}]"),
        }
    }
}

fn is_word(key: &str) -> bool {
    (1..=64).contains(&key.len())
        && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
