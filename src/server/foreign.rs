//! What strangers write, as it may stand in a log line: bounded, and without anything that could
//! end the line, hide a part of it, or steer a terminal.

use std::borrow::Cow;

use crate::oci::is_invisible;

/// `text` with its first `max` characters, those that nobody could see replaced. What is short and
/// plain, as nearly everything is, costs no allocation.
pub(super) fn cleaned(text: &str, max: usize) -> Cow<'_, str> {
    if text.len() <= max && text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
    let shown = |c| if is_invisible(c) { char::REPLACEMENT_CHARACTER } else { c };
    let mut cleaned: String = text.chars().take(max).map(shown).collect();
    if text.chars().nth(max).is_some() {
        cleaned.push('…');
    }
    Cow::Owned(cleaned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_short_and_plain_stays_as_it_is() {
        assert!(matches!(
            cleaned("crane/v0.20 (linux)", 200),
            Cow::Borrowed("crane/v0.20 (linux)")
        ));
        assert_eq!(cleaned("Jürgen, digest=…", 200), "Jürgen, digest=…");
    }

    #[test]
    fn what_could_end_a_line_or_hide_a_part_of_it_is_replaced() {
        for hidden in ['\n', '\r', '\0', '\t', '\u{1b}', '\u{7f}', '\u{85}', '\u{2028}', '\u{202e}']
        {
            assert_eq!(cleaned(&format!("a{hidden}b"), 200), "a\u{fffd}b", "{hidden:?}");
        }
    }

    #[test]
    fn what_is_long_is_cut_between_characters() {
        assert_eq!(cleaned("abcdef", 3), "abc…");
        assert_eq!(cleaned("äöüß", 3), "äöü…");
        assert_eq!(cleaned("äöü", 3), "äöü");
    }
}
