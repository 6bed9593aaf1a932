//! Rules that comments cite, and their explanations in `docs/rules.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{read, root};

/// Documents whose rules are cited by section.
const SOURCES: [&str; 4] = ["DESIGN", "PROTOCOL", "RELIABILITY", "ACCESS"];
/// The one whose rules also have a letter and a number, as `RELIABILITY A-8`.
const LETTERED: &str = "RELIABILITY";
/// Families of rules that are cited by number.
const FAMILIES: [&str; 15] = [
    "PIN", "SEAL", "SEL", "NAME", "MAN", "BLOB", "RED", "TAG", "REF", "ERR", "AUTH", "UP", "UPL",
    "WARM", "BUNDLE",
];

/// All Rust files below `folder`.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .expect("a readable folder")
        .map(|entry| entry.expect("a readable entry").path());
    entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// `SEL-1`, `RELIABILITY A-8`, `DESIGN §14.2`, and each of `DESIGN §4.4, §6`.
fn citations(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| c.is_whitespace() || "(),;:`\"…".contains(c));
    // A citation may go on in the next line of a comment.
    let words = words.filter(|word| !["", "//", "///", "//!"].contains(word));
    let mut found = BTreeSet::new();
    let mut source = None;
    for word in words {
        let rule = word.trim_end_matches('.');
        let of_source = |source: &str| {
            let by_letter = source == LETTERED && is_numbered(rule, |family| family.len() == 1);
            (rule.starts_with('§') || by_letter).then(|| format!("{source} {rule}"))
        };
        if let Some(cited) = source.and_then(of_source) {
            found.insert(cited);
            continue;
        }
        source = SOURCES.into_iter().find(|source| *source == word);
        if is_numbered(rule, |family| FAMILIES.contains(&family)) {
            found.insert(rule.to_owned());
        }
    }
    found
}

/// Whether this is a family and a number, as `SEL-1`.
fn is_numbered(rule: &str, is_family: impl Fn(&str) -> bool) -> bool {
    rule.split_once('-').is_some_and(|(family, number)| {
        is_family(family) && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    })
}

#[test]
fn every_cited_rule_is_explained() {
    let rules = read("docs/rules.md");
    let explained: BTreeSet<&str> =
        rules.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()).collect();
    let mut count = 0;
    for path in ["src", "tests"].iter().flat_map(|folder| sources(&root().join(folder))) {
        if path.ends_with("tests/docs/rules.rs") {
            continue;
        }
        for cited in citations(&fs::read_to_string(&path).expect("text")) {
            count += 1;
            assert!(
                explained.contains(cited.as_str()),
                "{}: {cited} is not in docs/rules.md",
                path.display()
            );
        }
    }
    assert!(count > 100, "citations are no longer found: {count}");
}

/// Two lines of work that change one rule are easily joined into two rows.
#[test]
fn no_rule_is_explained_twice() {
    let rules = read("docs/rules.md");
    let rows = rules.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| rule "));
    let mut explained = BTreeSet::new();
    for rule in rows.filter_map(|line| line.strip_prefix("| ")?.split(" | ").next()) {
        assert!(explained.insert(rule), "docs/rules.md explains {rule} twice");
    }
}

#[test]
fn citations_are_found_in_every_form() {
    let text = "(DESIGN §4.4, §6). BLOB-12), SHA-256; RFC 9110 §14.4: UP-2…UP-5. SEL- and SEL-x \
        PROTOCOL §1.9, \"x\" AUTH-7, RELIABILITY §2.1, U-5\n/// A-8. A-9";
    let expected = [
        "AUTH-7",
        "BLOB-12",
        "DESIGN §4.4",
        "DESIGN §6",
        "PROTOCOL §1.9",
        "RELIABILITY A-8",
        "RELIABILITY U-5",
        "RELIABILITY §2.1",
        "UP-2",
        "UP-5",
    ];
    let found = citations(&text.replace("A-8. A-9", "A-8. Then A-9"));
    assert_eq!(found, expected.map(str::to_owned).into());
}
