//! What a file is, by its content: its name says nothing, and stdin has none.

/// Bytes of a file: some ten thousand pods as JSON.
const INPUT_MAX: usize = 128 << 20;

/// The mark that editors on Windows put before a text, also where files were joined.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A text, and how it is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ListContent<'t> {
    Lines(&'t str),
    Json(&'t str),
    Yaml(&'t str),
}

/// What the bytes of a file are.
///
/// # Errors
/// Why they are none of it.
pub(super) fn of(bytes: &[u8]) -> Result<ListContent<'_>, String> {
    if bytes.len() > INPUT_MAX {
        return Err(format!("is larger than {} MiB", INPUT_MAX >> 20));
    }
    let text = str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        format!("is not UTF-8 text, in line {}", good.matches('\n').count() + 1)
    })?;
    let text = text.trim_start_matches(BYTE_ORDER_MARK);
    let first = text.lines().map(without_comment).find(|line| !line.is_empty()).unwrap_or("");
    if first.starts_with("{{") {
        return Err("is a template; give what `helm template` makes of it".to_owned());
    }
    // An address in brackets may begin a line of a list.
    let is_json = first.starts_with('{')
        || first.starts_with('[') && !first.starts_with("[:") && !is_ipv6(first);
    Ok(if is_json {
        ListContent::Json(text)
    } else if is_yaml(first) {
        ListContent::Yaml(text)
    } else {
        ListContent::Lines(text)
    })
}

/// Whether this is a host as `[fd00::1]:5000/…`.
fn is_ipv6(line: &str) -> bool {
    let inside = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    inside.is_some_and(|(address, _)| address.parse::<std::net::Ipv6Addr>().is_ok())
}

/// A line of a list has no colon at the end of a word, and no indicator of YAML before its image.
fn is_yaml(line: &str) -> bool {
    let begins = ["---", "- ", "%", "? ", "\"", "'", "!", "&", "<<"];
    line == "-"
        || begins.iter().any(|begin| line.starts_with(begin))
        || line.ends_with(':')
        || line.contains(": ")
        || line.contains(":\t")
}

/// A line of a list without its end, which a `#` begins that no word holds.
pub(super) fn without_comment(line: &str) -> &str {
    let line = line.trim_start_matches(BYTE_ORDER_MARK);
    let mut before = ' ';
    let comment = line.char_indices().find(|(_, c)| {
        let begins = *c == '#' && before.is_whitespace();
        before = *c;
        begins
    });
    comment.map_or(line, |(at, _)| &line[..at]).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides_what_is_read() {
        for lines in [
            "",
            "\n# a: b\n\n",
            "nginx",
            "a:1\nb: c",
            "[::1]:5000/a",
            "[fd00::1]/a:1",
            "\u{feff}nginx # a: b",
        ] {
            assert!(matches!(of(lines.as_bytes()), Ok(ListContent::Lines(_))), "{lines}");
        }
        for yaml in [
            "---\n",
            "# c\napiVersion: v1",
            "services:\n",
            "\u{feff}a: b",
            "- image: x",
            "%YAML 1.2\n---\n",
            "\"a\": b",
        ] {
            assert!(matches!(of(yaml.as_bytes()), Ok(ListContent::Yaml(_))), "{yaml}");
        }
        for json in ["{}", "\n [1]", "[{", "\u{feff}{\"a\": 1}", "[]"] {
            assert!(matches!(of(json.as_bytes()), Ok(ListContent::Json(_))), "{json}");
        }
    }

    #[test]
    fn what_is_no_text_or_no_list_yet_is_refused() {
        for (bytes, told) in [
            (&b"nginx\n\xff\xfe"[..], "not UTF-8 text, in line 2"),
            (b"{{- if .Values.x }}\nkind: Pod\n", "`helm template`"),
            (&vec![b'a'; INPUT_MAX + 1], "larger than 128 MiB"),
        ] {
            let error = of(bytes).expect_err(told);
            assert!(error.contains(told), "{error}");
        }
    }

    #[test]
    fn a_comment_begins_a_line_or_follows_a_space() {
        for (line, kept) in [
            ("# a", ""),
            ("a # b", "a"),
            ("a\t#b", "a"),
            ("a#b", "a#b"),
            (" a  ", "a"),
            ("a\r", "a"),
        ] {
            assert_eq!(without_comment(line), kept, "{line:?}");
        }
    }
}
